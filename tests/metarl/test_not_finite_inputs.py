"""A checkpoint, an observation or an action that is not finite is refused or named before it can do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.policy import Critic, Normaliser
from agents.token import TokenLayout
from envs.core.environment import Step
from envs.registry import make
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import CheckpointError, TrainingError
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


@pytest.mark.parametrize("size", [1e25, 1e30, 3e38])
def test_numbers_too_large_to_be_normalised_are_told_and_the_run_goes_on(
    size: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    trained = [*POINT, "algo.baseline=critic", "evaluate.episodes_per_step=1", f"run_dir={path}"]
    env = type(Trainer(compose(POINT), CPU).environments[8])
    observe = env.observe

    def huge(self: Any) -> Tensor:
        observation = observe(self)
        observation[len(observation) // 2, 1] = size
        return observation

    monkeypatch.setattr(env, "observe", huge)
    train(compose([*trained, "budget.iterations=2"]))
    text = capsys.readouterr().out
    assert text.count("observation entry 1 is too large to be normalised in task") == 1
    assert f"control step 0: {size:.0e}" in text
    train(compose([f"resume={path}", "budget.iterations=3"]))
    assert open_run(path).iteration == 3


def test_targets_too_large_to_be_scaled_leave_the_critic_alone() -> None:
    critic = Critic(torch.nn.Linear(2, 1))
    critic.rescale(torch.randn(20))
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    for value in (1e30, torch.inf, torch.nan):
        critic.rescale(torch.tensor([1.0, value, -2.0]))
        assert all(torch.equal(x, before[name]) for name, x in critic.state_dict().items())
    critic.rescale(torch.randn(20))
    assert critic.count == 2


@pytest.mark.parametrize(("iterations", "heals_at"), [(1, 99), (3, 99), (40, 99), (3, 2), (22, 15)])
def test_a_training_whose_episodes_all_fail_ends_with_an_error(
    iterations: int, heals_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end, or after twenty iterations without one that was played; a bad beginning alone is forgiven."""
    trainer = Trainer(compose(POINT), CPU)
    env = type(trainer.environments[8])
    step, calls = env.step, []

    def fails(self: Any, action: Tensor) -> Step:
        done = step(self, action)
        calls.append(1)
        failed = torch.full_like(done.failed, len(calls) <= (heals_at - 1) * 2 * self.horizon)
        return done._replace(failed=failed, terminated=done.terminated | failed)

    monkeypatch.setattr(env, "step", fails)
    command = [*POINT, "evaluate.episodes_per_step=1", f"budget.iterations={iterations}", f"run_dir={tmp_path}"]
    if heals_at < iterations:
        train(compose(command))
        return
    number = min(iterations, 20)
    which = "the last iteration" if number == 1 else f"the last {number} iterations"
    with pytest.raises(TrainingError, match=f"^every episode of {which} failed: point2d: an episode failed in sim"):
        train(compose(command))
    assert RunFolder.open(tmp_path).iterations()[-1] == number
