"""How a training iteration grows: its time and memory over the simulations, the tokens of an episode, and the width.

In-context training on reach, one axis at a time. The exponent of a figure is the slope of its logarithm over that of
the axis, from the middle of the axis on: the first points are mostly what does not grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from experiments.bench.measure import Row, Target, summary
from experiments.bench.trained import trained

GROUP = "growth"
TRAIN = ("env=reach", "algo=in_context", "seed=0", "device=cpu", "checkpoint.every=1000")
TRAIN += ("evaluate.tasks=1", "evaluate.steps=0", "evaluate.episodes_per_step=1")
FIGURES = {"rollout": "s", "update": "s", "peak": "GiB"}
ROUNDED = 0.15  # an exponent may be so much above what it should be
# Of each axis: its settings, its points, what the others are, and what the exponents should be at most. A step of the
# physics is as long whatever comes before it, but it looks at all earlier tokens, and a product of matrices grows with
# the square of their width.
AXES = {
    "simulations": ("algo.tasks", (64, 256, 1024, 4096), (), {"rollout": 1, "update": 1, "peak": 1}),
    "tokens": ("env.horizon", (50, 200, 500, 1000), ("algo.tasks=64",), {"rollout": 2, "update": 2, "peak": 2}),
    "width": ("agent.width", (32, 64, 128, 256), ("algo.tasks=64",), {"rollout": 2, "update": 2, "peak": 1}),
}
QUICK = 2  # points of an axis


def growth(quick: bool) -> list[Row]:
    """Every axis: a row for each exponent, which tells the points."""
    rows = []
    for axis, (setting, points, others, expected) in AXES.items():
        chosen = points[:QUICK] if quick else points
        small = ("budget.iterations=1", "env.horizon=10") if quick else ("budget.iterations=3",)
        # The axis' own setting comes last, so that it holds.
        found = [asdict(trained([*TRAIN, *others, *small, f"{setting}={point}"])) for point in chosen]
        for figure, unit in FIGURES.items():
            values = [each[figure] for each in found]
            rows.append(_row(axis, figure, unit, dict(zip(chosen, values, strict=True)), expected[figure]))
    return rows


def exponent(points: Mapping[int, float]) -> float:
    """The slope of log value over log point, by least squares, from the middle of the points on.

    Args:
        points: value by point, ascending.
    """
    later = list(points.items())[(len(points) - 1) // 2 :]
    x, y = np.log(np.array(later, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def draw(rows: Sequence[Row], path: Path) -> None:
    """A picture of the points of the rows of this group, a panel for each axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only needed here
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(AXES), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(AXES), sharey=True)
    panels[0].set_ylabel("seconds; GiB")
    for panel, axis in zip(panels, AXES, strict=True):
        for row in rows:
            if row.group == GROUP and row.name.endswith(f"over {axis}"):
                points = _points(row.detail)
                name = row.name.partition(" over ")[0]
                panel.loglog(list(points), list(points.values()), "o-", label=f"{name}, ~ {row.value:.1f}")
                panel.set_xticks(list(points), [f"{point}" for point in points], minor=False)
        panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        panel.set_xlabel(axis)
        panel.set_yticks([0.1, 1.0, 10.0], ["0.1", "1", "10"])
        panel.legend(fontsize="small")
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _row(axis: str, figure: str, unit: str, points: Mapping[int, float], expected: int) -> Row:
    detail = ", ".join(f"{point}: {value:.3g} {unit}" for point, value in points.items())
    target = Target("<=", expected + ROUNDED)
    return summary(GROUP, f"{figure} over {axis}", [exponent(points)], "exponent", target, detail)


def _points(detail: str) -> dict[int, float]:
    pairs = (each.split(": ") for each in detail.split(", "))
    return {int(point): float(value.split()[0]) for point, value in pairs}


MEASUREMENTS = (growth,)
