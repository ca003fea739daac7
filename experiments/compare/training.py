"""Train what is not trained yet, continue what was stopped, load what is finished; then measure it."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from envs.errors import TaskError
from experiments.compare.contenders import GRADIENT, Job, composed
from metarl.assembly.build import stream_seed
from metarl.assembly.opened import Run, open_run
from metarl.assembly.trust import remember, stored_settings
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import MetaRLError, NotFiniteError, RunFolderError
from metarl.evaluation.curve import adaptation_rounds
from metarl.run_folder import RunFolder
from metarl.runs import evaluate, train

RATES = (1e-3, 1e-2, 1e-1, 1.0)  # of fine-tuning; the best one on validation tasks is used
STEPS = 3  # of fine-tuning by default
CLIP = 1.0  # limit of the fine-tuning gradient's norm
VALIDATION_TASKS = 20  # on which the rate is chosen
COMPARED = ("env.", "agent.", "algo.", "seed", "evaluate.")  # what makes a run the one that was asked for


def settle(job: Job) -> RunFolder:
    """The job's run, trained to its budget and evaluated on the split `test`.

    Raises:
        MetaRLError: if the folder holds a run with other settings.
        Interrupted: after Ctrl-C; what is trained so far is kept.
    """
    remember(composed(job.start))
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
    expected, found = (_compared(settings) for settings in (composed(job.start), stored_settings(folder)))
    for key in expected | found:
        if found.get(key) != expected.get(key):
            raise MetaRLError(
                f"{folder.path} was trained with {key}={found.get(key)}, not {expected.get(key)}: move it away, or set"
                " another runs="
            )


def finished(folder: RunFolder, job: Job) -> bool:
    """Whether the run has met its budget and its newest checkpoint is evaluated."""
    try:
        evaluation, last = folder.read_evaluation("test"), folder.read_metrics()[-1]
    except (RunFolderError, IndexError):
        return False
    if evaluation.get("iteration") != folder.iterations()[-1]:
        return False
    budget = composed(job.resume).budget
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
    settings, protocol = run.settings, run.settings.evaluate
    for split in splits:
        if not measured(folder, split, run.iteration, steps):
            evaluate(
                run,
                split=split,
                tasks=protocol.tasks,
                steps=steps,
                episodes=protocol.episodes_per_step,
                seed=settings.seed,
                deterministic=protocol.deterministic,
                threads=settings.threads,
                console=console,
            )
    return {split: folder.read_evaluation(split) for split in splits}


def measured(folder: RunFolder, split: str, iteration: int, steps: int) -> bool:
    """Whether this evaluation of this checkpoint is there, with that many gradient steps."""
    try:
        evaluation = folder.read_evaluation(split)
    except RunFolderError:
        return False
    return evaluation["curve"][-1]["step"] == steps and evaluation.get("iteration") == iteration


def fine_tuned(run: Run, console: Console, steps: int = STEPS) -> Run:
    """The run with the fine-tuning rate that gives the greatest return on validation tasks; the choice is stored.

    It is the return because that is what the gradient climbs: by success, one more or less among hundreds of failures
    would choose rates that ruin the policy. A new choice discards the evaluations that were made with the last one.
    """
    try:
        earlier = run.folder.read_evaluation("fine_tuning")
    except RunFolderError:
        earlier = {}
    wanted = {"iteration": run.iteration, "steps": steps, "clip": CLIP, "split": "validation"}
    grid = earlier.get("grid", [])
    tried = tuple(entry["rate"] for entry in grid)
    if tried != RATES or any(earlier.get(key) != value for key, value in wanted.items()):
        console.print(f"choosing the rate of fine-tuning on {VALIDATION_TASKS} validation tasks")
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
    inner = settings.inner.model_copy(update={"rate": rate, "steps": steps, "max_grad_norm": CLIP})
    learner = type(run.learner)(run.policy, settings.model_copy(update={"inner": inner}), torch.Generator())
    return dataclasses.replace(run, learner=learner)


def outcome(run: Run) -> tuple[float, float]:
    """Success at the end and return on validation tasks after the last step; minus infinity if they are not finite."""
    settings, protocol = run.settings, run.settings.evaluate
    tasks, seed = min(VALIDATION_TASKS, protocol.tasks), stream_seed(settings.seed, "evaluation")
    env = run.environment(tasks * protocol.episodes_per_step, seed, settings.threads)
    generator, steps = torch.Generator().manual_seed(seed), run.learner.settings.inner.steps
    chosen = run.held_out("validation", tasks)
    try:
        rounds, _ = adaptation_rounds(env, run.policy, run.learner, chosen, steps, generator)
    except NotFiniteError:  # the rate is far too large
        return -math.inf, -math.inf
    last = rounds[-1]
    return float(last.success_at_end.double().mean()), float(last.returns.double().mean())


def cost(folder: RunFolder) -> tuple[float, float]:
    """Environment steps and seconds of training, including those of a run that it began from."""
    last = folder.read_metrics()[-1]
    before = stored_settings(folder).flat().get("algo.warm_start.origin.seconds", 0.0)
    return last["env_steps"], last["seconds"] + before


def _compared(settings: TrainSettings) -> dict[str, Any]:
    """The settings that are compared; of the run that it began from only whether there is one.

    The number of workers is not among them: a run notes how many cores there were.
    """
    run, origin = "algo.warm_start.run", "algo.warm_start.origin."
    flat = {key: value for key, value in settings.flat().items() if key.startswith(COMPARED)}
    flat = {key: value for key, value in flat.items() if not key.endswith(".inner.workers")}
    return {key: value for key, value in flat.items() if not key.startswith(origin)} | {run: bool(flat.get(run))}
