"""A run folder with only what acting and adapting need, to be given away."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from metarl.run_folder.checkpoints import save
from metarl.run_folder.files import atomic_write, guard, hidden, move_in, plain_name
from metarl.run_folder.folder import RunFolder

SLIM = "slim"  # in the state of a checkpoint that training cannot go on from
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
    config = source.read_config() | {"run_dir": None, "resume": None}
    checkpoint = source.load_checkpoint()
    tensors = {n: v for n, v in checkpoint.tensors.items() if not n.startswith("generator.") and ".optimiser." not in n}
    state = {name: checkpoint.state[name] for name in NUMBERS} | {SLIM: True}
    with guard(f"write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = RunFolder.create(hidden(target, "tmp"))
        try:
            atomic_write(temporary.path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
            for name, text in texts.items():
                atomic_write(temporary.path / plain_name(name), text.encode())
            folder = temporary.subfolder("checkpoints")
            save(folder, temporary.checkpoint_path(checkpoint.iteration), checkpoint.iteration, tensors, state)
            for split, result in splits.items():
                temporary.write_evaluation(split, result)
            move_in(temporary.path, target)
        finally:
            shutil.rmtree(temporary.path, ignore_errors=True)
    for replaced in target.parent.glob(f".{target.name}.*.old"):
        shutil.rmtree(replaced, ignore_errors=True)
    return RunFolder(target)
