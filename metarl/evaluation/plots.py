"""The picture of an adaptation curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

PANELS = {
    "success": "success at the end of the episode",
    "return": "return",
    "time_to_success": "time to success (s)",
}
AXES = {"episode": "episode of the trial", "episodes": "episodes of the task seen before"}
WIDE = 100  # more episodes than this need a logarithmic axis

Entries = Sequence[Mapping[str, Any]]


def curve_png(evaluation: Mapping[str, Any]) -> bytes:
    """An evaluation's curve with 95% intervals over tasks, as a PNG file; see `curves_png`."""
    title = f"{evaluation['env']}, {evaluation['algo']}: {evaluation['tasks']} tasks of split '{evaluation['split']}'"
    return curves_png({"": evaluation["curve"]}, title)


def curves_png(curves: Mapping[str, Entries], title: str) -> bytes:
    """Several adaptation curves in one picture, as a PNG file.

    A panel for success, for return and for time to success, as far as there are such. If all curves are of trials or
    single points, the axis is the episode of the trial, and each gradient step has a line of its own; else it is the
    episodes seen so far.

    Args:
        curves: entries by label, each entry with `episodes` (of a trial also `step` and `episode`) and, for each
            panel, `mean` and `ci95`; a lone curve without a label needs no legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only needed here
    from matplotlib.figure import Figure

    entries = [entry for curve in curves.values() for entry in curve]
    axis = "episode" if of_trials(list(curves.values())) else "episodes"
    lines = by_step(curves) if axis == "episode" else dict(curves)
    panels = {name: label for name, label in PANELS.items() if any(name in entry for entry in entries)}
    figure = Figure(figsize=(4.5 * len(panels), 3.4 if len(lines) == 1 else 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(panels)), panels, strict=True):
        draw_panel(axes, lines, axis, name)
    if len(lines) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def draw_panel(axes: Any, lines: Mapping[str, Entries], axis: str, name: str) -> None:
    """One measure of some curves, by label, in matplotlib's axes, over `axis`: "episode" or "episodes"."""
    for number, (label, line) in enumerate(lines.items()):
        if all(name in entry for entry in line):  # an older evaluation lacks the time
            _draw(axes, line, axis, name, label, f"C{number}")
    seen = sorted({entry.get(axis, 1) for line in lines.values() for entry in line})
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel(PANELS[name])
    if seen[-1] > WIDE:  # 0, 10 and 1000 in one picture
        axes.set_xscale("symlog", linthresh=10)
    axes.set_xticks(seen, [str(count) for count in seen])
    axes.grid(alpha=0.3)
    if name == "success":
        axes.set_ylim(-0.02, 1.02)
    if name == "time_to_success":
        axes.set_ylim(bottom=0.0)


def of_trials(curves: Sequence[Entries]) -> bool:
    """Whether some of the curves are of trials, and the others single points, which stand at episode 1."""
    trials = [all("episode" in entry for entry in curve) for curve in curves]
    return any(trials) and all(trial or len(curve) == 1 for trial, curve in zip(trials, curves, strict=True))


def by_step(curves: Mapping[str, Entries]) -> dict[str, list[Mapping[str, Any]]]:
    """The same entries, with a line for each curve and gradient step; the label of a curve's only step stays."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for label, entries in curves.items():
        steps = sorted({entry["step"] for entry in entries})
        for step in steps:
            words = f"{step} gradient step{'' if step == 1 else 's'}"
            name = label if len(steps) == 1 else ", ".join(filter(None, (label, words)))
            lines[name] = [entry for entry in entries if entry["step"] == step]
    return lines


def _draw(axes: Any, entries: Entries, axis: str, name: str, label: str, colour: str) -> None:
    """One line; a single point gets a dashed line, to compare the others with."""
    means = [entry[name]["mean"] for entry in entries]
    below = [mean - entry[name]["ci95"][0] for mean, entry in zip(means, entries, strict=True)]
    above = [entry[name]["ci95"][1] - mean for mean, entry in zip(means, entries, strict=True)]
    seen = [entry.get(axis, 1) for entry in entries]
    axes.errorbar(seen, means, yerr=[below, above], marker="o", capsize=4, label=label, color=colour)
    if len(entries) == 1:
        axes.axhline(means[0], linestyle="--", linewidth=1, color=colour)
