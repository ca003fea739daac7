"""Reptile against its equation, and its update against a plain loop of gradient steps and one interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Policy
from metarl.algorithms.objectives import surrogate, value_loss
from metarl.algorithms.reptile import Reptile, interpolate
from metarl.config.algorithms import InnerSteps, Interpolation, ReptileSettings
from metarl.rollouts.episodes import Batch

TASKS, RATE, EPSILON, VALUE = 3, 0.2, 0.6, 0.7


def settings(steps: int, **inner: Any) -> ReptileSettings:
    return ReptileSettings(
        tasks=TASKS,
        episodes=2,
        inner=InnerSteps(steps=steps, rate=RATE, **inner),
        outer=Interpolation(meta_step_size=EPSILON, value_coef=VALUE),
    )


def plain_update(
    policy: Policy, names: set[str], rounds: list[Batch], clip: float | None, later_rate: float
) -> dict[str, Tensor]:
    """theta + epsilon * mean_m(theta_m - theta), theta_m by stochastic gradient descent on task m's batches in turn."""
    own = {name: value.detach().clone() for name, value in policy.named_parameters()}
    results = []
    for m in range(TASKS):
        theta = {name: own[name].clone().requires_grad_() for name in sorted(names)}
        descent = torch.optim.SGD(list(theta.values()), lr=RATE)
        for batch in rounds:
            task = Batch(*(x[m] for x in batch))
            output = functional_call(policy, theta, (task.tokens,))
            descent.zero_grad()
            (surrogate(output, task) + VALUE * value_loss(output, task)).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(list(theta.values()), clip)
            descent.step()
            descent.param_groups[0]["lr"] = RATE * later_rate
        results.append(theta)
    return {
        name: own[name] + EPSILON * sum(theta[name].detach() - own[name] for theta in results) / TASKS for name in names
    }


def test_interpolation_moves_towards_the_mean_of_the_tasks() -> None:
    parameters = {"a": torch.tensor([1.0, 2.0])}
    adapted = {"a": torch.tensor([[3.0, 2.0], [5.0, -2.0]])}  # mean [4, 0]
    assert interpolate(parameters, adapted, 0.5)["a"].tolist() == [2.5, 1.0]
    assert interpolate(parameters, adapted, 0.0)["a"].tolist() == [1.0, 2.0]
    assert interpolate(parameters, adapted, 1.0)["a"].tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("steps", "adapt", "clip", "later_rate"),
    [
        (0, "all", None, 1.0),
        (1, "all", None, 1.0),
        (2, "all", 0.05, 0.5),
        (2, "head", None, 1.0),
        (1, "body", 0.05, 1.0),
    ],
)
def test_an_update_is_a_plain_loop_and_an_interpolation(
    tiny_policy: Policy,
    make_batch: Callable[..., Batch],
    steps: int,
    adapt: str,
    clip: float | None,
    later_rate: float,
) -> None:
    options = settings(steps, adapt=adapt, max_grad_norm=clip, later_rate=later_rate)
    learner = Reptile(tiny_policy, options, torch.Generator())
    assert learner.rounds == steps + 1
    rounds = [make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in range(steps + 1)]
    before = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}
    moving = set(tiny_policy.parameter_names(adapt) | tiny_policy.critic_names())
    expected = plain_update(tiny_policy, moving, rounds, clip, later_rate)

    metrics = learner.update(rounds)

    length = 0.0
    for name, parameter in tiny_policy.named_parameters():
        if name in moving:
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(parameter, before[name]), f"{name} never moved"
        else:
            assert torch.equal(parameter, before[name]), f"{name} moved"
        length += float((parameter.detach() - before[name]).square().sum())
    assert metrics["step_length"] == pytest.approx(length**0.5)
    assert (metrics["updates"], metrics["skipped_updates"]) == (1.0, 0.0)


def test_what_adapts_between_rounds_is_what_the_update_repeats(
    tiny_policy: Policy, make_batch: Callable[..., Batch]
) -> None:
    """The critic adapts with the policy, from the same start."""
    learner = Reptile(tiny_policy, settings(1, adapt="head"), torch.Generator())
    batch = make_batch(tiny_policy, TASKS, 2, 4, 0)
    adapted = learner.adapt(None, batch)
    assert set(adapted) == tiny_policy.head_names() | tiny_policy.critic_names()
    own = dict(tiny_policy.named_parameters())
    start = {name: own[name].detach().clone() for name in adapted}
    learner.update([batch])
    for name, value in interpolate(start, adapted, EPSILON).items():
        torch.testing.assert_close(own[name].detach(), value)


def test_an_update_that_is_not_finite_is_skipped(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    learner = Reptile(tiny_policy, settings(0), torch.Generator())
    batch = make_batch(tiny_policy, TASKS, 2, 4, 0)
    broken = batch._replace(inner_advantage=batch.inner_advantage.clone())
    broken.inner_advantage[1, 0, 0] = torch.nan
    before = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}
    metrics = learner.update([broken])
    assert metrics["skipped_updates"] == metrics["updates"] == 1.0
    assert all(torch.equal(value, before[name]) for name, value in tiny_policy.named_parameters())
