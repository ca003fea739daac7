"""Charts as SVG to stand in a page: they take their colours from its style sheet, and so suit its dark form too."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from metarl.evaluation.plots import AXES, PANELS, Entries, by_step, draw_panel, of_trials

INK, GRID, SHADE = "#000001", "#000002", "#000003"
SERIES = tuple(f"#00010{number}" for number in range(1, 7))  # by which matplotlib's C0, C1, ... are known here
LEVELS = tuple(f"#00020{number}" for number in range(5))  # from failure to success
VARIABLES = {INK: "ink", GRID: "grid", SHADE: "shade"}
VARIABLES |= {colour: f"c{number}" for number, colour in enumerate(SERIES, 1)}
VARIABLES |= {colour: f"level{number}" for number, colour in enumerate(LEVELS)}
POINTS = 80  # of a learning curve, each a mean over some iterations

Curve = tuple[np.ndarray, np.ndarray]


def svg(draw: Callable[[Any], None], label: str, size: tuple[float, float] = (4.2, 2.8)) -> Markup:
    """What `draw` draws in matplotlib's axes, as an SVG element that fills the width that it is given.

    Args:
        label: what the chart shows, for those who cannot see it.
        size: in inches, in which letters are 9 points high.
    """
    import matplotlib  # slow to import, and only needed here
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inks, INK) | {
        "axes.prop_cycle": matplotlib.cycler(color=SERIES),
        "axes.facecolor": "none",
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 9,
        "figure.facecolor": "none",
        "font.size": 9,
        "grid.color": GRID,
        "legend.frameon": False,
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "metarl",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        # Fixed margins: a layout that is searched for takes three times as long.
        figure.subplots_adjust(left=0.15, right=0.97, bottom=0.17, top=0.9)
        draw(figure.subplots())
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[a-z]+[0-9.]*_\d+"', "", text)  # the same in every chart, and nobody refers to them
    head = f'<svg viewBox="0 0 {72 * size[0]:g} {72 * size[1]:g}" role="img" aria-label="{escape(label)}">'
    text = re.sub(r"<svg [^>]*>", lambda _: head, text, count=1)
    text = re.sub("#[0-9a-f]{6}", lambda found: f"var(--{VARIABLES.get(found[0], 'ink')})", text)
    return Markup(text)


def adaptation_charts(curves: Mapping[str, Entries]) -> list[Markup]:
    """A chart for each measure of some adaptation curves, by label; of single points there is nothing to draw."""
    entries = list(chain.from_iterable(curves.values()))
    axis = "episode" if of_trials(list(curves.values())) else "episodes"
    lines = by_step(curves) if axis == "episode" else dict(curves)
    if len({entry.get(axis, 1) for entry in entries}) < 2:
        return []
    shown = [name for name in PANELS if any(name in entry for entry in entries)]

    def draw(axes: Any, name: str) -> None:
        draw_panel(axes, lines, axis, name)
        if any(lines):  # the line of a lone run has no name
            axes.legend(fontsize=8)

    return [svg(lambda axes, name=name: draw(axes, name), f"{PANELS[name]} by {AXES[axis]}") for name in shown]


def condensed(rows: Sequence[Mapping[str, float]], name: str) -> Curve:
    """Millions of environment steps and a metric, (n,) each, with n at most `POINTS`: neighbours are averaged."""
    found = [(row["env_steps"], row[name]) for row in rows if "env_steps" in row and name in row]
    table = np.array([pair for pair in found if np.isfinite(pair).all()], float).reshape(-1, 2)
    parts = [part.mean(0) for part in np.array_split(table, min(POINTS, max(len(table), 1))) if len(part)]
    steps, values = np.array(parts).reshape(-1, 2).T
    return steps / 1e6, values


def learning_chart(
    curves: Mapping[str, Curve], label: str, marks: Mapping[str, float] | None = None, rate: bool = False
) -> Markup:
    """Metrics over environment steps.

    Args:
        curves: by label.
        marks: where the phases of the run begin, in millions of steps, by name.
        rate: the values lie between 0 and 1.
    """

    def draw(axes: Any) -> None:
        for name, (steps, values) in curves.items():
            axes.plot(steps, values, label=name, linewidth=1.4)
        for name, place in (marks or {}).items():
            axes.axvline(place, color=INK, linewidth=0.8, linestyle=":")
            axes.annotate(name, (place, 1.0), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
        axes.set_xlabel("million environment steps")
        axes.set_ylabel(label)
        axes.grid(alpha=1.0, linewidth=0.6)
        if rate:
            axes.set_ylim(-0.02, 1.02)
        if len(curves) > 1:
            axes.legend(fontsize=8)

    return svg(draw, f"{label} in training")
