"""Seeds side by side: `python -m experiments.summary runs/*` reads runs' evaluations and prints one table in Markdown.

Runs of the same environment and algorithm are seeds of one experiment. Intervals are over seeds and tasks together; of
a single seed they are that run's own, over tasks, and marked so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.assembly.trust import stored_settings
from metarl.errors import KNOWN, RunFolderError
from metarl.evaluation.curve import COLUMNS
from metarl.evaluation.statistics import crossed_interval
from metarl.run_folder import RunFolder

MEASURES = {name: form for name, (_, form) in COLUMNS.items()}
TITLES = {name: title for name, (title, _) in COLUMNS.items()}
RATES = ("success", "success_any_step")
Curve = list[dict[str, Any]]


def gather(paths: list[Path], split: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Evaluations by (environment, algorithm), each with the run's seed, environment steps and training time.

    Raises:
        RunFolderError: if a run is named twice or lacks its metrics, or two were measured in other ways.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunFolderError("the same run is named twice: it would count as two seeds")
    for path in paths:
        folder = RunFolder.open(path)
        evaluation = folder.read_evaluation(split)
        metrics = folder.read_metrics()
        if not metrics:
            raise RunFolderError(f"{path}: has no metrics, as it was given away without them")
        last = metrics[-1]
        run = {"run_seed": folder.read_config().get("seed"), "env_steps": last["env_steps"], "seconds": last["seconds"]}
        group = groups[evaluation["env"], label(folder, evaluation["algo"])]
        if group and (other := _measured(group[0])) != (own := _measured(evaluation)):
            raise RunFolderError(f"{path}: was measured at steps {own}, others of its kind at {other}")
        group.append(evaluation | run)
    return dict(groups)


def _measured(evaluation: Mapping[str, Any]) -> list[int]:
    return [entry["step"] for entry in evaluation["curve"]]


def label(folder: RunFolder, otherwise: str) -> str:
    """What trained a run, as tables say it; `otherwise` of an algorithm whose code this process may not run."""
    try:
        return stored_settings(folder).algo.label()
    except KNOWN:
        return otherwise


def measures(entry: Mapping[str, Any]) -> list[str]:
    """The measures that an entry of a curve has."""
    return [name for name in MEASURES if name in entry]


def values(evaluations: Sequence[Mapping[str, Any]], measure: str, position: int) -> np.ndarray:
    """One measure at one entry of the curve, (S, M) by seed and task."""
    return np.array([[task[measure][position] for task in each["per_task"]] for each in evaluations], np.float64)


def over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> Curve:
    """The curve of several seeds on the same tasks, with intervals over both; of one seed as it is."""
    entries = []
    for position, same in enumerate(zip(*(each["curve"] for each in evaluations), strict=True)):
        entry: dict[str, Any] = {name: same[0][name] for name in ("step", "episode", "episodes") if name in same[0]}
        for name in measures(same[0]):
            if len(same) == 1:
                entry[name] = same[0][name]
                continue
            rate, episodes = name in RATES, int(evaluations[0].get("episodes_per_step", 1))
            found = crossed_interval([values(evaluations, name, position)], bounded=rate, episodes=episodes)
            entry[name] = {"mean": found.mean, "ci95": [found.low, found.high]}
        entries.append(entry)
    return entries


def cell(value: Mapping[str, Any], form: str, alone: bool) -> str:
    """One measure as `mean [low, high]`; `*` marks an interval over the tasks of a single seed."""
    low, high = value["ci95"]
    return f"{value['mean']:{form}} [{low:{form}}, {high:{form}}]{'*' if alone else ''}"


def table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The Markdown table: a row for each experiment and adaptation step."""
    titles = [TITLES.get(name, name) for name in MEASURES]
    head = ["env", "algo", "seeds", "env steps", "training", "gradient steps / episodes", *titles]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (env, algo), runs in sorted(groups.items()):
        steps = sum(run["env_steps"] for run in runs) / len(runs) / 1e6
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        for entry in over_seeds(runs):
            cells = [
                cell(entry[name], form, len(runs) == 1) if name in entry else "" for name, form in MEASURES.items()
            ]
            seen = f"{entry['step']} / {entry['episodes']}"
            row = [env, algo, str(len(runs)), f"{steps:.1f}M", f"{seconds:.0f} s", seen]
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
