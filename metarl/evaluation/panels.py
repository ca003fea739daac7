"""Episodes beside each other in one film: a panel for each, with what the robot felt and when it succeeded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np

from envs.core.environment import Drawer
from metarl.evaluation.video import Colour, caption, grid, lamp

HOLD_SECONDS = 1.0  # how long the last picture stays, so that an endless loop has an end
BAND = (20, 24, 32)  # colour of what stands above the pictures, so that no text hides anything
OFF, FELT, SUCCESS = COLOURS = (70, 74, 82), (255, 196, 0), (40, 210, 90)
LIGHTS = {True: "light: yellow is feedback, green is success", False: "light: green is success"}
WIDE = 2  # panels beside each other that have their full size


@dataclass(frozen=True)
class Moment:
    """One picture's worth of an episode."""

    state: dict[str, np.ndarray]
    seconds: float
    reward: float
    feedback: float
    success: bool


@dataclass(frozen=True)
class Panel:
    """An episode to show, and how many episodes of the task came before it."""

    title: str
    seen: int
    moments: Sequence[Moment]


def panel_size(width: int, height: int, columns: int) -> tuple[int, int]:
    """Width and height, even, of a panel in one of several columns: no film is wider than two panels of `width`."""
    scale = min(1.0, WIDE / columns)
    return max(int(width * scale) // 2 * 2, 16), max(int(height * scale) // 2 * 2, 16)


def film(
    rows: Sequence[Sequence[tuple[Panel, Drawer]]], heading: str, fps: float, sparse: bool, every: int = 1
) -> Iterator[np.ndarray]:
    """The pictures of all panels as they run side by side; one that is over stays at its last moment.

    Args:
        rows: of panels, equally long, each with what draws it.
        heading: a line above them all.
        fps: at which the pictures will be shown; it says how many the last one stays.
        sparse: whether the feedback tells of success alone, and not the reward: a light then shows it.
        every: of so many moments one is drawn, and the last.
    """
    panels = [panel for row in rows for panel, _ in row]
    length = max(-(-(len(panel.moments) - 1) // every) + 1 for panel in panels) + round(HOLD_SECONDS * fps)
    columns = len(rows[0])
    films = [held(pictures(panel, drawer, sparse, every)) for row in rows for panel, drawer in row]
    for shown in islice(zip(*films, strict=True), length):
        picture = grid([shown[start : start + columns] for start in range(0, len(shown), columns)])
        size = max(picture.shape[1] // 60, 10)
        band = caption(_blank(2 * size, picture.shape[1]), [f"{heading}     {LIGHTS[sparse]}"], size)
        yield np.concatenate([band, picture])


def held(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures, and then the last one for ever."""
    last = None
    for last in pictures:
        yield last
    yield from () if last is None else repeat(last)


def pictures(panel: Panel, drawer: Drawer, sparse: bool, every: int = 1) -> Iterator[np.ndarray]:
    """The pictures of one panel, with its title, what came before, the sums so far and the first success above."""
    reward = feedback = 0.0
    success: float | None = None
    for number, moment in enumerate(panel.moments):
        reward, feedback = reward + moment.reward, feedback + moment.feedback
        success = moment.seconds if success is None and moment.success else success
        if number % every and moment is not panel.moments[-1]:
            continue
        lines = [
            f"episodes seen before: {panel.seen}",
            f"return {reward:+.1f}" + (f"   feedback {feedback:+.1f}" if sparse else ""),
            f"{moment.seconds:.1f} s" + ("" if success is None else f"   success after {success:.1f} s"),
        ]
        colour = SUCCESS if moment.success else FELT if sparse and moment.feedback > 0 else OFF
        picture = drawer(moment.state)
        yield np.concatenate([_header(panel.title, lines, colour, *picture.shape[:2]), picture])


def _header(title: str, lines: list[str], colour: Colour, height: int, width: int) -> np.ndarray:
    """What stands above a picture (height, width, 3): title and lines at the left, the light at the right."""
    upper, lower, right = height // 9, height // 4, min(height // 9 + height // 4, width // 3)
    words = [
        caption(_blank(upper, width - right), [title], 2 * upper // 3 + 1),
        caption(_blank(lower, width - right), lines, 2 * lower // 9 + 1),
    ]
    return np.concatenate([np.concatenate(words), lamp(_blank(upper + lower, right), colour)], 1)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BAND, np.uint8)
