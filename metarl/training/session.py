"""How training begins: a fresh run, or one that is continued; with the lock that makes it the only writer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from metarl.assembly.trust import check_factory, stored_config
from metarl.config.command_line import resolve_device
from metarl.errors import CheckpointError, MetaRLError, RunFolderError, RunWarning
from metarl.run_folder import SLIM, RunFolder, versions
from metarl.run_folder.pretrained import is_shipped, locate
from metarl.training.best import Best
from metarl.training.trainer import Trainer
from metarl.training.warm_start import begin as begin_from_another


@dataclass
class Session:
    """A run in training; nobody else writes its folder meanwhile."""

    folder: RunFolder
    config: dict[str, Any]
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
        self.folder.save_checkpoint(iteration, tensors, numbers, keep=self.config["checkpoint"]["keep"], best=best)


@contextmanager
def begin(config: dict[str, Any], console: Console) -> Iterator[Session]:
    """A fresh run as `config` says, with its first checkpoint; or the run of its `resume`, where that stopped.

    Raises:
        RunFolderError, CheckpointError: if there is no usable folder, or another process writes it.
        ConfigError, EnvsError, AgentsError: for settings that nothing can be built from; then no folder is made.
    """
    torch.set_num_threads(config["torch_threads"])
    with (_resumed if config["resume"] else _fresh)(config, console) as session:
        yield session


@contextmanager
def _fresh(config: dict[str, Any], console: Console) -> Iterator[Session]:
    device = resolve_device(config["device"])
    check_factory(_place(config))
    trainer = Trainer(config, device)
    config = begin_from_another(trainer, config)
    # What the evaluation will ask for must be there: hours later it would be too late to say so.
    trainer.distribution.published(config["evaluate"]["split"], config["evaluate"]["tasks"])
    folder = RunFolder.create(config["run_dir"], name=f"{config['env']['name']}-{config['algo']['name']}")
    with folder.writing():
        RunFolder.create(folder.path)  # once more: another process may have begun a run there meanwhile
        session = Session(folder, config, trainer, Best(), 0.0)
        try:
            folder.write_config(config)
            session.save(0.0)  # a run that is stopped at any moment after this goes on where it was
        except MetaRLError:
            folder.abandon()
            raise
        console.print(f"run folder {folder.path}, device {device}")
        yield session


@contextmanager
def _resumed(config: dict[str, Any], console: Console) -> Iterator[Session]:
    folder = RunFolder.open(locate(config["resume"]), begun=False)
    if is_shipped(folder.path):
        raise _no_more(config["resume"])
    with folder.writing():
        # What the resumed run is, its folder says; only how long and where it runs may change.
        stored = stored_config(folder)
        given = {key: config[key] for key in ("budget", "device") if config[key] is not None}
        torch.set_num_threads(stored["torch_threads"])
        check_factory(_place(stored))
        session = Session(
            folder, stored | given, Trainer(stored, resolve_device((stored | given)["device"])), Best(), 0.0
        )
        if folder.unbegun():
            session.save(0.0)
        else:
            _load(session)
        _note(session, stored)
        console.print(f"resuming {folder.path} after iteration {session.trainer.iteration}")
        yield session


def _load(session: Session) -> None:
    """Continue from the newest sound checkpoint."""
    folder = session.folder
    iteration, tensors, numbers = folder.load_checkpoint()
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
        folder.prune(iteration, session.config["checkpoint"]["keep"])


def _no_more(run: object) -> RunFolderError:
    remedy = f"begin from its policy with algo.warm_start.run={run}"
    return RunFolderError(f"{run} lacks what training needs to go on; {remedy}")


def _note(session: Session, stored: Mapping[str, Any]) -> None:
    """Keep a new budget, for who resumes the run again; and say and note it if other versions continue it."""
    changes = {"budget": session.config["budget"]} if session.config["budget"] != stored["budget"] else {}
    now = versions()
    before = stored.get("versions")
    before = before if isinstance(before, dict) else {}
    others = [f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]]
    note = None
    if others:
        made = f"{session.folder.path} was made with {'; '.join(others)}"
        warnings.warn(f"{made}: it may not continue bit for bit", RunWarning, stacklevel=4)
        note = {"iteration": session.trainer.iteration, "versions": now}
        notes = stored.get("resumed")
        if isinstance(notes, list) and notes and notes[-1].get("versions") == now:
            note = None  # they are noted already
    if changes or note:
        session.folder.change_config(changes, note)


def _place(config: Mapping[str, Any]) -> str:
    return config["env"].get("entry") or config["env"]["name"]
