"""An evaluation as a page needs it: its tasks and what was measured on each, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metarl.assembly.opened import Run
from metarl.errors import RunFolderError
from metarl.evaluation.curve import COLUMNS
from metarl.evaluation.statistics import Interval, mean_interval
from metarl.run_folder import one_line

SPLITS = ("test", "ood", "validation", "train")  # in the order in which a page shows them
PAIRED = ("success", "return", "time_to_success")


@dataclass(frozen=True)
class Evaluation:
    """What evaluation/<split>.json holds of M tasks and the P points of the curve."""

    split: str
    content: dict[str, Any]
    tasks: dict[str, np.ndarray]  # name -> (M, d)
    values: dict[str, np.ndarray]  # measure -> (M, P); NaN where a value was not finite

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The entries of the adaptation curve."""
        return self.content["curve"]

    @property
    def episodes(self) -> int:
        """E, the episodes of each task at each point."""
        return int(self.content.get("episodes_per_step", 1))


class Difference(NamedTuple):
    """What one run has more than another on the same M tasks, at the end of its adaptation."""

    split: str
    measure: str
    tasks: int
    interval: Interval


def read_evaluations(run: Run) -> dict[str, Evaluation]:
    """The evaluations of a run that there are, by split.

    Raises:
        RunFolderError: if one is unreadable.
    """
    folders = {split: run.evaluated(split) for split in SPLITS}
    there = [split for split in SPLITS if (folders[split].path / "evaluation" / f"{split}.json").is_file()]
    return {split: read(split, folders[split].read_evaluation(split), folders[split].path) for split in there}


def read(split: str, content: dict[str, Any], place: object) -> Evaluation:
    """The content of an evaluation's file, once it is known to be one.

    Raises:
        RunFolderError: if it is not.
    """
    try:
        rows, points = content["per_task"], len(content["curve"])
        measures = [name for name in COLUMNS if name in rows[0]]
        tasks = {name: np.array([row["task"][name] for row in rows], float) for name in rows[0]["task"]}
        values = {name: np.array([row[name] for row in rows], float) for name in measures}
        told = [entry[name] for entry in content["curve"] for name in measures]
        means = [float(number) for each in told for number in (each["mean"], *each["ci95"])]
        if not {"success", "return"} <= values.keys() or any(v.shape != (len(rows), points) for v in values.values()):
            raise ValueError(f"success and return of {len(rows)} tasks at {points} points are not all there")
        if not np.isfinite([*means, *values["success"].ravel()]).all():
            raise ValueError("a mean or a success in it is not a number")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise RunFolderError(f"{place}/evaluation/{split}.json is not an evaluation of this code: {reason}") from None
    return Evaluation(split, content, tasks, values)


def same_tasks(one: Evaluation, other: Evaluation) -> int:
    """How many tasks two evaluations share: those at the beginning of both lists, or none."""
    count = min(len(values) for evaluation in (one, other) for values in evaluation.tasks.values())
    if one.tasks.keys() != other.tasks.keys():
        return 0
    pairs = [(values[:count], other.tasks[name][:count]) for name, values in one.tasks.items()]
    return count if all(a.shape == b.shape and np.allclose(a, b, atol=1e-5) for a, b in pairs) else 0


def differences(one: Evaluation, other: Evaluation) -> list[Difference]:
    """How much more `other` has than `one` of each measure at the end of the adaptation, paired by task."""
    count = same_tasks(one, other)
    found = []
    for measure in PAIRED if count else ():
        if measure in one.values and measure in other.values:
            more = other.values[measure][:count, -1] - one.values[measure][:count, -1]
            if np.isfinite(more).all():
                found.append(Difference(one.split, measure, count, mean_interval(more, bounded=False)))
    return found


def ranked(evaluations: Sequence[Evaluation]) -> list[int]:
    """The tasks that all evaluations share, the best first: by success, then time, then return, averaged over all.

    Each of them is that at the end of the adaptation.
    """
    count = min((same_tasks(evaluations[0], other) for other in evaluations), default=0)

    def last(measure: str) -> np.ndarray:
        values = [e.values[measure][:count, -1] for e in evaluations if measure in e.values]
        return np.nan_to_num(np.mean(values, 0)) if len(values) == len(evaluations) else np.zeros(count)

    order = np.lexsort((-last("return"), last("time_to_success"), -last("success").round(9)))
    return order.tolist()
