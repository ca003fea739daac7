"""What the commands do with runs: train or resume one, evaluate one, reproduce a failure of one."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from metarl.algorithms.nan_search import search_update
from metarl.assembly.build import stream_seed
from metarl.assembly.device import FAULTS, enough_memory, gpu_memory, resolve_device
from metarl.assembly.opened import Run, open_run
from metarl.assembly.trust import check_factory, checked_settings, modules, words
from metarl.config.memory import check_training
from metarl.config.settings import EvaluateSettings, ReproduceSettings, ResumeSettings, TrainSettings
from metarl.distributed import joined
from metarl.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    NotFiniteError,
    ProcessLostError,
    RunFolderError,
    TrainingError,
)
from metarl.evaluation.curve import adaptation_rounds, moved_table, report, table
from metarl.evaluation.plots import curve_png
from metarl.launched import python
from metarl.pages.report import end_with_page
from metarl.run_folder import RunFolder, atomic_write, git_commit, one_line, read_checkpoint, versions
from metarl.training.failure import Failure
from metarl.training.progress import Progress, clock, print_table
from metarl.training.session import Session, start
from metarl.training.signals import graceful_stop
from metarl.training.trainer import WINDOW, Trainer

# A run that skips more than this share of its updates is not learning, and says so.
SKIPPED_LIMIT = 0.5


@enough_memory()
def train(settings: TrainSettings | ResumeSettings) -> Path:
    """Meta-train, or continue a run, evaluate on held-out tasks, and return the run folder.

    Of several processes that PyTorch's launcher started, the first one writes, prints and evaluates.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once the checkpoint is written.
        TrainingError: if most updates had to be skipped; names what was not finite and the dump that reproduces it. If
            all episodes failed; names the first.
        ConfigError: if it cannot fit into the memory of the machine or of its GPU.
        ProcessLostError: if another process that trains the same policy has ended.
        DeviceError: if the device is not there, or its memory is used up.
    """
    if isinstance(settings, TrainSettings):
        check_training(settings, gpu_memory(resolve_device(settings.device)))
    with ExitStack() as held:
        with joined() as ranks:
            console = Console(highlight=False, soft_wrap=True, markup=False, quiet=not ranks.first)
            session = held.enter_context(start(settings, console, ranks))
            _announce(session, console)
            with _resumable(session):
                _iterate(session, console)
        if ranks.first:
            _finish(session, console)
    return session.folder.path


def _continue(session: Session) -> str:
    """How to go on with a run, in words."""
    command = f"{python()} -m metarl.train {shlex.quote(f'resume={session.folder.path}')}{words(session.settings)}"
    return f"continue with: {command}"


@contextmanager
def _resumable(session: Session) -> Iterator[None]:
    """What ends with a process that was lost can be continued."""
    try:
        yield
    except ProcessLostError as error:
        raise ProcessLostError(f"{error}; {_continue(session)}") from error


def _announce(session: Session, console: Console) -> None:
    """Say what a run of several phases does; and warn if its budget is used before the last one begins."""
    trainer, budget = session.trainer, session.settings.budget
    *earlier, last = session.settings.phases()
    if not earlier or trainer.iteration >= (begins := earlier[-1].until or 0):
        return
    first = [f"{phase.settings.name} up to iteration {phase.until}" for phase in earlier]
    console.print(", then ".join([*first, last.settings.name]))
    if budget.fraction(begins, trainer.steps_at(begins), session.seconds) >= 1.0:
        remedy = "give a larger budget, or a smaller algo.warm_start.iterations"
        console.print(f"warning: the budget ends before {last.settings.name} begins: {remedy}")


def _iterate(session: Session, console: Console) -> None:
    """Meta-iterations until the budget is used, with their metrics and checkpoints."""
    folder, trainer, settings = session.folder, session.trainer, session.settings
    budget = settings.budget
    started = time.monotonic() - session.seconds
    told: set[str] = set()
    steps_before, beginning = trainer.env_steps, time.monotonic()
    used = budget.fraction(trainer.iteration, trainer.env_steps, session.seconds)
    with (
        graceful_stop() as stop,
        folder.metrics(trainer.iteration, settings.logger) as metrics,
        Progress(console) as progress,
    ):
        # Read the used budget once for each iteration: the last one is always saved.
        while used < 1.0:
            phase, _ = trainer.phase()
            whole = trainer.width() >= 1.0  # what easier tasks give does not compare
            row = trainer.iterate()
            if whole:
                session.best.add(row)
            spent, signal = trainer.ranks.most(time.monotonic() - started, float(stop.signal or 0))
            session.seconds = spent
            speed = (trainer.env_steps - steps_before) / (time.monotonic() - beginning)
            metrics.append(row | {"seconds": spent, "steps_per_second": speed})
            used = budget.fraction(trainer.iteration, trainer.env_steps, spent)
            progress.show(phase.settings.name, row, used, spent, speed)
            if signal or used >= 1.0 or trainer.iteration % settings.checkpoint.every == 0:
                session.save(spent)
            if signal:
                raise Interrupted(f"stopped; {_continue(session)}", int(signal))
            for kind, trouble in ((re.split(" in | of ", text)[0], text) for text in trainer.troubles):
                if kind not in told:  # a thousand simulations can fail in the same way
                    console.print(f"warning: iteration {trainer.iteration}: {trouble}", markup=False)
                told.add(kind)
            if (used >= 1.0 or len(trainer.recent) == WINDOW) and trainer.skipped_share() > SKIPPED_LIMIT:
                session.save(spent)
                raise _stopped(folder, settings, trainer)
            if trainer.all_failed >= (1 if used >= 1.0 else WINDOW):
                session.save(spent)
                count = f"the last {trainer.all_failed} iterations" if trainer.all_failed > 1 else "the last iteration"
                raise TrainingError(f"every episode of {count} failed: {trainer.troubles[0]}")


def _finish(session: Session, console: Console) -> None:
    """Evaluate a run that is trained, and say where everything is."""
    trainer, settings, path = session.trainer, session.settings, session.folder.path
    seconds = clock(session.seconds)
    console.print(f"trained {trainer.iteration} iterations, {trainer.env_steps:,} environment steps in {seconds}")
    *earlier, last = session.settings.phases()
    if earlier and trainer.iteration <= (earlier[-1].until or 0):
        larger = shlex.join(["python", "-m", "metarl.train", f"resume={path}", "budget.iterations=..."])
        remedy = f"continue with a larger budget: {larger}"
        console.print(f"warning: the budget ended before {last.settings.name} began; {remedy}")
    protocol = settings.evaluate
    run = open_run(path, settings.device, trust=modules(settings))
    evaluate(
        run,
        split=protocol.split,
        tasks=protocol.tasks,
        steps=protocol.steps,
        episodes=protocol.episodes_per_step,
        seed=settings.seed,
        deterministic=protocol.deterministic,
        threads=settings.threads,
        console=console,
    )
    console.print(f"files: {path}")
    end_with_page(run, console)
    film = [f"run={path}", f"split={protocol.split}", "task=0", f"out={path}/videos/task-0.mp4"]
    console.print(f"video: {shlex.join(['python', '-m', 'metarl.render', *film])}{words(settings)}", markup=False)


def _stopped(folder: RunFolder, settings: TrainSettings, trainer: Trainer) -> TrainingError:
    """The error that ends a run which skips most updates; writes the dump of the latest one."""
    what = f"{trainer.skipped_share():.0%} of the updates of the last {len(trainer.recent)} iterations were skipped"
    failure = trainer.failure
    assert failure is not None  # each iteration that skips leaves one
    tensors, state = failure.dump()
    made_by = {"config": settings.plain(), "versions": versions(), "git_commit": git_commit()[0]}
    dump = folder.save_dump(int(state["iteration"]), tensors, state | made_by)
    command = f"python -m metarl.reproduce dump={dump}{words(settings)}"
    return TrainingError(f"{what}: {failure.message}; to see it again: {command}")


@enough_memory()
def reproduce(path: str | Path, device: str = "cpu", trust: Collection[str] = ()) -> str:
    """Compute an update that was skipped again, from its dump; returns what is not finite in it.

    Args:
        trust: modules outside of this project that the dump may name, by their first names: their code will run.

    Raises:
        CheckpointError: if the folder is not a dump, is damaged, or belongs to another version of the code.
        EnvsError: if its environment is not there, or may not be named.
    """
    where = resolve_device(device)
    _, tensors, state = read_checkpoint(Path(path))
    try:
        dump = Path(path).resolve()
        settings = checked_settings(state["config"], dump.parents[1] if dump.parent.name == "dumps" else dump, trust)
        check_factory(settings.env.entry or settings.env.name)
        torch.set_num_threads(settings.torch_threads)
        failure = Failure.read(tensors, state, where)
        trainer = Trainer(settings, where)
        trainer.iteration = failure.iteration
        finding = search_update(trainer.ready_learner(), failure.start, failure.rounds)
        return finding.text(failure.tasks)
    except FAULTS:
        raise
    except (ConfigError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a dump of this code: {type(error).__name__}: {one_line(error)}") from None


def reproduce_dump(settings: ReproduceSettings) -> None:
    """The `metarl.reproduce` command.

    Raises:
        NotFiniteError: names what was not finite, as the run did that left the dump.
    """
    raise NotFiniteError(reproduce(settings.dump, settings.device, settings.trust))


@enough_memory()
def evaluate(
    run: Run,
    *,
    split: str,
    tasks: int | None,
    steps: int | None,
    episodes: int | None,
    seed: int,
    deterministic: bool | None,
    threads: int,
    console: Console,
    out: str | None = None,
    trial_episodes: int | None = None,
) -> dict[str, Any]:
    """Measure the adaptation curve of a run on tasks of a split, print it, and write it into the run folder.

    Args:
        tasks: how many of the split's list (None: as the run's configuration says).
        steps: gradient steps (None: `Run.gradient_steps`). episodes: per step (None: as the run's configuration
            says).
        deterministic: act by the mean action (None: as the run's configuration says).
        out: a .json file, or a folder, to write into instead.
        trial_episodes: of a trial (None: as many as in training).

    Raises:
        ConfigError: if gradient steps would have to learn from longer trials than the policy remembers.
        RunFolderError: if it cannot be written; it is printed before.
    """
    tasks = int(tasks or run.settings.evaluate.tasks)
    chosen = run.held_out(split, tasks)
    steps = run.gradient_steps if steps is None else steps
    trained = run.learner.settings.trial_episodes
    if steps and trial_episodes is not None and trial_episodes > trained:
        raise ConfigError(
            f"trial_episodes={trial_episodes}: gradient steps learn from no more than the policy remembers; it was"
            f" trained on trials of {trained}; add steps=0"
        )
    episodes = int(episodes or run.settings.evaluate.episodes_per_step)
    deterministic = run.settings.evaluate.deterministic if deterministic is None else deterministic
    env = run.environment(tasks * episodes, stream_seed(seed, "evaluation"), threads)
    generator = torch.Generator().manual_seed(stream_seed(seed, "evaluation") + 1)
    rounds, _ = adaptation_rounds(
        env, run.policy, run.learner, chosen, steps, generator, deterministic, trial_episodes, run.adapted
    )
    algo = run.settings.algo.name
    result = report(rounds, chosen, env=env, algo=algo, split=split, seed=seed, deterministic=deterministic)
    commit, dirty = git_commit()
    if run.kept:
        result |= {"adapted_on": list(run.kept.history)}
        console.print(f"step 0 acts as it was adapted on {run.kept.told()}", markup=False)
    result |= {"iteration": run.iteration, "training_env_steps": run.env_steps}
    result |= {"versions": versions(), "git_commit": commit, "git_dirty": dirty}
    print_table(
        console,
        f"{env.name}, {algo}: {tasks} tasks of split '{split}', {episodes} episodes per step",
        table(result["curve"]),
    )
    if moved := result.get("by_moved"):
        print_table(console, "the tasks with a parameter beyond its training values", moved_table(moved))
    console.print(f"success: {env.success_criterion}; brackets are 95% confidence intervals over tasks")
    if result["physics_failures"]:
        failures, first = result["physics_failures"], result["first_physics_failure"]
        console.print(f"warning: {failures} episodes failed; their returns end there. The first: {first}", markup=False)
    try:
        path = run.output.write_evaluation(split, result, None if out is None else Path(out))
        atomic_write(path.with_suffix(".png"), curve_png(result))
    except RunFolderError:
        console.print("this table is not written; metarl.evaluate with out=FOLDER writes it elsewhere")
        raise
    console.print(f"evaluation: {path}", markup=False)
    return result


def evaluate_run(settings: EvaluateSettings) -> None:
    """The `metarl.evaluate` command."""
    evaluate(
        open_run(settings.run, settings.device, settings.checkpoint, settings.trust),
        console=Console(highlight=False, soft_wrap=True, markup=False),
        **{name: value for name, value in settings if name not in ("run", "device", "checkpoint", "trust")},
    )
