"""How training begins: a fresh run, or one that is continued; with the lock that makes it the only writer.

Of several processes the first one does all of this, and the others are told: they need not see its disk.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from metarl.algorithms.threads import cores
from metarl.assembly.device import resolve_device
from metarl.assembly.trust import check_factory, checked_settings, remember, stored_settings
from metarl.config.algorithms import InnerLoop
from metarl.config.settings import Budget, ResumeSettings, TrainSettings
from metarl.distributed import ALONE, Ranks
from metarl.errors import CheckpointError, ConfigError, RunFolderError, RunWarning
from metarl.run_folder import ADAPTED, SLIM, RunFolder, versions
from metarl.run_folder.elsewhere import Elsewhere
from metarl.run_folder.pretrained import is_shipped, locate
from metarl.training.best import Best
from metarl.training.trainer import Trainer
from metarl.training.warm_start import from_another_run


@dataclass
class Session:
    """A run in training; nobody else writes its folder meanwhile."""

    folder: RunFolder
    settings: TrainSettings
    trainer: Trainer
    best: Best
    seconds: float  # that training took before this session

    def save(self, seconds: float) -> None:
        """Write the present checkpoint, `seconds` being the time in training so far.

        Raises:
            RunFolderError: if it cannot be written; earlier ones are then as they were.
        """
        tensors, numbers = self.trainer.state()
        iteration, best = self.trainer.iteration, self.best.claim(self.trainer.iteration)
        numbers |= {"seconds": seconds, "best": self.best.state()}
        self.folder.save_checkpoint(iteration, tensors, numbers, keep=self.settings.checkpoint.keep, best=best)


@contextmanager
def start(settings: TrainSettings | ResumeSettings, console: Console, ranks: Ranks = ALONE) -> Iterator[Session]:
    """A fresh run with its first checkpoint; or the run that is to be resumed, where it stopped.

    Raises:
        RunFolderError, CheckpointError: if there is no usable folder, or another process writes it.
        ConfigError, EnvsError, AgentsError: for settings that nothing can be built from; then no folder is made. The
            first as well if the processes were started with different settings.
    """
    if not ranks.first:
        yield _told(settings, ranks)
        return
    resumes = isinstance(settings, ResumeSettings)
    with _resumed(settings, console, ranks) if resumes else _fresh(settings, console, ranks) as session:
        told = (session.settings.plain(), str(session.folder.path), session.trainer.state(), session.seconds)
        ranks.from_first((settings.plain(), *told))
        yield session


def _told(asked: TrainSettings | ResumeSettings, ranks: Ranks) -> Session:
    """The session of a process that is not the first one."""
    theirs, plain, path, state, seconds = ranks.from_first(((), {}, "", ({}, {}), 0.0))
    if theirs != asked.plain():
        raise ConfigError(f"process {ranks.rank} was started with other settings than the first one: give all the same")
    if isinstance(asked, TrainSettings):
        remember(asked)
    settings = checked_settings(plain, Path(path), asked.trust)
    torch.set_num_threads(settings.torch_threads)
    check_factory(settings.env.entry or settings.env.name)
    trainer = Trainer(settings, resolve_device(settings.device), ranks)
    trainer.load(*state)
    return Session(Elsewhere(path), settings, trainer, Best(), seconds)


@contextmanager
def _fresh(settings: TrainSettings, console: Console, ranks: Ranks) -> Iterator[Session]:
    torch.set_num_threads(settings.torch_threads)
    device = resolve_device(settings.device)
    remember(settings)
    check_factory(settings.env.entry or settings.env.name)
    settings = settings.model_copy(update={"algo": settings.algo.with_workers(cores())})
    trainer = Trainer(settings, device, ranks)
    settings = from_another_run(trainer, settings)
    if settings.budget.fraction(trainer.iteration, trainer.env_steps, 0.0) >= 1.0:
        used = f"{trainer.env_steps:,} environment steps are used already, by the run that it begins with"
        raise ConfigError(f"the budget leaves nothing to train: {used}; give a larger one")
    # Check now that the evaluation's tasks exist: hours later it would be too late to say so.
    trainer.distribution.published(settings.evaluate.split, settings.evaluate.tasks)
    folder = RunFolder.create(settings.run_dir, name=f"{settings.env.name}-{settings.algo.name}-{settings.seed}")
    with folder.writing():
        RunFolder.create(folder.path)  # once more: another process may have begun a run there meanwhile
        session = Session(folder, settings, trainer, Best(), 0.0)
        try:
            folder.restart()
            folder.write_config(settings.plain())
            session.save(0.0)  # a run that is stopped at any moment after this goes on where it was
            shared = f", shared by {ranks.size} processes" if ranks.size > 1 else ""
            console.print(f"run folder {folder.path}, device {device}{shared}")
            yield session
        except Exception:
            if not trainer.iteration:  # the same command must work once its fault is mended
                folder.abandon()
            raise


@contextmanager
def _resumed(asked: ResumeSettings, console: Console, ranks: Ranks) -> Iterator[Session]:
    folder = RunFolder.open(locate(asked.resume), begun=False)
    if is_shipped(folder.path):
        raise _no_more(asked.resume)
    with folder.writing():
        # What the resumed run is, its folder says; only how long and where it runs may change.
        stored = stored_settings(folder, asked.trust)
        given = {name: value for name, value in asked if name not in ("resume", "trust") and value is not None}
        settings = stored.model_copy(update=given)
        torch.set_num_threads(stored.torch_threads)
        check_factory(stored.env.entry or stored.env.name)
        device = resolve_device(settings.device)
        session = Session(folder, settings, Trainer(stored, device, ranks), Best(), 0.0)
        if folder.unbegun():
            session.save(0.0)
        else:
            _load(session)
        _note(session, stored.budget)
        _warn_of_workers(settings, device)
        console.print(f"resuming {folder.path} after iteration {session.trainer.iteration}")
        yield session


def _load(session: Session) -> None:
    """Continue from the newest sound checkpoint."""
    folder = session.folder
    iteration, tensors, numbers = folder.load_checkpoint()
    if ADAPTED in numbers:
        raise RunFolderError(f"{folder.path} is adapted to one task: training goes on in the run that it came from")
    if numbers.get(SLIM):
        raise _no_more(folder.path)
    session.trainer.load(tensors, numbers)
    session.best = Best(numbers.get("best"))
    session.best.forget_unless(folder.iterations())
    try:
        session.seconds = float(numbers["seconds"])
    except (KeyError, TypeError, ValueError, OverflowError):
        session.seconds = math.nan
    if session.trainer.iteration != iteration or not 0.0 <= session.seconds < math.inf:
        raise CheckpointError(f"{folder.checkpoint_path(iteration)}: its iteration or seconds are not those of a run")
    # A kill right after a checkpoint leaves an older best one named, and those that it takes the place of.
    if session.best.iteration is not None and folder.best != session.best.iteration:
        folder.name_best(session.best.iteration)
    if iteration == folder.iterations()[-1]:
        folder.prune(iteration, session.settings.checkpoint.keep)


def _warn_of_workers(settings: TrainSettings, device: torch.device) -> None:
    """Say it if a run began with more threads for an update than there are cores; results do not depend on these."""
    loops = (phase.settings.inner for phase in settings.phases())
    workers = max((loop.workers for loop in loops if isinstance(loop, InnerLoop)), default=0)
    if device.type == "cpu" and workers > cores():
        kept = f"an update is shared by {workers} threads, as the run began, and this machine has {cores()} cores"
        warnings.warn(f"{kept}: results stay the same, updates take longer", RunWarning, stacklevel=4)


def _no_more(run: object) -> RunFolderError:
    remedy = f"begin from its policy with algo.warm_start.run={run}"
    return RunFolderError(f"{run} lacks what training needs to go on; {remedy}")


def _note(session: Session, before_budget: Budget) -> None:
    """Keep a new budget for the next resume; warn and record if package versions changed."""
    budget = session.settings.budget
    changes = {"budget": budget.plain()} if budget != before_budget else {}
    now, record = versions(), session.folder.read_config()
    before = record.get("versions")
    before = before if isinstance(before, dict) else {}
    others = [f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]]
    note = None
    if others:
        made = f"{session.folder.path} was made with {'; '.join(others)}"
        warnings.warn(f"{made}: it may not continue bit for bit", RunWarning, stacklevel=4)
        note = {"iteration": session.trainer.iteration, "versions": now}
        notes = record.get("resumed")
        if isinstance(notes, list) and notes and notes[-1].get("versions") == now:
            note = None  # they are noted already
    if changes or note:
        session.folder.change_config(changes, note)
