"""What a page tells of a run in words and numbers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from envs.core.environment import Environment
from envs.core.tasks import Tasks
from metarl.assembly.opened import Run
from metarl.assembly.repeat import commands
from metarl.assembly.trust import words
from metarl.config.parsing import show
from metarl.errors import KNOWN, ConfigError
from metarl.pages.charts import Curve, condensed
from metarl.pages.evaluations import SPLITS, Evaluation, read_evaluations
from metarl.run_folder.pretrained import PREFIX, is_shipped, locate
from metarl.training.progress import clock

ABSENT = "-"


@dataclass(frozen=True)
class Subject:
    """A run of which a page tells."""

    run: Run
    label: str  # unlike that of any other run on the page
    rows: list[dict[str, float]]  # of metrics.csv; a policy that came with the package has none
    evaluations: dict[str, Evaluation]  # by split

    @property
    def path(self) -> Path:
        """By which the commands know it."""
        folder = self.run.folder.path
        return Path(PREFIX, folder.name) if is_shipped(folder) else folder

    @property
    def title(self) -> str:
        """Which environment and which algorithm."""
        return f"{self.run.settings.env.name}, {self.run.settings.algo.label()}"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.yaml."""
        return self.run.folder.read_config()

    @cached_property
    def env(self) -> Environment:
        """One simulation of what it acts in."""
        return self.run.environment(1, 0, 1)

    def realised(self, evaluation: Evaluation) -> Evaluation:
        """An evaluation with its tasks as they were, where not all can be had that are asked for."""
        if not evaluation.tasks.keys() >= self.env.distribution.parameters.keys():
            return evaluation  # of an older version of the family
        asked = Tasks({name: torch.from_numpy(values) for name, values in evaluation.tasks.items()})
        tasks = self.env.realised(asked).values
        return replace(evaluation, tasks={name: values.numpy() for name, values in tasks.items()})

    def measured(self) -> list[Evaluation]:
        """Its evaluations on tasks within the training values, and on those beyond."""
        within = next((split for split in ("test", "validation", "train") if split in self.evaluations), "")
        return [self.evaluations[split] for split in (within, "ood") if split in self.evaluations]


def subjects(runs: Sequence[Run]) -> list[Subject]:
    """Runs with what is read of their folders; each has the shortest label that no other has.

    Raises:
        RunFolderError: if a file is unreadable.
        ConfigError: if a run is there twice.
    """
    paths = [run.folder.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"run: {next(path for path in paths if paths.count(path) > 1)} is given twice")
    labels = [path.name for path in paths]
    labels = labels if len(set(labels)) == len(labels) else [str(path) for path in paths]
    return [
        Subject(run, label, run.folder.read_metrics(), read_evaluations(run))
        for run, label in zip(runs, labels, strict=True)
    ]


def facts(shown: Sequence[Subject]) -> list[tuple[str, ...]]:
    """What the page begins with: a row for each fact, its name and then its value in each run."""
    told = [_facts(subject) for subject in shown]
    names = dict.fromkeys(name for each in told for name in each)
    first = [f"success, {split}" for split in SPLITS]
    ordered = [name for name in first if name in names] + [name for name in names if name not in first]
    return [(name, *(each.get(name, ABSENT) for each in told)) for name in ordered]


def _facts(subject: Subject) -> dict[str, str]:
    run, rows = subject.run, subject.rows
    values = {f"success, {split}": _success(evaluation) for split, evaluation in subject.evaluations.items()}
    values |= {
        "environment": run.settings.env.entry or run.settings.env.name,
        "algorithm": run.settings.algo.label(),
        "policy": run.settings.agent.entry or run.settings.agent.name,
        "feedback": run.feedback,
        "seed": str(run.settings.seed),
        "iterations": str(run.iteration),
        "environment steps": f"{run.env_steps:,}",
    }
    if rows:
        last = rows[-1]
        values |= {
            "time in training": clock(last.get("seconds", 0.0)),
            "speed": f"{last.get('steps_per_second', 0.0):,.0f} environment steps per second",
            "time in rollouts": f"{_share(rows):.0%}",
            "physics failures in training": f"{_total(rows, 'physics_failures'):,.0f}",
            "skipped updates": f"{_total(rows, 'skipped_updates'):,.0f} of {_total(rows, 'updates'):,.0f}",
        }
    failures = {split: e.content.get("physics_failures", 0) for split, e in subject.evaluations.items()}
    if failures:
        values["physics failures in evaluations"] = ", ".join(f"{split} {count}" for split, count in failures.items())
    made = subject.config.get("versions")
    versions = {**made} if isinstance(made, Mapping) else {}
    values["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    dirty = " with changes" if subject.config.get("git_dirty") else ""
    values["commit"] = f"{subject.config.get('git_commit') or 'unknown'}{dirty}"
    return values


def _success(evaluation: Evaluation) -> str:
    ends = [evaluation.curve[0], evaluation.curve[-1]][: len(evaluation.curve)]
    means = " → ".join(f"{entry['success']['mean']:.3f}" for entry in ends)
    low, high = ends[-1]["success"]["ci95"]
    return f"{means} [{low:.3f}, {high:.3f}]"


def _total(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(row.get(name, 0.0) for row in rows)


def _share(rows: Sequence[Mapping[str, float]]) -> float:
    """Of the time of the iterations, what the rollouts took."""
    rollouts, updates = (_total(rows, f"{name}_seconds") for name in ("rollout", "update"))
    return rollouts / (rollouts + updates) if rollouts + updates > 0 else 0.0


def setting_rows(shown: Sequence[Subject]) -> list[tuple[str, ...]]:
    """Every setting by its dotted key, with its value in each run."""
    flat = [subject.run.settings.flat() for subject in shown]
    keys = dict.fromkeys(key for each in flat for key in each)
    return [(key, *(show(each[key]) if key in each else ABSENT for each in flat)) for key in keys if key != "run_dir"]


def learning_curves(shown: Sequence[Subject], names: Sequence[str]) -> dict[str, Curve]:
    """Metrics by label: of one run each of the names that says something of its own, of several runs the last one."""
    if len(shown) > 1:
        return {subject.label: condensed(subject.rows, names[-1]) for subject in shown if subject.rows}
    rows = shown[0].rows
    told = [name for i, name in enumerate(names) if not any(_equal(rows, name, other) for other in names[i + 1 :])]
    words = {name: name.rpartition("_")[2] for name in told}
    return {words[name] if len(told) > 1 else "": condensed(rows, name) for name in told}


def _equal(rows: Sequence[Mapping[str, float]], one: str, other: str) -> bool:
    return all(row.get(one) == row.get(other) for row in rows)


def phase_marks(subject: Subject) -> dict[str, float]:
    """Where the later phases of a run begin, in millions of environment steps, by name."""
    *earlier, _ = phases = subject.run.settings.phases()
    steps = {
        int(row["iteration"]): row["env_steps"] / 1e6
        for row in subject.rows
        if {"iteration", "env_steps"} <= row.keys()
    }
    begins = [(phase.until, after.settings.name) for phase, after in zip(earlier, phases[1:], strict=True)]
    return {name: steps[until] for until, name in begins if until in steps}


def repeat(subject: Subject) -> list[str]:
    """The command lines that make the run again, and its evaluations."""
    run = subject.run
    # What was adapted is not trained again: its origin is.
    path = Path(run.kept.origin) if run.kept else subject.path
    try:
        given = (locate(path) if run.kept else run.folder.path) / "COMMAND"  # of a policy that came with the package
        lines = given.read_text().splitlines() if given.is_file() else commands(run.settings, run.iteration, path)
    except (*KNOWN, OSError) as error:
        lines = [f"# the training cannot be told: {' '.join(str(error).split())}"]
    return lines + [_evaluation(subject, evaluation) for evaluation in subject.evaluations.values()]


def _evaluation(subject: Subject, evaluation: Evaluation) -> str:
    content = evaluation.content
    options = {
        "split": evaluation.split,
        "tasks": content.get("tasks"),
        "episodes": evaluation.episodes,
        "trial_episodes": content.get("trial_episodes"),
        "steps": evaluation.curve[-1].get("step"),
        "seed": content.get("seed"),
        "deterministic": content.get("deterministic"),
    }
    told = [f"{name}={show(value)}" for name, value in options.items() if value is not None]
    command = shlex.join(["python", "-m", "metarl.evaluate", f"run={subject.path}", *told])
    return command + words(subject.run.settings)
