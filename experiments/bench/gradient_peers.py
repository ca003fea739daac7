"""The MAML update as users of other libraries write it: a loop over tasks, with `higher` or with plain autograd.

Both give the gradient of the mean task loss with respect to parameters and log rates, as `meta_gradient` does.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Policy
from experiments.bench.measure import MissingPeer
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.objectives import ppo, surrogate
from metarl.rollouts.episodes import Batch

CLIP, VALUE = 0.2, 0.5
Gradients = tuple[Parameters, Parameters]


def by_loop(policy: Policy, log_rates: Parameters, support: Batch, query: Batch) -> Gradients:
    """`torch.autograd.grad` with `create_graph` and `functional_call`."""
    parameters = {name: value.detach().requires_grad_() for name, value in policy.named_parameters()}
    rates = {name: value.detach().requires_grad_() for name, value in log_rates.items()}
    tasks = support.tokens.shape[0]
    totals = None
    for task in range(tasks):
        before, after = support.select(task), query.select(task)
        inner = surrogate(functional_call(policy, parameters, (before.tokens,)), before)
        gradient = torch.autograd.grad(inner, [parameters[name] for name in rates], create_graph=True)
        adapted = {n: parameters[n] - torch.exp(rates[n]) * g for n, g in zip(rates, gradient, strict=True)}
        outer = ppo(functional_call(policy, {**parameters, **adapted}, (after.tokens,)), after, CLIP, VALUE, 0.0)
        gradients = torch.autograd.grad(outer / tasks, [*parameters.values(), *rates.values()])
        totals = gradients if totals is None else [t + g for t, g in zip(totals, gradients, strict=True)]
    assert totals is not None
    return _named(parameters, rates, totals)


def by_higher(policy: Policy, log_rates: Parameters, support: Batch, query: Batch) -> Gradients:
    """`higher.innerloop_ctx` with differentiable SGD and a learnable rate per tensor.

    Raises:
        MissingPeer: without the package.
    """
    try:
        import higher
    except ImportError:
        raise MissingPeer(
            "gradient: `higher` is missing; run `pip install higher` or install the extra `bench`"
        ) from None
    parameters: Parameters = {name: value for name, value in policy.named_parameters()}
    rates = {name: value.detach().requires_grad_() for name, value in log_rates.items()}
    groups = [{"params": [parameters[name]], "lr": 0.0} for name in rates]
    tasks = support.tokens.shape[0]
    policy.zero_grad()
    for task in range(tasks):
        before, after = support.select(task), query.select(task)
        override = {"lr": [torch.exp(rate) for rate in rates.values()]}
        optimiser = torch.optim.SGD(groups, lr=0.0)
        with higher.innerloop_ctx(policy, optimiser, copy_initial_weights=False, override=override) as (model, inner):
            inner.step(surrogate(model(before.tokens), before))
            (ppo(model(after.tokens), after, CLIP, VALUE, 0.0) / tasks).backward()
    gradients = [value.grad for value in (*parameters.values(), *rates.values())]
    return _named(parameters, rates, [torch.zeros(()) if g is None else g for g in gradients])


def by_learn2learn(policy: Policy, log_rates: Parameters, support: Batch, query: Batch) -> Gradients:
    """`learn2learn.algorithms.MAML` at the mean rate, for it has only one and does not learn it.

    Raises:
        MissingPeer: without the package.
    """
    try:
        from learn2learn.algorithms import MAML  # type: ignore[import-not-found]
    except ImportError:
        raise MissingPeer(
            "gradient: `learn2learn` is missing; `pip install learn2learn` builds on Python 3.10 and older alone"
        ) from None
    rate = float(torch.stack([torch.exp(rate).mean() for rate in log_rates.values()]).mean())
    learner, tasks = MAML(policy, lr=rate, allow_unused=True), support.tokens.shape[0]
    policy.zero_grad()
    for task in range(tasks):
        before, after = support.select(task), query.select(task)
        adapted = learner.clone()
        adapted.adapt(surrogate(adapted(before.tokens), before))
        (ppo(adapted(after.tokens), after, CLIP, VALUE, 0.0) / tasks).backward()
    return {name: value.grad for name, value in policy.named_parameters() if value.grad is not None}, {}


def _named(parameters: Parameters, rates: Parameters, gradients: list[Tensor] | tuple[Tensor, ...]) -> Gradients:
    count = len(parameters)
    return dict(zip(parameters, gradients[:count], strict=True)), dict(zip(rates, gradients[count:], strict=True))


def replica(policy: Policy, attention: str) -> Policy:
    """A copy of the policy with another form of attention."""
    copied = copy.deepcopy(policy)
    copied.set_attention(attention)
    return copied
