"""The GRU: its equations, its memory, gradients through gradients, and a run from training to acting."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Policy
from envs.registry import make
from experiments.gru import GRUPolicy
from metarl.algorithms.adaptation import Parameters, inner_step
from metarl.algorithms.maml import meta_gradient, meta_loss
from metarl.algorithms.objectives import ppo, surrogate
from metarl.config.composition import compose
from metarl.rollouts.episodes import Batch
from metarl.rollouts.rollout import collect
from tests.metarl.conftest import craft_batch
from tests.metarl.own import live_through

D, A, T, SIZE = 2, 2, 5, 4


@pytest.fixture
def policy() -> GRUPolicy:
    """In float64, every parameter away from its start, and statistics of its own."""
    torch.manual_seed(0)
    policy = GRUPolicy(D, A, 2 * T, hidden_size=SIZE, context="trial", initial_std=0.5).double()
    policy.normaliser.update(2.0 * torch.randn(50, policy.layout.size, dtype=torch.float64) + 0.5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return policy


def tokens(policy: Policy, batch: int = 3) -> Tensor:
    return torch.randn(batch, T, policy.layout.size, dtype=policy.log_std.dtype)


def test_the_state_is_that_of_the_equations(policy: GRUPolicy) -> None:
    """Cho et al. 2014, equations 5 to 8, unit by unit."""
    own = dict(policy.named_parameters())
    wide, tall, u = own["inputs.weight"], own["gates.weight"], own["candidate.weight"]
    bias = own["inputs.bias"] + torch.cat([own["gates.bias"], own["candidate.bias"]])
    x, h = torch.randn(policy.layout.size, dtype=torch.float64), torch.randn(SIZE, dtype=torch.float64)
    expected = []
    gate = [torch.sigmoid(wide[i] @ x + tall[i] @ h + bias[i]) for i in range(2 * SIZE)]
    r, z = torch.stack(gate[:SIZE]), gate[SIZE:]
    for j in range(SIZE):
        new = torch.tanh(wide[2 * SIZE + j] @ x + u[j] @ (r * h) + bias[2 * SIZE + j])
        expected.append(z[j] * h[j] + (1 - z[j]) * new)
    torch.testing.assert_close(policy.next_state(policy.inputs(x[None]), h[None])[0], torch.stack(expected))


def test_acting_equals_the_whole_pass_and_makes_a_fresh_memory_each_step(policy: GRUPolicy) -> None:
    sequence = tokens(policy)
    whole, state = policy(sequence), policy.initial_state(3)
    for position in range(T):
        before = state.clone()
        output, after = policy.step(sequence[:, position], state, position)
        assert torch.equal(state, before) and after.shape == (3, SIZE) and not torch.equal(after, before)
        for ours, theirs in zip(output, whole, strict=True):
            torch.testing.assert_close(ours, theirs[:, position])
        state = after


@pytest.mark.parametrize("adapts", [False, True])
def test_it_remembers_whether_or_not_its_parameters_have_adapted(policy: GRUPolicy, adapts: bool) -> None:
    policy.float()
    own, tasks = dict(policy.named_parameters()), 2
    names = sorted(policy.parameter_names("all"))
    adapted = {n: own[n].detach() + 0.3 * torch.randn(tasks, *own[n].shape) for n in names} if adapts else None
    env = make("point2d", tasks * 3, horizon=T)
    env.set_tasks(env.distribution.sample(tasks))
    episodes = collect(env, policy, adapted, generator=torch.Generator().manual_seed(1), trial_episodes=2)
    for m in range(tasks):
        parameters = {name: value[m] for name, value in (adapted or {}).items()}
        with torch.no_grad():
            whole = functional_call(policy, parameters, (episodes.tokens[m],)).value
            alone = functional_call(policy, parameters, (episodes.tokens[m].flatten(0, 1)[:, None],)).value
        torch.testing.assert_close(episodes.value[m], whole)
        assert (alone.view_as(whole) - whole)[:, 1:].abs().min() > 1e-6, "memory makes no difference"


def test_the_second_order_meta_gradient_is_that_of_a_plain_loop(policy: GRUPolicy) -> None:
    tasks, rate = 3, 0.3
    support, query = (craft_batch(policy, tasks, 2, T, seed) for seed in range(2))
    theta = {name: value.detach() for name, value in policy.named_parameters()}
    names = sorted(policy.parameter_names("all"))
    rates = {name: torch.tensor(rate, dtype=torch.float64) for name in names}

    def inner(parameters: Parameters, batch: Batch) -> Tensor:
        return surrogate(functional_call(policy, parameters, (batch.tokens,)), batch)

    def outer(parameters: Parameters, batch: Batch) -> Tensor:
        return ppo(functional_call(policy, parameters, (batch.tokens,)), batch, 0.2, 0.5, 0.01)

    def task_loss(parameters: Parameters, rates: Parameters, support: list[Batch], query: Batch) -> Tensor:
        return meta_loss(partial(inner_step, inner), outer, parameters, [rates], support, query)

    ours, _, loss = meta_gradient(task_loss, theta, rates, [support], query, tasks=tasks, chunk=2)
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    total = torch.zeros((), dtype=torch.float64)
    for m in range(tasks):
        before, after = (Batch(*(x[m] for x in batch)) for batch in (support, query))
        gradients = torch.autograd.grad(inner(leaves, before), [leaves[name] for name in names], create_graph=True)
        moved = {name: leaves[name] - rate * g for name, g in zip(names, gradients, strict=True)}
        total = total + outer({**leaves, **moved}, after) / tasks
    theirs = torch.autograd.grad(total, list(leaves.values()))
    torch.testing.assert_close(loss, total.detach())
    for name, gradient in zip(leaves, theirs, strict=True):
        torch.testing.assert_close(ours[name], gradient, rtol=1e-7, atol=1e-10, msg=name)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(("trial", "context"), [(1, "episode"), (3, "trial")])
def test_its_context_is_what_the_training_gives_it_to_remember(trial: int, context: str) -> None:
    given = ["algo=in_context", "agent=experiments.gru:GRUPolicy", f"algo.trial_episodes={trial}"]
    assert compose(given).agent.context == context


def test_from_training_in_context_to_acting(tmp_path: Path) -> None:
    agent = live_through(tmp_path, "algo=in_context", "agent=experiments.gru:GRUPolicy", "agent.hidden_size=8")
    assert isinstance(agent.run.policy, GRUPolicy) and agent.run.policy.hidden_size == 8
