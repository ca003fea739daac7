"""What the policy sees in training may be off, in each sequence by something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agents.mlp import MLPPolicy
from agents.policy import Policy
from envs.core.environment import Environment, Part
from envs.core.tasks import Tasks
from envs.registry import make
from metarl.config.composition import compose
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import collect
from metarl.training import trainer
from metarl.training.trainer import Trainer
from tests.metarl.together import CPU, IN_CONTEXT, REACH

N, H, SPREAD = 400, 4, torch.tensor([0.2, 3.0])


def world(count: int = N, first: int = 0) -> Environment:
    env = make("point2d", count, horizon=H)
    env.part = Part(first, N)
    env.set_tasks(Tasks({"goal": torch.tensor([[0.4, 0.1]])}))
    return env


def policy(trained: bool = True) -> Policy:
    torch.manual_seed(0)
    made = MLPPolicy(2, 2)
    if trained:
        tokens = torch.zeros(2, made.layout.size)
        tokens[:, :2] = torch.stack([SPREAD, -SPREAD])
        made.normaliser.update(tokens)
    return made


def seen(share: float, trained: bool = True, **options: Any) -> tuple[Episodes, Tensor]:
    """Episodes, and by what their observations (N, T, 2) are off: those of a hand that does not move, at 0."""
    env = options.pop("env", None) or world()
    env.step, step = (lambda action: step(0 * action)), env.step  # type: ignore[method-assign]
    made = policy(trained)
    generator = torch.Generator().manual_seed(1)
    played = collect(env, made, generator=generator, observation_offset=share, trial_episodes=2, **options)
    return played, made.layout.observation(played.tokens).flatten(0, 1)


def test_it_is_the_same_throughout_a_sequence_and_another_in_each() -> None:
    _, off = seen(0.5)
    assert off.shape == (N, 2 * H, 2)
    assert torch.equal(off, off[:, :1].expand_as(off))
    assert len(off[:, 0].unique(dim=0)) == N
    torch.testing.assert_close(off[:, 0].std(0), 0.5 * SPREAD / 1.25**0.5, rtol=0.1, atol=0.0)
    assert (off[:, 0].mean(0) / SPREAD).abs().max() < 0.1


def test_nothing_is_off_before_the_policy_has_seen_anything_or_without_the_setting() -> None:
    for share, trained in ((0.5, False), (0.0, True)):
        _, off = seen(share, trained)
        assert not off.any()


def test_without_it_nothing_is_drawn_but_the_noise_of_the_actions() -> None:
    drawn, expected = (torch.Generator().manual_seed(1) for _ in range(2))
    collect(world(), policy(), generator=drawn)
    torch.randn(H, N, 2, generator=expected)
    assert torch.equal(drawn.get_state(), expected.get_state())


def test_a_part_of_the_simulations_is_off_as_it_is_in_the_whole() -> None:
    _, whole = seen(0.5)
    _, part = seen(0.5, env=world(N // 4, N // 2))
    assert torch.equal(part, whole[N // 2 : N // 2 + N // 4])


def test_training_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def noted(*arguments: Any, **options: Any) -> Episodes:
        given.append(options["observation_offset"])
        return collect(*arguments, **options)

    monkeypatch.setattr(trainer, "collect", noted)
    Trainer(compose([*REACH, *IN_CONTEXT, "algo.observation_offset=0.3"]), CPU).iterate()
    assert given == [0.3]
