"""Pictures of a point on the plane, for environments without a physics engine."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

FINE = 3  # drawn this many times larger, then reduced: smooth lines
BACKGROUND, FIELD, GRID, AXIS = (226, 230, 235), (246, 247, 249), (223, 227, 232), (196, 202, 210)
TRAIL_OLD, TRAIL_NEW, POINT, GOAL = (193, 213, 240), (46, 108, 196), (235, 110, 30), (38, 166, 91)


def paint_plane(
    position: np.ndarray, goal: np.ndarray | None, trail: np.ndarray, extent: float | int, width: int, height: int
) -> np.ndarray:
    """A (height, width, 3) uint8 picture of a point, its goal and the way it came; x goes right, y goes up.

    Args:
        position: (2,).
        goal: (2,), or None where there is none.
        trail: (n, 2) earlier positions, oldest first; n may be 0.
        extent: the square from -extent to +extent is shown whole, whatever the picture's proportions. A goal outside
            of it is drawn on its border, a position or trail outside may leave the picture.
    """
    image = Image.new("RGB", (width * FINE, height * FINE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    scale = 0.47 * min(image.size) / extent
    unit = min(image.size) / 100.0
    center = np.array(image.size) / 2.0

    def pixel(point: np.ndarray) -> tuple[float, float]:
        x, y = center + np.asarray(point, float) * (scale, -scale)
        return float(x), float(y)

    def disc(point: np.ndarray, radius: float, **style: object) -> None:
        x, y = pixel(point)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), **style)  # pyright: ignore

    corner = np.array([extent, extent])
    (left, low), (right, top) = pixel(-corner), pixel(corner)
    draw.rectangle((left, top, right, low), FIELD)
    for line in _grid_lines(extent):
        colour = AXIS if line == 0.0 else GRID
        draw.line([pixel(np.array([line, -extent])), pixel(np.array([line, extent]))], colour, round(0.3 * unit))
        draw.line([pixel(np.array([-extent, line])), pixel(np.array([extent, line]))], colour, round(0.3 * unit))
    if goal is not None:
        shown = np.clip(goal, -extent, extent)
        disc(shown, 3.2 * unit, outline=GOAL, width=round(0.7 * unit))
        disc(shown, 1.3 * unit, fill=GOAL)
    way = np.concatenate([np.reshape(trail, (-1, 2)), np.reshape(position, (1, 2))])
    for index in range(len(way) - 1):
        share = (index + 1) / (len(way) - 1)
        colour = tuple(round(old + share * (new - old)) for old, new in zip(TRAIL_OLD, TRAIL_NEW, strict=True))
        draw.line([pixel(way[index]), pixel(way[index + 1])], colour, round(0.8 * unit))
        disc(way[index], 0.7 * unit, fill=colour)
    disc(position, 2.0 * unit, fill=POINT)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)).copy()


def _grid_lines(extent: float | int) -> np.ndarray:
    """Round numbers (n,) from -extent to extent: 1, 2 or 5 times a power of ten apart, at most eleven."""
    rough = 2.0 * extent / 10.0
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    count = int(extent / step + 1e-9)
    return np.arange(-count, count + 1) * step
