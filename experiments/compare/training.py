"""Train what is not trained yet, continue what was stopped, load what is finished; then measure it."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from metarl.training.budget import Budget
from rich.console import Console

from envs.errors import TaskError
from experiments.compare.contenders import GRADIENT, Job, composed
from metarl.assembly.build import ALGORITHMS, stream_seed
from metarl.config.command_line import compose
from metarl.config.settings import leaves
from metarl.errors import MetaRLError, NotFiniteError, RunFolderError
from metarl.evaluation.curve import adaptation_rounds
from metarl.run_folder import RunFolder
from metarl.runs import Run, evaluate, open_run, train

RATES = (1e-3, 1e-2, 1e-1, 1.0)  # of fine-tuning; the best one on training tasks is used
STEPS = 3  # of fine-tuning by default
CLIP = 1.0  # limit of the fine-tuning gradient's norm
TRAINING_TASKS = 20  # on which the rate is chosen


def settle(job: Job) -> RunFolder:
    """The job's run, trained to its budget and evaluated on the split `test`.

    Raises:
        MetaRLError: if the folder holds a run with other settings.
        Interrupted: after Ctrl-C; what is trained so far is kept.
    """
    if job.copy_of is not None and not (job.folder / "config.yaml").exists():
        copy_run(job.copy_of, job.folder)
    if not job.folder.exists() or not RunFolder(job.folder).iterations():
        shutil.rmtree(job.folder, ignore_errors=True)  # stopped before its first checkpoint: nothing to continue
        train(compose(job.start))
    folder = RunFolder.open(job.folder)
    check(folder, job)
    if not finished(folder, job):
        train(compose(job.resume))
    return folder


def copy_run(source: Path, target: Path) -> None:
    """Copy a run to continue it, without its evaluations and videos; the copy is whole, or not there at all."""
    temporary = target.with_name(f".{target.name}.copy")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, ignore=shutil.ignore_patterns("evaluation", "videos", ".*"))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def check(folder: RunFolder, job: Job) -> None:
    """Check that a run that exists is the one that was asked for.

    Raises:
        MetaRLError: if it is not; names the first setting that differs.
    """
    stored, wanted = folder.read_config(), composed(job.start)
    groups = ("env", "agent", "algo", "seed", "evaluate")
    ours, theirs = ({key: config[key] for key in groups} for config in (wanted, stored))
    ours, theirs = (config | {"algo": _without_path(config["algo"])} for config in (ours, theirs))
    for key in leaves(ours | theirs):
        if _get(ours, key) != _get(theirs, key):
            found, expected = _get(theirs, key), _get(ours, key)
            raise MetaRLError(
                f"{folder.path} was trained with {key}={found}, not {expected}: move it away, or set another runs="
            )


def finished(folder: RunFolder, job: Job) -> bool:
    """Whether the run has met its budget and its newest checkpoint is evaluated."""
    try:
        evaluation, last = folder.read_evaluation("test"), folder.read_metrics()[-1]
    except (RunFolderError, IndexError):
        return False
    if evaluation.get("iteration") != folder.iterations()[-1]:
        return False
    budget = Budget(**composed(job.resume)["budget"])
    return budget.fraction(int(last["iteration"]), int(last["env_steps"]), last["seconds"]) >= 1.0


def measure(folder: RunFolder, contender: str, console: Console, steps: int | None = None) -> dict[str, dict[str, Any]]:
    """The evaluations of a trained run on `test` and, if there is such a split, on `ood`.

    Args:
        steps: gradient steps of the contenders that take any (None: as in their recipes; STEPS of fine-tuning).
    """
    splits = ["test"]
    run = open_run(folder.path)
    try:
        run.held_out("ood", 1)
        splits.append("ood")
    except TaskError:
        pass
    if contender == "multitask":
        steps = steps or STEPS
        run = fine_tuned(run, console, steps)
    elif steps is None or contender not in GRADIENT:
        steps = run.gradient_steps
    for split in splits:
        if not measured(folder, split, run.iteration, steps):
            settings = run.config["evaluate"] | {"split": split, "steps": steps}
            keys = ("split", "tasks", "steps", "seed", "deterministic", "threads")
            options = {key: (settings | {k: run.config[k] for k in ("seed", "threads")})[key] for key in keys}
            evaluate(run, episodes=settings["episodes_per_step"], console=console, **options)
    return {split: folder.read_evaluation(split) for split in splits}


def measured(folder: RunFolder, split: str, iteration: int, steps: int) -> bool:
    """Whether this evaluation of this checkpoint is there, with that many gradient steps."""
    try:
        evaluation = folder.read_evaluation(split)
    except RunFolderError:
        return False
    return evaluation["curve"][-1]["step"] == steps and evaluation.get("iteration") == iteration


def fine_tuned(run: Run, console: Console, steps: int = STEPS) -> Run:
    """The run with the fine-tuning rate that gives the greatest return on training tasks; the choice is stored with it.

    It is the return because that is what the gradient climbs: by success, one more or less among hundreds of failures
    would choose rates that ruin the policy. A new choice discards the evaluations that were made with the last one.
    """
    try:
        earlier = run.folder.read_evaluation("fine_tuning")
    except RunFolderError:
        earlier = {}
    wanted = {"iteration": run.iteration, "steps": steps, "clip": CLIP}
    grid = earlier.get("grid", [])
    tried = tuple(entry["rate"] for entry in grid)
    if tried != RATES or any(earlier.get(key) != value for key, value in wanted.items()):
        console.print(f"choosing the rate of fine-tuning on {TRAINING_TASKS} training tasks")
        outcomes = {rate: outcome(with_inner(run, rate, steps)) for rate in RATES}
        grid = [{"rate": rate, "success": value[0], "return": value[1]} for rate, value in outcomes.items()]
    choice = wanted | {"rate": max(grid, key=lambda entry: entry["return"])["rate"], "grid": grid}
    if choice != earlier:
        for split in ("test", "ood"):
            (run.folder.path / "evaluation" / f"{split}.json").unlink(missing_ok=True)
        run.folder.write_evaluation("fine_tuning", choice)
    return with_inner(run, choice["rate"], steps)


def with_inner(run: Run, rate: float, steps: int = STEPS) -> Run:
    """The run with other inner gradient steps."""
    settings = run.learner.settings
    inner = dataclasses.replace(settings.inner, rate=rate, steps=steps, clip=CLIP)
    build = ALGORITHMS[run.config["algo"]["name"]]
    learner = build(run.policy, dataclasses.replace(settings, inner=inner), torch.Generator())
    return dataclasses.replace(run, learner=learner)


def outcome(run: Run) -> tuple[float, float]:
    """Success at the end and return on training tasks after the last step; minus infinity if they are not finite."""
    tasks = min(TRAINING_TASKS, run.config["evaluate"]["tasks"])
    seed = stream_seed(run.config["seed"], "evaluation")
    env = run.environment(tasks * run.config["evaluate"]["episodes_per_step"], seed, run.config["threads"])
    generator, steps = torch.Generator().manual_seed(seed), run.learner.settings.inner.steps
    try:
        rounds, _ = adaptation_rounds(env, run.policy, run.learner, run.held_out("train", tasks), steps, generator)
    except NotFiniteError:  # the rate is far too large
        return -math.inf, -math.inf
    last = rounds[-1]
    return float(last.success_at_end.double().mean()), float(last.returns.double().mean())


def cost(folder: RunFolder) -> tuple[float, float]:
    """Environment steps and seconds of training, including those of a run that it began from."""
    last = folder.read_metrics()[-1]
    origin = (folder.read_config()["algo"].get("warm_start") or {}).get("origin", {})
    return last["env_steps"], last["seconds"] + origin.get("seconds", 0.0)


def _without_path(algo: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the path of the run that it began from: only whether there is one counts."""
    if "warm_start" not in algo:
        return dict(algo)
    warm = {k: v for k, v in algo["warm_start"].items() if k != "origin"}
    return dict(algo) | {"warm_start": warm | {"run": bool(warm.get("run"))}}


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
