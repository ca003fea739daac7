"""Small charts on the page, by viser's uPlot: feedback and success of episodes, what the last action looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from viser import GuiUplotHandle, ViserServer

from metarl.live.session import Played, Session
from metarl.live.telling import Robots, tag

HEIGHT = 150  # pixels
COLOURS = {"blue": "#2563eb", "orange": "#c2410c"}  # one for each robot


class Charts:
    """Feedback and success of each episode; and, if somebody wants it, what the last action looked at."""

    def __init__(self, server: ViserServer, robots: Robots) -> None:
        self._robots = robots
        self._played: list[tuple[Played, ...]] = []
        series = [
            {"stroke": colour, "width": 1.5, "points": {"show": True, "size": 5}} | kind
            for colour in list(COLOURS.values())[: len(robots)]
            for kind in ({"label": "feedback"}, {"label": "success", "scale": "success", "dash": (4, 4)})
        ]
        who = [f"{tag(name)} {colour}" for name, colour in zip(robots, COLOURS, strict=False) if len(robots) > 1]
        told = ", ".join([*who, "dashed: success"])
        self._episodes = _chart(server, f"feedback of each episode ({told})", series)
        attends = any(session.agent.run.policy.attends for session in robots.values())
        hint = "of the last action to all steps in the memory, the mean over heads and layers"
        self.wanted = server.gui.add_checkbox("attention", False, visible=attends, hint=hint)
        line = {"label": "attention", "stroke": COLOURS["blue"], "fill": COLOURS["blue"] + "55", "width": 1}
        self._attention = _chart(server, "attention to each step in the memory (s)", [line])

    def tell(self, drawn: Session) -> None:
        """Bring the charts up to date."""
        played = [tuple(session.episodes) for session in self._robots.values()]
        if played != self._played:
            self._played = played
            if all(played):
                self._episodes.data = _curves(played)
            self._episodes.visible = all(played)
        weights = drawn.attention if self.wanted.value else None
        if weights is not None:
            self._attention.data = (np.arange(len(weights)) * drawn.env.step_period, weights.astype(np.float64))
        self._attention.visible = weights is not None


def _chart(server: ViserServer, title: str, series: list[dict[str, Any]]) -> GuiUplotHandle:
    return server.gui.add_uplot(
        tuple(np.zeros(0) for _ in range(len(series) + 1)),
        ({}, *series),  # pyright: ignore[reportArgumentType]
        title=title,
        scales={"x": {"time": False}, "success": {"range": (-0.05, 1.05)}},
        axes=({"size": 26}, {"size": 44}),
        legend={"show": False},
        height=HEIGHT,
        visible=False,  # viser never finds a scale for a chart that was drawn without data
    )


def _curves(played: list[tuple[Played, ...]]) -> tuple[np.ndarray, ...]:
    """The numbers of the episodes that all have played; for each robot its feedback, and 1 where it succeeded."""
    count = min(map(len, played))
    curves = [np.arange(1.0, count + 1)]
    for episodes in played:
        curves += [np.array([float(getattr(e, name)) for e in episodes[:count]]) for name in ("feedback", "success")]
    return tuple(curves)
