"""Every task's values behind the tables, in one compressed file for each environment.

    from experiments.compare.per_task import read
    read("experiments/results/compare/reach-tasks.json.gz")["in_context"]["0"]["test"]["success"][17]

are the success rates of test task 17 in the run of seed 0, one for each entry of that contender's curve.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.summary import measures

DIGITS = 6  # of each value


def gathered(evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The values of every task: by contender, seed, split and measure, as evaluations have them."""

    def of_run(own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return {split: _by_measure(evaluation["per_task"]) for split, evaluation in own.items()}

    return {name: {seed: of_run(own) for seed, own in seeds.items()} for name, seeds in evaluations.items()}


def packed(values: Mapping[str, Any]) -> bytes:
    """The content of the file; the same values give the same bytes."""
    return gzip.compress(json.dumps(values, separators=(",", ":")).encode(), 9, mtime=0)


def read(path: str | Path) -> dict[str, Any]:
    """What `gathered` returned.

    Raises:
        OSError, ValueError: if it is not such a file.
    """
    return json.loads(gzip.decompress(Path(path).read_bytes()))


def _by_measure(tasks: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    return {name: [[_short(value) for value in task[name]] for task in tasks] for name in measures(tasks[0])}


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
