"""Seeds side by side: `python -m experiments.summary runs/*` reads runs' evaluations and prints one table in Markdown.

Runs of the same environment and algorithm are seeds of one experiment. An interval over seeds is Student's t; with one
seed it is that run's own interval over tasks, and marked so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.errors import KNOWN
from metarl.evaluation.curve import COLUMNS
from metarl.evaluation.statistics import Interval, seeds_interval
from metarl.run_folder import RunFolder


def gather(paths: list[Path], split: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Evaluations by (environment, algorithm), each with the run's seed, environment steps and training time."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for path in paths:
        folder = RunFolder.open(path)
        evaluation = folder.read_evaluation(split)
        last = folder.read_metrics()[-1]
        run = {"run_seed": folder.read_config().get("seed"), "env_steps": last["env_steps"], "seconds": last["seconds"]}
        groups[evaluation["env"], evaluation["algo"]].append(evaluation | run)
    return dict(groups)


def told(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures that all entries have: older evaluations lack some."""
    return [name for name in COLUMNS if all(name in entry for entry in entries)]


def combined(values: Sequence[Mapping[str, Any]]) -> Interval:
    """One measure of all seeds, each with its `mean` and `ci95` over tasks, as a mean and an interval.

    Several seeds: Student's t over their means. A single seed: its own interval.
    """
    if len(values) == 1:
        return Interval(values[0]["mean"], *values[0]["ci95"])
    mean, low, high = seeds_interval([value["mean"] for value in values])
    if all(value["ci95"][0] >= 0.0 and value["ci95"][1] <= 1.0 for value in values):  # rates end at 0 and 1
        low, high = max(low, 0.0), min(high, 1.0)
    return Interval(mean, low, high)


def interval(values: Sequence[Mapping[str, Any]], form: str) -> str:
    """One measure of all seeds as `mean [low, high]`; `*` marks an interval over the tasks of a single seed."""
    mean, low, high = combined(values)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]{'*' if len(values) == 1 else ''}"


def table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The Markdown table: a row for each experiment, adaptation step and episode of a trial."""
    head = ["env", "algo", "seeds", "env steps", "training", "gradient steps", "episodes seen"]
    head += [title for title, _ in COLUMNS.values()]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (env, algo), runs in sorted(groups.items()):
        steps = sum(run["env_steps"] for run in runs) / len(runs) / 1e6
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        for entries in zip(*(run["curve"] for run in runs), strict=True):
            known = told(entries)
            cells = [
                interval([entry[name] for entry in entries], form) if name in known else ""
                for name, (_, form) in COLUMNS.items()
            ]
            row = [env, algo, str(len(runs)), f"{steps:.1f}M", f"{seconds:.0f} s"]
            row += [str(entries[0]["step"]), str(entries[0]["episodes"])]
            lines.append("| " + " | ".join(row + cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--split", default="test", help="which evaluation to read")
    parser.add_argument("--out", type=Path, help="also write the evaluations (without their tasks) as JSON")
    options = parser.parse_args(arguments)
    try:
        groups = gather(options.runs, options.split)
        print(table(groups))
        if options.out:
            plain = [{k: v for k, v in run.items() if k != "per_task"} for runs in groups.values() for run in runs]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(plain, indent=1) + "\n")
    except KNOWN as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
