"""The picture of an adaptation curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

PANELS = {"success": "success at the end of the episode", "return": "return"}
WIDE = 100  # more episodes than this need a logarithmic axis


def curve_png(evaluation: Mapping[str, Any]) -> bytes:
    """Success and return against the episodes of the task seen so far, with 95% intervals over tasks, as a PNG file."""
    title = f"{evaluation['env']}, {evaluation['algo']}: {evaluation['tasks']} tasks of split '{evaluation['split']}'"
    return curves_png({"": evaluation["curve"]}, title)


def curves_png(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> bytes:
    """Several adaptation curves in one picture, as a PNG file.

    Args:
        curves: entries by label, each entry with `episodes` and, for each panel, `mean` and `ci95`; a lone curve
            without a label needs no legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only needed here
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4 if len(curves) == 1 else 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    seen = sorted({entry["episodes"] for entries in curves.values() for entry in entries})
    wide = seen[-1] > WIDE
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for number, (title_of_curve, entries) in enumerate(curves.items()):
            _draw(axes, entries, name, title_of_curve, f"C{number}")
        axes.set_xlabel("episodes of the task seen before")
        axes.set_ylabel(label)
        if wide:  # 0, 10 and 1000 in one picture
            axes.set_xscale("symlog", linthresh=10)
        axes.set_xticks(seen, [str(count) for count in seen])
        axes.grid(alpha=0.3)
        if name == "success":
            axes.set_ylim(-0.02, 1.02)
    if len(curves) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(axes: Any, entries: Sequence[Mapping[str, Any]], name: str, label: str, colour: str) -> None:
    """One curve; a single point gets a dashed line, to compare the others with."""
    means = [entry[name]["mean"] for entry in entries]
    below = [mean - entry[name]["ci95"][0] for mean, entry in zip(means, entries, strict=True)]
    above = [entry[name]["ci95"][1] - mean for mean, entry in zip(means, entries, strict=True)]
    seen = [entry["episodes"] for entry in entries]
    axes.errorbar(seen, means, yerr=[below, above], marker="o", capsize=4, label=label, color=colour)
    if len(entries) == 1:
        axes.axhline(means[0], linestyle="--", linewidth=1, color=colour)
