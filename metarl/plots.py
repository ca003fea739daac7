"""The picture of an adaptation curve."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

PANELS = {"success": "success at the end of the episode", "return": "return"}


def curve_png(evaluation: Mapping[str, Any]) -> bytes:
    """Success and return against the episodes of the task seen so far, with 95% intervals over tasks, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and needed here alone
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    entries = evaluation["curve"]
    seen = [entry["episodes"] for entry in entries]
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        means = [entry[name]["mean"] for entry in entries]
        below = [mean - entry[name]["ci95"][0] for mean, entry in zip(means, entries, strict=True)]
        above = [entry[name]["ci95"][1] - mean for mean, entry in zip(means, entries, strict=True)]
        axes.errorbar(seen, means, yerr=[below, above], marker="o", capsize=4)
        axes.set_xlabel("episodes of the task seen before")
        axes.set_ylabel(label)
        axes.set_xticks(seen)
        axes.grid(alpha=0.3)
        if name == "success":
            axes.set_ylim(-0.02, 1.02)
    figure.suptitle(
        f"{evaluation['env']}, {evaluation['algo']}: {evaluation['tasks']} tasks of split '{evaluation['split']}'"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
