"""Where in task space a policy fails: success over each hidden parameter, within and beyond the training values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from envs.adapters.gymnasium_tasks import NumberedTasks
from envs.core.tasks import CELLS, Categories, Range, TaskDistribution
from metarl.evaluation.statistics import success_interval
from metarl.pages.charts import INK, LEVELS, SERIES, SHADE, svg
from metarl.pages.evaluations import Evaluation

SHOWN = 9  # parameters that are drawn, those on which success depends most
FEWEST = 10  # tasks, below which nothing is said
LARGEST = 7  # numbers of a parameter that are drawn one by one
MAPPED = (2, 3)  # sizes of the parameters of which there is a map


@dataclass(frozen=True)
class Axis:
    """One number of a task: a component of a parameter, or a category."""

    parameter: str
    component: int
    title: str
    low: float  # of the training range; of a category the bounds of its number
    high: float
    names: tuple[str, ...] = ()  # of categories

    def of(self, evaluation: Evaluation) -> np.ndarray:
        """Its values, (M,)."""
        return evaluation.tasks[self.parameter][:, self.component]

    def beyond(self, values: np.ndarray) -> np.ndarray:
        """Which values lie beyond those of training, (M,) bool."""
        slack = 1e-5 * max(1.0, abs(self.low), abs(self.high))
        return (values < self.low - slack) | (values > self.high + slack)


class Bin(NamedTuple):
    """Neighbouring tasks: the middle of their values, their success and its 95% interval."""

    place: float
    tasks: int
    success: float
    low: float
    high: float


def axes_of(distribution: TaskDistribution) -> list[Axis]:
    """Every number of a task that varies, without those of large parameters; none where tasks are numbered objects."""
    if isinstance(distribution, NumberedTasks):
        return []
    small = {name: parameter for name, parameter in distribution.parameters.items() if parameter.size <= LARGEST}
    return [axis for name, parameter in small.items() for axis in _components(name, parameter)]


def large(distribution: TaskDistribution) -> list[str]:
    """The parameters that are too many numbers to be drawn."""
    return [name for name, parameter in distribution.parameters.items() if parameter.size > LARGEST]


def _components(name: str, parameter: Range | Categories) -> list[Axis]:
    if isinstance(parameter, Categories):
        return [Axis(name, 0, name, 0.0, len(parameter.values) - 1.0, parameter.names)]
    unit = "" if parameter.unit == "1" else f" ({parameter.unit})"
    bounds = list(enumerate(zip(parameter.low, parameter.high, strict=True)))
    titles = [name if len(bounds) == 1 else f"{name}[{i}]" for i, _ in bounds]
    moves = [low < high or any(a[i] != b[i] or a[i] != low for a, b in parameter.ood) for i, (low, high) in bounds]
    return [Axis(name, i, f"{titles[i]}{unit}", low, high) for i, (low, high) in bounds if moves[i]]


def bins(axis: Axis, evaluation: Evaluation) -> list[Bin]:
    """The tasks of an evaluation in groups by one number: each category, or each fifth of the training range.

    What lies beyond the training range is a group on either side. Success is that at the end of the adaptation.
    """
    values, success = axis.of(evaluation), evaluation.values["success"][:, -1]
    if axis.names:
        group = values.round()
    else:
        width = (axis.high - axis.low) or 1.0
        inside = np.floor((values - axis.low) / width * CELLS).clip(0, CELLS - 1)
        group = np.where(axis.beyond(values), np.where(values < axis.low, -1, CELLS), inside)
    found = []
    for number in np.unique(group):
        chosen = group == number
        rates = success[chosen].clip(0.0, 1.0)
        low, high = success_interval(rates, episodes=evaluation.episodes)
        mean = float(rates.mean())  # which rounding can put outside of the interval
        found.append(Bin(float(values[chosen].mean()), len(rates), mean, min(low, mean), max(high, mean)))
    return found


def dependence(axis: Axis, evaluation: Evaluation) -> float:
    """The share of the variance of success between tasks that groups of this number explain, minus that of chance."""
    groups, success = bins(axis, evaluation), evaluation.values["success"][:, -1]
    total = float(success.var()) * len(success)
    between = sum(group.tasks * (group.success - success.mean()) ** 2 for group in groups)
    chance = (len(groups) - 1) / max(len(success) - 1, 1)
    return between / total - chance if total > 0 else 0.0


def most_telling(axes: Sequence[Axis], evaluations: Sequence[Evaluation]) -> list[Axis]:
    """The axes, those first on which success depends most in any of the evaluations."""
    told = [e for e in evaluations if len(e.values["success"]) >= FEWEST]
    return sorted(axes, key=lambda axis: -max((dependence(axis, e) for e in told), default=0.0))


def chart(axis: Axis, runs: Mapping[str, Sequence[Evaluation]]) -> Markup:
    """Success over one number, for the evaluations of each run by its label; what is beyond training is shaded.

    Of each evaluation with tasks beyond the training values, only those are drawn that have this number there.
    """

    def draw(axes: Any) -> None:
        reach = [axis.low, axis.high]
        for number, (label, evaluations) in enumerate(runs.items()):
            for evaluation in evaluations:
                outside = evaluation.split == "ood"
                groups = [b for b in bins(axis, evaluation) if bool(axis.beyond(np.array([b.place]))[0]) == outside]
                _draw(axes, groups, SERIES[number % len(SERIES)], "" if outside or len(runs) == 1 else label, outside)
                reach += [group.place for group in groups]
        margin = 0.5 if axis.names else 0.05 * ((max(reach) - min(reach)) or 1.0)
        left, right = min(reach) - margin, max(reach) + margin
        slack = 0.5 if axis.names else 0.0
        axes.axvspan(left, axis.low - slack, color=SHADE, linewidth=0)
        axes.axvspan(axis.high + slack, right, color=SHADE, linewidth=0)
        axes.set_xlim(left, right)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(axis.title)
        axes.set_ylabel("success")
        axes.grid(axis="y", linewidth=0.6)
        axes.locator_params(axis="x", nbins=6)
        if axis.names:
            axes.set_xticks(range(len(axis.names)), axis.names, rotation=20 if len(axis.names) > 4 else 0)
        if len(runs) > 1:
            axes.legend(fontsize=8)

    return svg(draw, f"success over {axis.title}")


def _draw(axes: Any, groups: Sequence[Bin], colour: str, label: str, hollow: bool) -> None:
    error = [[g.success - g.low for g in groups], [g.high - g.success for g in groups]]
    places, rates = [g.place for g in groups], [g.success for g in groups]
    style = {"marker": "o", "linestyle": "none" if hollow else "-", "markerfacecolor": "none" if hollow else colour}
    axes.errorbar(places, rates, yerr=error, color=colour, label=label or None, capsize=3, linewidth=1.2, **style)


def maps(distribution: TaskDistribution, evaluations: Sequence[Evaluation]) -> list[Markup]:
    """A map for each parameter of two or three numbers: its tasks as dots, from failure to success.

    Of three numbers the two that vary most are drawn; the line is the border of the training values.
    """
    axes = axes_of(distribution)
    found = []
    for name, parameter in distribution.parameters.items():
        own = [axis for axis in axes if axis.parameter == name]
        if isinstance(parameter, Range) and parameter.size in MAPPED and len(own) >= 2:
            x, y = max(
                combinations(own, 2), key=lambda pair: (pair[0].high - pair[0].low) * (pair[1].high - pair[1].low)
            )
            found.append(_map(name, x, y, evaluations))
    return found


def _map(name: str, x: Axis, y: Axis, evaluations: Sequence[Evaluation]) -> Markup:
    def draw(axes: Any) -> None:
        for evaluation in evaluations:
            success = evaluation.values["success"][:, -1]
            level = (success * len(LEVELS)).astype(int).clip(0, len(LEVELS) - 1)
            for number, colour in enumerate(LEVELS):
                chosen = level == number
                marker = "D" if evaluation.split == "ood" else "o"
                places = x.of(evaluation)[chosen], y.of(evaluation)[chosen]
                axes.plot(*places, marker, markersize=4, color=colour, markeredgecolor="none", linestyle="none")
        corners = [x.low, x.high, x.high, x.low, x.low], [y.low, y.low, y.high, y.high, y.low]
        axes.plot(*corners, color=INK, linewidth=0.8)
        axes.set_xlabel(x.title)
        axes.set_ylabel(y.title)
        axes.grid(linewidth=0.6)

    return svg(draw, f"success over {name}")
