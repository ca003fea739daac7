"""A checkpoint, an observation or an action that is not finite is refused or named before it can do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.policy import Normaliser
from agents.token import TokenLayout
from envs.registry import make
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import CheckpointError
from metarl.run_folder import RunFolder
from metarl.runs import train
from metarl.training.trainer import Trainer

CPU = torch.device("cpu")
POINT = ["env=point2d", "env.horizon=5", "algo.tasks=4", "algo.episodes=2", "agent.hidden=[4]", "evaluate.tasks=2"]


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    train(compose([*POINT, "budget.iterations=1", "evaluate.episodes_per_step=1", f"run_dir={tmp_path / 'run'}"]))
    folder = RunFolder.open(tmp_path / "run")
    _, tensors, state = folder.load_checkpoint()
    tensors["policy.head.bias"][0] = torch.nan
    folder.save_checkpoint(2, tensors, state)
    with pytest.raises(CheckpointError, match=r"the checkpoint's policy is not finite: head\.bias"):
        open_run(tmp_path / "run")


def test_tokens_that_are_not_finite_leave_the_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    normaliser = Normaliser(TokenLayout(2, 1))
    assert normaliser.update(torch.randn(50, 5))
    before = {name: value.clone() for name, value in normaliser.state_dict().items()}
    for value in (torch.nan, torch.inf):
        tokens = torch.randn(50, 5)
        tokens[7, 1] = value
        assert not normaliser.update(tokens)
        assert all(torch.equal(x, before[name]) for name, x in normaliser.state_dict().items())
    assert normaliser.update(torch.randn(50, 5)) and normaliser.count == 100
    # Clipped to the normaliser's limit an infinite observation reaches no gradient, so nothing is skipped: it is named.
    trainer = Trainer(compose([*POINT]), CPU)
    env = trainer.environments[8]
    observe = type(env).observe

    def infinite(self: Any) -> Tensor:
        observation = observe(self)
        observation[5, 1] = torch.inf
        return observation

    monkeypatch.setattr(type(env), "observe", infinite)
    row = trainer.iterate()
    assert row["skipped_updates"] == 0.0 and trainer.policy.normaliser.count == 0
    assert trainer.troubles[-1].startswith("observation entry 1 is not finite in task 2 {'goal': [")
    assert trainer.troubles[-1].endswith("sequence 1, control step 0")


def test_an_action_that_is_not_finite_is_no_failure_of_the_physics() -> None:
    env = make("reach", 4, threads=1)
    env.set_tasks(env.distribution.sample(2))
    env.reset()
    action = torch.zeros(4, env.action_size)
    env.step(action)
    action[2, 1] = torch.nan
    env.step(action)
    assert env.last_failure == f"reach: the action is not finite in simulation 2, {env.task_of(2)}"
