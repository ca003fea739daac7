"""The losses: their gradients by hand, where clipping silences them, and the silence of masked steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from agents.policy import Output, Policy, entropy, log_probability
from metarl.algorithms.objectives import clipped_surrogate, mean_valid, ppo, surrogate, value_loss
from metarl.rollouts.episodes import Batch

CLIP = 0.2
Loss = Callable[[Output, Batch], Tensor]
LOSSES: dict[str, Loss] = {
    "surrogate": surrogate,
    "clipped": lambda output, batch: clipped_surrogate(output, batch, CLIP),
    "value": value_loss,
    "ppo": lambda output, batch: ppo(output, batch, CLIP, 0.5, 0.01),
}


@pytest.fixture
def batch(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> Batch:
    """One task's sequences (E, T, ...), some of which end early."""
    return Batch(*(x[0] for x in make_batch(tiny_policy, 1, 5, 4, 0)))


def gradient(policy: Policy, loss: Callable[[Output], Tensor], batch: Batch) -> dict[str, Tensor]:
    named = dict(policy.named_parameters())
    grads = torch.autograd.grad(loss(policy(batch.tokens)), list(named.values()), allow_unused=True)
    return {
        name: torch.zeros((), dtype=torch.float64) if g is None else g for name, g in zip(named, grads, strict=True)
    }


def one_step(ratio: float, advantage: float) -> tuple[Output, Batch, Tensor]:
    """A single step whose probability ratio is given; the mean of the action is the leaf."""
    mean = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    output = Output(mean, torch.zeros(1, 1, 2).double(), torch.zeros(1, 1).double())
    action = torch.ones(1, 1, 2).double()
    old = log_probability(output, action).detach() - torch.tensor(ratio).double().log()
    rest = torch.full((1, 1), advantage).double()
    return output, Batch(torch.zeros(1, 1, 7).double(), action, old, rest, rest, torch.ones(1, 1).double(), rest), mean


def test_the_gradient_at_the_acting_policy_is_the_policy_gradient(tiny_policy: Policy, batch: Batch) -> None:
    """REINFORCE by hand: the mean over steps of -advantage * grad log pi; ratio 1 and its gradient are all there is."""
    with torch.no_grad():
        acting = log_probability(tiny_policy(batch.tokens), batch.actions)
    batch = batch._replace(log_probability=acting)
    expected = {name: torch.zeros_like(p) for name, p in tiny_policy.named_parameters()}
    steps = batch.valid.nonzero().tolist()
    for episode, t in steps:
        score = log_probability(tiny_policy(batch.tokens), batch.actions)[episode, t]
        grads = torch.autograd.grad(score, list(tiny_policy.parameters()), allow_unused=True)
        for name, g in zip(expected, grads, strict=True):
            if g is not None:
                expected[name] -= batch.advantage[episode, t] * g / len(steps)
    for loss in (LOSSES["surrogate"], LOSSES["clipped"]):
        for name, value in gradient(tiny_policy, lambda output, loss=loss: loss(output, batch), batch).items():
            torch.testing.assert_close(value.expand_as(expected[name]), expected[name], rtol=1e-9, atol=1e-12)


def test_the_surrogate_is_the_mean_weighted_ratio(tiny_policy: Policy, batch: Batch) -> None:
    output = tiny_policy(batch.tokens)
    total, count = 0.0, 0
    for episode, t in batch.valid.nonzero().tolist():
        normal = torch.distributions.Normal(output.mean[episode, t], torch.exp(output.log_std[episode, t]))
        log_ratio = normal.log_prob(batch.actions[episode, t]).sum() - batch.log_probability[episode, t]
        total += float((torch.exp(log_ratio) * batch.advantage[episode, t]).detach())
        count += 1
    assert float(surrogate(output, batch).detach()) == pytest.approx(-total / count)


@pytest.mark.parametrize(
    ("ratio", "advantage", "silent"),
    [
        (1.3, 1.0, True),  # already more likely than asked
        (0.7, -1.0, True),  # already less likely than asked
        (1.3, -1.0, False),  # the wrong way: still corrected
        (0.7, 1.0, False),
        (1.1, 1.0, False),
        (0.9, -1.0, False),
        (1.0, 1.0, False),
    ],
)
def test_clipping_silences_what_has_moved_far_enough(ratio: float, advantage: float, silent: bool) -> None:
    output, batch, mean = one_step(ratio, advantage)
    loss = clipped_surrogate(output, batch, CLIP)
    (slope,) = torch.autograd.grad(loss, mean)
    if silent:
        assert bool((slope == 0).all())
        assert float(loss.detach()) == pytest.approx(-advantage * (1.0 + CLIP if ratio > 1 else 1.0 - CLIP))
    else:
        # d ratio / d mean = ratio * (action - mean) / std^2
        torch.testing.assert_close(slope, torch.full_like(slope, -advantage * ratio))
        assert float(loss.detach()) == pytest.approx(-advantage * ratio)


def test_the_critic_learns_half_the_squared_error(tiny_policy: Policy, batch: Batch) -> None:
    output = tiny_policy(batch.tokens)
    error = (output.value - batch.target)[batch.valid > 0]
    torch.testing.assert_close(value_loss(output, batch), 0.5 * error.square().mean())
    torch.testing.assert_close(value_loss(output, batch, 3.0), 0.5 * error.square().mean() / 9.0)


@pytest.mark.parametrize(("value", "bonus"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.01), (0.7, 0.02)])
def test_ppo_is_the_sum_of_its_parts(tiny_policy: Policy, batch: Batch, value: float, bonus: float) -> None:
    output = tiny_policy(batch.tokens)
    parts = clipped_surrogate(output, batch, CLIP) + value * value_loss(output, batch)
    parts = parts - bonus * entropy(output)[batch.valid > 0].mean()
    torch.testing.assert_close(ppo(output, batch, CLIP, value, bonus), parts)


@pytest.mark.parametrize("name", LOSSES)
def test_masked_steps_have_no_influence(tiny_policy: Policy, batch: Batch, name: str) -> None:
    """Neither on the loss nor on its gradient, whatever the actions, advantages and targets there."""
    masked = batch.valid == 0
    assert bool(masked.any())
    noise = torch.randn(batch.valid.shape, dtype=torch.float64)
    other = batch._replace(
        actions=torch.where(masked[..., None], batch.actions + 1.0, batch.actions),
        log_probability=torch.where(masked, noise, batch.log_probability),
        advantage=torch.where(masked, 5.0 * noise, batch.advantage),
        target=torch.where(masked, -5.0 * noise, batch.target),
    )
    loss = LOSSES[name]
    torch.testing.assert_close(loss(tiny_policy(batch.tokens), batch), loss(tiny_policy(batch.tokens), other))
    ours, theirs = (gradient(tiny_policy, lambda output, b=b: loss(output, b), b) for b in (batch, other))
    for parameter, value in ours.items():
        torch.testing.assert_close(value, theirs[parameter], rtol=1e-10, atol=1e-14)


def test_the_mean_is_over_valid_steps_and_of_nothing_is_zero() -> None:
    x, valid = torch.tensor([[1.0, 2.0], [3.0, 100.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert float(mean_valid(x, valid)) == 2.0
    assert float(mean_valid(x, torch.zeros(2, 2))) == 0.0
