"""The inner loop: all tasks in one call equal one task after the other; only the named parameters move."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Policy
from metarl.algorithms.adaptation import InnerStep, Parameters, adapt, clip_by_norm, inner_step, step_tasks
from metarl.algorithms.objectives import surrogate
from metarl.rollouts.episodes import Batch

TASKS = 3


def task(batch: Batch, index: int) -> Batch:
    """One task's part of a batch."""
    return Batch(*(x[index] for x in batch))


def norm(gradient: Parameters) -> float:
    return float(torch.cat([g.flatten() for g in gradient.values()]).norm())


def loss_of(policy: Policy) -> Callable[[Parameters, Batch], Tensor]:
    return lambda parameters, batch: surrogate(functional_call(policy, parameters, (batch.tokens,)), batch)


def step_of(policy: Policy, clip: float | None = None) -> InnerStep[Batch]:
    return partial(inner_step, loss_of(policy), max_norm=clip)


def plain_step(
    policy: Policy, parameters: Parameters, rates: Parameters, batch: Batch, clip: float | None
) -> Parameters:
    """One task's step by torch.autograd alone."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    loss = surrogate(functional_call(policy, leaves, (batch.tokens,)), batch)
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    scale = 1.0 if clip is None else min(1.0, clip / norm(grads))
    return {name: (value - rates[name] * scale * grads[name]).detach() for name, value in leaves.items()}


def start(policy: Policy, adapt_choice: str) -> tuple[Parameters, Parameters]:
    """Adapting parameters, and rates that differ from tensor to tensor."""
    names = sorted(policy.parameter_names(adapt_choice))
    own = dict(policy.named_parameters())
    return (
        {name: own[name].detach() for name in names},
        {name: torch.tensor(0.1 + 0.02 * index) for index, name in enumerate(names)},
    )


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("choice", ["all", "head", "body"])
def test_all_tasks_at_once_equal_a_loop_over_tasks(
    tiny_policy: Policy, make_batch: Callable[..., Batch], choice: str, clip: float | None
) -> None:
    before = {name: value.clone() for name, value in tiny_policy.state_dict().items()}
    step = step_of(tiny_policy, clip)
    parameters, rates = start(tiny_policy, choice)
    first, second = (make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in (0, 1))

    once = step_tasks(step, parameters, rates, first, per_task=False)
    twice = step_tasks(step, once, rates, second, per_task=True)

    assert set(once) == set(twice) == tiny_policy.parameter_names(choice)
    for m in range(TASKS):
        one = plain_step(tiny_policy, parameters, rates, task(first, m), clip)
        two = plain_step(tiny_policy, one, rates, task(second, m), clip)
        for name in parameters:
            torch.testing.assert_close(once[name][m], one[name], msg=lambda text, name=name: f"{name}: {text}")
            torch.testing.assert_close(twice[name][m], two[name], msg=lambda text, name=name: f"{name}: {text}")
            assert not torch.equal(two[name], parameters[name]), f"{name} never moved"
    assert not any(value.requires_grad for value in twice.values())
    assert all(torch.equal(value, before[name]) for name, value in tiny_policy.state_dict().items())


def test_one_task_steps_through_its_batches_in_turn(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    parameters, rates = start(tiny_policy, "all")
    batches = [task(make_batch(tiny_policy, 1, 2, 4, seed), 0) for seed in range(3)]
    later = {name: 0.5 * rate for name, rate in rates.items()}  # of every step after the first
    result = adapt(step_of(tiny_policy), parameters, [rates, later, later], batches)
    expected = plain_step(tiny_policy, parameters, rates, batches[0], None)
    for batch in batches[1:]:
        expected = plain_step(tiny_policy, expected, later, batch, None)
    for name in parameters:
        torch.testing.assert_close(result[name], expected[name])
    assert adapt(step_of(tiny_policy), parameters, [], []) == parameters


def test_a_step_goes_downhill(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    parameters, _ = start(tiny_policy, "all")
    batch = task(make_batch(tiny_policy, 1, 2, 4, 0), 0)
    loss = loss_of(tiny_policy)
    small = {name: torch.tensor(1e-3) for name in parameters}
    assert loss(inner_step(loss, parameters, small, batch), batch) < loss(parameters, batch)


def test_rates_may_be_of_the_parameters_shape() -> None:
    parameters, rates = {"a": torch.zeros(3)}, {"a": torch.tensor([1.0, 2.0, 3.0])}
    stepped = inner_step(lambda p, data: (p["a"] * data).sum(), parameters, rates, torch.tensor([1.0, 1.0, -1.0]))
    assert stepped["a"].tolist() == [-1.0, -2.0, 3.0]


def test_clipping_scales_the_whole_gradient_to_the_limit() -> None:
    gradient = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}  # norm 5
    clipped = clip_by_norm(gradient, 1.0)
    torch.testing.assert_close(clipped["a"], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(clipped["b"], torch.tensor([[0.8]]))
    assert clip_by_norm(gradient, None) is gradient
    for name, value in clip_by_norm(gradient, 5.1).items():
        assert torch.equal(value, gradient[name])
    assert all(torch.equal(v, torch.zeros_like(v)) for v in clip_by_norm({"a": torch.zeros(2)}, 1.0).values())
