"""A run folder with only what acting and adapting need: to be given away, or of a policy that has adapted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from metarl.errors import CheckpointError, RunFolderError
from metarl.run_folder.checkpoints import Checkpoint, save
from metarl.run_folder.files import atomic_write, check_replaceable, guard, hidden, left_over, move_in, plain_name
from metarl.run_folder.folder import RunFolder

SLIM = "slim"  # in the state of a checkpoint that training cannot go on from
ADAPTED = "adapted"  # likewise, of a policy that has adapted: what it was adapted on
OURS = frozenset({"config.yaml", "checkpoints", "evaluation", "videos", "report.html"})  # in the folder of one
NUMBERS = ("iteration", "env_steps", "seconds")


def slim_copy(
    source: RunFolder, target: Path, texts: Mapping[str, str], splits: Mapping[str, Mapping[str, Any]]
) -> RunFolder:
    """Write configuration, newest checkpoint and evaluations of a run to `target`, whole or not at all.

    The checkpoint has the policy and what learners know, without optimisers and random generators.

    Args:
        texts: files to put beside them, such as COMMAND, which says what made the run.
        splits: the evaluations to give away, by split.

    Raises:
        RunFolderError: if it cannot be written. CheckpointError: if the run has no sound checkpoint.
    """
    checkpoint = source.load_checkpoint()
    tensors = {n: v for n, v in checkpoint.tensors.items() if not n.startswith("generator.") and ".optimiser." not in n}
    state = {name: checkpoint.state[name] for name in NUMBERS} | {SLIM: True}
    return _put(source, target, Checkpoint(checkpoint.iteration, tensors, state), texts, splits)


def keep_adapted(source: RunFolder, target: Path, checkpoint: Checkpoint) -> RunFolder:
    """Write a policy that has adapted to `target`, whole or not at all; one that was kept there is replaced.

    Args:
        source: the run whose policy it is. checkpoint: its state has `ADAPTED`.

    Raises:
        RunFolderError: if it cannot be written, or something else is there.
    """
    check_free(target)
    return _put(source, target, checkpoint)


def check_free(target: Path) -> None:
    """Refuse a place where something else is than a policy that was kept and what our commands made of it.

    Raises:
        RunFolderError: in one line.
    """
    check_replaceable(target, _is_kept, "a policy that was kept and nothing else")


def _is_kept(folder: Path) -> bool:
    """Whether a policy was kept there, or nothing is there but what a crash has left."""
    there = [entry.name for entry in folder.iterdir() if not left_over(entry)] if folder.is_dir() else ["a file"]
    if not OURS.issuperset(there):
        return False
    if not there:
        return True
    try:
        return ADAPTED in RunFolder.open(folder).load_checkpoint().state
    except (RunFolderError, CheckpointError):
        return False


def _put(
    source: RunFolder,
    target: Path,
    checkpoint: Checkpoint,
    texts: Mapping[str, str] = MappingProxyType({}),
    splits: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> RunFolder:
    config = source.read_config() | {"run_dir": None, "resume": None}
    with guard(f"write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = RunFolder.create(hidden(target, "tmp"))
        try:
            atomic_write(temporary.path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
            for name, text in texts.items():
                atomic_write(temporary.path / plain_name(name), text.encode())
            folder, final = temporary.subfolder("checkpoints"), temporary.checkpoint_path(checkpoint.iteration)
            save(folder, final, checkpoint.iteration, checkpoint.tensors, checkpoint.state)
            for split, result in splits.items():
                temporary.write_evaluation(split, result)
            move_in(temporary.path, target)
        finally:
            shutil.rmtree(temporary.path, ignore_errors=True)
    for replaced in target.parent.glob(f".{target.name}.*.old"):
        shutil.rmtree(replaced, ignore_errors=True)
    return RunFolder(target)
