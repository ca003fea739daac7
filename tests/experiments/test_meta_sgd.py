"""Meta-SGD: its steps and gradients against plain autograd, its rates, and a run from training to acting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.mlp import MLPPolicy
from experiments.meta_sgd import MetaSGD, MetaSGDSettings
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.objectives import ppo, surrogate
from metarl.config.algorithms import PPO, MetaInnerLoop
from metarl.rollouts.episodes import Batch
from tests.metarl.conftest import craft_batch
from tests.metarl.own import live_through

TASKS, LEARNING_RATE = 3, 1e-2


@pytest.fixture
def policy() -> MLPPolicy:
    torch.manual_seed(0)
    policy = MLPPolicy(3, 2, hidden=(4,), activation="tanh").double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return policy


def learner(policy: MLPPolicy, **inner: float | str) -> MetaSGD:
    outer = PPO(learning_rate=LEARNING_RATE, n_epochs=1, minibatches=1, entropy_coef=0.01, max_grad_norm=1e9)
    loop = MetaInnerLoop(rate=0.3, rate_multiplier=1.0, unadapted_weight=0.0).model_copy(update=inner)
    settings = MetaSGDSettings(name="own", tasks=TASKS, episodes=2, inner=loop, outer=outer, rate_spread=0.5)
    return MetaSGD(policy, settings, torch.Generator())


def task(batch: Batch, m: int) -> Batch:
    return Batch(*(x[m] for x in batch))


def plain_step(policy: MLPPolicy, theta: Parameters, alpha: Parameters, batch: Batch) -> Parameters:
    """theta - alpha * grad L(theta), one task."""
    loss = surrogate(functional_call(policy, theta, (batch.tokens,)), batch)
    gradients = torch.autograd.grad(loss, [theta[name] for name in alpha], create_graph=True)
    return {**theta, **{n: theta[n] - alpha[n] * g for n, g in zip(alpha, gradients, strict=True)}}


def leaves(tensors: Mapping[str, Tensor]) -> Parameters:
    return {name: value.detach().clone().requires_grad_() for name, value in tensors.items()}


def plain_gradient(
    policy: MLPPolicy, theta: Parameters, alpha: Parameters, rounds: Sequence[Batch]
) -> tuple[Tensor, ...]:
    *support, query = rounds
    total = torch.zeros((), dtype=torch.float64)
    for m in range(TASKS):
        moved = theta
        for batch in support:
            moved = plain_step(policy, moved, alpha, task(batch, m))
        after = task(query, m)
        total = total + ppo(functional_call(policy, moved, (after.tokens,)), after, 0.2, 0.5, 0.01) / TASKS
    return torch.autograd.grad(total, [*theta.values(), *alpha.values()])


def mixed_signs(each: MetaSGD) -> None:
    for rate in each.rate_parameters.values():
        rate.mul_(torch.randn_like(rate).sign())


@pytest.mark.parametrize("steps", [1, 2])
def test_start_and_rates_get_the_gradient_of_a_plain_loop(policy: MLPPolicy, steps: int) -> None:
    ours = learner(policy, steps=steps)
    mixed_signs(ours)
    theta, alpha = leaves(ours.parameters), leaves(ours.rate_parameters)
    rounds = [craft_batch(policy, TASKS, 2, 4, seed) for seed in range(steps + 1)]
    theirs = plain_gradient(policy, theta, alpha, rounds)
    assert ours.rounds == steps + 1
    ours.update(rounds)
    moved = {**ours.parameters, **{f"rate of {name}": rate for name, rate in ours.rate_parameters.items()}}
    for (name, value), gradient, before in zip(moved.items(), theirs, [*theta.values(), *alpha.values()], strict=True):
        torch.testing.assert_close(value.grad, gradient, rtol=1e-7, atol=1e-10, msg=name)
        # The first step of Adam, at the same learning rate for both.
        step = LEARNING_RATE * gradient / (gradient.abs() + 1e-5)
        torch.testing.assert_close(value.detach(), before.detach() - step, rtol=1e-6, atol=1e-9, msg=name)
    assert alpha.keys() == policy.parameter_names("all")


def test_all_tasks_step_at_the_same_rates_of_either_sign(policy: MLPPolicy) -> None:
    ours = learner(policy, adapt="head")
    mixed_signs(ours)
    batch = craft_batch(policy, TASKS, 2, 4, 0)
    adapted = ours.adapt(None, batch)
    assert adapted.keys() == policy.head_names()
    for m in range(TASKS):
        expected = plain_step(policy, leaves(ours.parameters), ours.rate_parameters, task(batch, m))
        for name, value in adapted.items():
            torch.testing.assert_close(value[m], expected[name].detach())


def test_the_rates_begin_at_random_in_their_range(policy: MLPPolicy) -> None:
    rates = {name: rate for name, rate in learner(policy).rates().items()}
    assert {name: rate.shape for name, rate in rates.items()} == {
        name: value.shape for name, value in policy.named_parameters() if not name.startswith("critic.")
    }
    drawn = torch.cat([rate.flatten() for rate in rates.values()])
    assert drawn.min() >= 0.15 and drawn.max() <= 0.45 and drawn.std() > 0.05
    torch.manual_seed(5)
    one = learner(policy).rates()
    torch.manual_seed(5)
    assert all(torch.equal(one[name], rate) for name, rate in learner(policy).rates().items())


def test_a_rate_may_become_negative(policy: MLPPolicy) -> None:
    ours = learner(policy, rate=1e-4)
    metrics = ours.update([craft_batch(policy, TASKS, 2, 4, seed) for seed in range(2)])
    rates = torch.cat([rate.flatten() for rate in ours.rates().values()])
    assert 0 < metrics["negative_rates"] < 1
    assert metrics["negative_rates"] == pytest.approx(float((rates < 0).double().mean()))
    assert metrics["rate_deviation"] == pytest.approx(float(rates.std()))


def test_from_training_to_acting(tmp_path: Path) -> None:
    given = ["algo.warm_start.iterations=0", "agent.context=none", "agent.width=8", "algo.rate_spread=0.25"]
    agent = live_through(tmp_path, "algo=experiments.meta_sgd:MetaSGD", *given)
    learned = agent.run.learner
    assert isinstance(learned, MetaSGD) and learned.settings.rate_spread == 0.25
    kept = agent.run.folder.load_checkpoint().tensors  # under the name that rates have in every checkpoint
    assert all(torch.equal(rate, kept[f"learner.0.log_rate.{name}"]) for name, rate in learned.rates().items())
