"""In-context learning and multi-task training: PPO on minibatches of whole sequences, as a plain optimiser does it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from agents.policy import Policy
from metarl.algorithms.in_context import InContext, shared_gradient
from metarl.algorithms.objectives import ppo, surrogate
from metarl.config.algorithms import PPO, InContextSettings, InnerLoop
from metarl.rollouts.episodes import Batch

TASKS, EPISODES = 3, 2
OUTER = PPO(
    learning_rate=1e-2,
    n_epochs=2,
    minibatches=3,
    clip_range=0.15,
    value_coef=0.7,
    entropy_coef=0.02,
    max_grad_norm=0.05,
)


def settings(outer: PPO = OUTER) -> InContextSettings:
    return InContextSettings(tasks=TASKS, episodes=EPISODES, inner=InnerLoop(rate=0.3, adapt="head"), outer=outer)


def test_the_update_is_ppo_with_adam(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(tiny_policy, TASKS, EPISODES, 4, 0)
    learner = InContext(tiny_policy, settings(), torch.Generator().manual_seed(7))
    start = {name: value.clone() for name, value in tiny_policy.state_dict().items()}
    metrics = learner.update([batch])
    ours = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}

    tiny_policy.load_state_dict(start)
    optimiser = torch.optim.Adam(tiny_policy.parameters(), lr=OUTER.learning_rate, eps=1e-5)
    generator = torch.Generator().manual_seed(7)
    sequences = [x.reshape(TASKS * EPISODES, *x.shape[2:]) for x in batch]
    losses = []
    for _ in range(OUTER.n_epochs):
        for index in torch.randperm(TASKS * EPISODES, generator=generator).chunk(OUTER.minibatches):
            part = Batch(*(x[index] for x in sequences))
            loss = ppo(tiny_policy(part.tokens), part, OUTER.clip_range, OUTER.value_coef, OUTER.entropy_coef)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tiny_policy.parameters(), OUTER.max_grad_norm)
            optimiser.step()
            losses.append(float(loss.detach()))
    for name, parameter in tiny_policy.named_parameters():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=1e-7, atol=1e-9, msg=name)
        assert not torch.equal(ours[name], start[name]), f"{name} never moved"
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses))
    assert (metrics["updates"], metrics["skipped_updates"]) == (6.0, 0.0)


def test_there_are_never_more_minibatches_than_sequences(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    learner = InContext(tiny_policy, settings(PPO(n_epochs=1, minibatches=50)), torch.Generator())
    assert learner.update([make_batch(tiny_policy, TASKS, EPISODES, 4, 0)])["updates"] == TASKS * EPISODES


def test_one_round_is_enough_and_fine_tuning_is_a_plain_step(
    tiny_policy: Policy, make_batch: Callable[..., Batch]
) -> None:
    learner = InContext(tiny_policy, settings(), torch.Generator())
    assert learner.rounds == 1
    batch = make_batch(tiny_policy, TASKS, EPISODES, 4, 0)
    adapted = learner.adapt(None, batch)
    assert set(adapted) == tiny_policy.head_names()
    own = dict(tiny_policy.named_parameters())
    task = Batch(*(x[1] for x in batch))
    names = sorted(adapted)
    grads = torch.autograd.grad(surrogate(tiny_policy(task.tokens), task), [own[name] for name in names])
    for name, g in zip(names, grads, strict=True):
        torch.testing.assert_close(adapted[name][1], own[name].detach() - 0.3 * g)


@pytest.mark.parametrize("share", ["some", "all"])
def test_gradients_that_are_not_finite_are_skipped_and_counted(
    tiny_policy: Policy, make_batch: Callable[..., Batch], share: str
) -> None:
    batch = make_batch(tiny_policy, TASKS, EPISODES, 4, 0)
    advantage = batch.advantage.clone()
    advantage[(slice(None) if share == "all" else 0), 0, 0] = torch.inf
    learner = InContext(tiny_policy, settings(PPO(n_epochs=2, minibatches=6)), torch.Generator())
    before = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}
    metrics = learner.update([batch._replace(advantage=advantage)])
    assert metrics["updates"] == 12.0
    assert metrics["skipped_updates"] == (6.0 if share == "all" else 2.0)
    assert all(bool(torch.isfinite(value).all()) for value in tiny_policy.parameters())
    assert not all(torch.equal(value, before[name]) for name, value in tiny_policy.named_parameters())


def test_threads_share_the_gradient(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(tiny_policy, TASKS, EPISODES, 4, 0)
    sequences = Batch(*(x.flatten(0, 1) for x in batch))
    sequences.valid[0, 2:] = 0.0  # shares of unequal weight
    learner = InContext(tiny_policy, settings(), torch.Generator())
    loss = learner.outer_loss({}, sequences)
    expected = torch.autograd.grad(loss, list(tiny_policy.parameters()))
    for learner.workers in (1, 2, 4, 100):
        gradients, _, shared_loss = shared_gradient(learner.twins(), sequences)
        assert float(shared_loss) == pytest.approx(float(loss.detach()), rel=1e-6)
        assert list(gradients) == [name for name, _ in tiny_policy.named_parameters()]
        for ours, gradient in zip(gradients.values(), expected, strict=True):
            torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-7)
