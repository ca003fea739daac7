"""The same seed and configuration give the same bits: in every family, in another process, on more threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from envs.registry import names
from metarl.config.composition import compose
from metarl.run_folder import RunFolder
from metarl.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = ["env.horizon=3", "algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1", "algo.outer.minibatches=1"]
SMALL += ["agent=transformer", "agent.width=8", "agent.layers=1", "algo.warm_start.iterations=0", "checkpoint.every=1"]
SMALL += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "budget.iterations=2", "device=cpu"]
SMALL += ["report=page"]


@pytest.mark.parametrize("name", names())
def test_every_family_goes_on_where_it_stopped(name: str) -> None:
    """What an environment remembers from one iteration to the next is in the state, whatever the physics' threads."""
    config = compose([f"env={name}", "algo=in_context", *SMALL[:8]])
    whole = Trainer(config.model_copy(update={"threads": 2}), CPU)
    whole.iterate()
    resumed = Trainer(config.model_copy(update={"threads": 1}), CPU)
    resumed.load(*whole.state())
    ours, theirs = whole.iterate(), resumed.iterate()
    assert {k: v for k, v in ours.items() if "seconds" not in k} == {
        k: v for k, v in theirs.items() if "seconds" not in k
    }
    (ours, numbers), (theirs, other_numbers) = whole.state(), resumed.state()
    assert numbers == other_numbers and ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    """With other hashes of names, and other threads of the physics."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, seed, threads in zip(paths, ("1", "2"), (1, 2), strict=True):
        command = [sys.executable, "-m", "metarl.train", "env=reach", *SMALL, f"threads={threads}", f"run_dir={path}"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=300)
    one, two = (RunFolder.open(path).load_checkpoint(2) for path in paths)
    assert list(one.tensors) == list(two.tensors)
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], two.tensors[name])] == []
    evaluations = [RunFolder.open(path).read_evaluation("test") for path in paths]
    assert evaluations[0] == evaluations[1]
