"""Train what is not trained yet, continue what was stopped, load what is finished; then measure it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.compare.contenders import Contender
from experiments.compare.fine_tuning import STEPS, fine_tuned
from experiments.compare.plan import Job, composed
from metarl.assembly.opened import open_run
from metarl.assembly.trust import remember, stored_settings
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import MetaRLError, RunFolderError
from metarl.run_folder import RunFolder
from metarl.runs import evaluate, train

COMPARED = ("env.", "agent.", "algo.", "seed", "evaluate.")  # what makes a run the one that was asked for
# Settings that there were not yet when runs and results that are kept were made, with what they were then.
ADDED = {
    "env.action_repeat": 1,
    "env.bonus": 0.0,
    "env.recombine": False,
    **{f"algo.{of}{name}": 0.0 for of in ("", "warm_start.settings.") for name in ("replay", "observation_offset")},
}
MISSING = object()


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
        train(compose([*job.start, "report=page"]))  # films are made of what is shown
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
    expected, found = (compared(settings) for settings in (composed(job.start), stored_settings(folder)))
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


def measure(
    folder: RunFolder,
    contender: Contender,
    console: Console,
    steps: int | None = None,
    splits: Sequence[str] = ("test", "ood"),
) -> dict[str, dict[str, Any]]:
    """The evaluations of a trained run on splits, of those that there are.

    Args:
        steps: gradient steps of the contenders that take any (None: as in their recipes; STEPS of fine-tuning).
    """
    run = open_run(folder.path)
    splits = [split for split in splits if run.has(split)]
    if contender.tuned:
        steps = steps or STEPS
        run = fine_tuned(run, contender.tuned, console, steps)
    elif steps is None or not contender.gradient:
        steps = run.gradient_steps
    settings, protocol = run.settings, run.settings.evaluate
    wanted = {
        "iteration": run.iteration,
        "tasks": protocol.tasks,
        "episodes_per_step": protocol.episodes_per_step,
        "seed": settings.seed,
        "deterministic": protocol.deterministic,
        "edition": run.environment(1, 0, 1).distribution.edition,
    }
    for split in splits:
        if not measured(folder, split, steps, wanted):
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


def measured(folder: RunFolder, split: str, steps: int, wanted: Mapping[str, object]) -> bool:
    """Whether an evaluation is there with that many gradient steps, which says all that is wanted of it.

    An evaluation of an earlier version does not say its list's edition.
    """
    try:
        evaluation = folder.read_evaluation(split)
    except RunFolderError:
        return False
    said = {"edition": wanted.get("edition")} | evaluation
    return evaluation["curve"][-1]["step"] == steps and all(said.get(key) == value for key, value in wanted.items())


def cost(folder: RunFolder) -> tuple[float, float]:
    """Environment steps and seconds of training, including those of a run that it began from."""
    last = folder.read_metrics()[-1]
    before = stored_settings(folder).flat().get("algo.warm_start.origin.seconds", 0.0)
    return last["env_steps"], last["seconds"] + before


def compared(settings: TrainSettings) -> dict[str, Any]:
    """The settings that are compared; of the run that it began from only whether there is one.

    The number of workers is not among them: a run notes how many cores there were. Nor are those of `ADDED` that are as
    they were before they could be set.
    """
    run, origin = "algo.warm_start.run", "algo.warm_start.origin."
    flat = {key: value for key, value in settings.flat().items() if key.startswith(COMPARED)}
    flat = {key: value for key, value in flat.items() if not key.endswith(".inner.workers")}
    flat = {key: value for key, value in flat.items() if not key.startswith(origin)} | {run: bool(flat.get(run))}
    return {key: value for key, value in flat.items() if ADDED.get(key, MISSING) != value}
