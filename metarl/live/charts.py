"""Small charts on the page, by viser's uPlot: feedback and success of episodes, what the last action looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from viser import GuiUplotHandle, ViserServer

from metarl.live.session import Played, Session
from metarl.live.telling import Robots, tag

HEIGHT = 150  # pixels
COLOURS = {"blue": "#2563eb", "orange": "#c2410c"}  # one for each robot
SUCCESS = "#16a34a"
DOTS = {"show": True, "size": 9, "fill": SUCCESS}


class Charts:
    """Feedback and success of each episode; and, if somebody wants it, what the last action looked at."""

    def __init__(self, server: ViserServer, robots: Robots) -> None:
        self._robots = robots
        self._played: list[tuple[Played, ...]] = []
        series = [
            each
            for name, colour in zip(robots, COLOURS.values(), strict=False)
            for each in (
                {"label": tag(name), "stroke": colour, "width": 1.5, "points": {"show": True, "size": 5}},
                {"label": "success", "stroke": SUCCESS, "width": 0, "points": DOTS},
            )
        ]
        who = [f"{tag(name)} {colour}" for name, colour in zip(robots, COLOURS, strict=False) if len(robots) > 1]
        told = ", ".join([*who, "success green"])
        self._episodes = _chart(server, f"feedback of each episode ({told})", series)
        attends = any(session.agent.run.policy.attends for session in robots.values())
        hint = "of the last action to all steps in the memory, the mean over heads and layers"
        self.wanted = server.gui.add_checkbox("attention", False, visible=attends, hint=hint)
        line = {"label": "attention", "stroke": COLOURS["blue"], "fill": COLOURS["blue"] + "55", "width": 1}
        self._attention = _chart(server, "attention to each step in the memory (s)", [line], visible=False)

    def tell(self, drawn: Session) -> None:
        """Bring the charts up to date."""
        played = [tuple(session.episodes) for session in self._robots.values()]
        if played != self._played:
            self._played = played
            self._episodes.data = _curves(played)
        weights = drawn.attention if self.wanted.value else None
        if weights is not None:
            self._attention.data = (np.arange(len(weights)) * drawn.env.control_period, weights.astype(np.float64))
        self._attention.visible = weights is not None


def _chart(server: ViserServer, title: str, series: list[dict[str, Any]], visible: bool = True) -> GuiUplotHandle:
    nothing = (np.array([1.0, 2.0]), *(np.full(2, np.nan) for _ in series))
    return server.gui.add_uplot(
        nothing,
        ({}, *series),  # pyright: ignore[reportArgumentType]
        title=title,
        scales={"x": {"time": False}},
        axes=({"size": 26}, {"size": 44}),
        legend={"show": False},
        height=HEIGHT,
        visible=visible,
    )


def _curves(played: list[tuple[Played, ...]]) -> tuple[np.ndarray, ...]:
    """The numbers of the episodes; for each robot its feedback, and that of the episodes that succeeded.

    NaN where there is nothing to draw. There are at least two columns: viser never finds a scale for fewer.
    """
    columns = max(2, *map(len, played))
    curves = [np.arange(1.0, columns + 1)]
    for episodes in played:
        feedback, success = np.full(columns, np.nan), np.full(columns, np.nan)
        feedback[: len(episodes)] = [each.feedback for each in episodes]
        success[: len(episodes)] = [each.feedback if each.success else np.nan for each in episodes]
        curves += [feedback, success]
    return tuple(curves)
