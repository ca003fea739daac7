"""MAML, second and first order, with learned inner rates and a PPO outer loss.

The mathematics is `meta_loss` and `meta_gradient`; they know nothing of reinforcement learning.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from agents.policy import Policy
from metarl.algorithms.adaptation import InnerStep, Loss, Parameters, Rates, adapt, inner_step, inner_step_and_loss
from metarl.algorithms.gradient_learner import GradientLearner, OuterGradient, tasks_of
from metarl.algorithms.threads import run_all
from metarl.config.algorithms import MAMLSettings
from metarl.rollouts.episodes import Batch
from metarl.rollouts.transfer import on_cpu

# Steps (over all episodes of a chunk of tasks) for which the activations of a small network stay in a CPU's cache.
CPU_CHUNK = 4096


def meta_loss(
    step: InnerStep[Any],
    outer: Loss[Any],
    parameters: Parameters,
    rates: Sequence[Rates],
    support: Sequence[Any],
    query: Any,
) -> Tensor:
    """One task's loss after adaptation, L(theta') (Finn et al. 2017, arXiv 1703.03400: a summand of eq. 1); a scalar.

    Args:
        step: takes an inner step. outer: L.
        parameters: theta. rates: of each inner step. support: the data of each inner step. query: the data of L.
    """
    return outer(adapt(step, parameters, rates, support), query)


def meta_loss_with_unadapted(
    first: Callable[[Parameters, Rates, Any], tuple[Parameters, Tensor]],
    step: InnerStep[Any],
    outer: Loss[Any],
    parameters: Parameters,
    rates: Sequence[Rates],
    support: Sequence[Any],
    query: Any,
    weight: float,
) -> Tensor:
    """As `meta_loss`, and beside it the loss of the unadapted parameters on the first support batch: without it they
    drift towards pure exploration.

    Args:
        first: takes the first inner step, and tells that loss before it: one forward pass serves both.
        weight: of that loss.
    """
    parameters, unadapted = first(parameters, rates[0], support[0])
    return meta_loss(step, outer, parameters, rates[1:], support[1:], query) + weight * unadapted


TaskLoss = Callable[[Parameters, Parameters, Sequence[Any], Any], Tensor]
Differentiated = Callable[[Parameters, Parameters, Sequence[Any], Any], tuple[tuple[Parameters, Parameters], Tensor]]


def summed(task_loss: TaskLoss) -> TaskLoss:
    """The sum of the losses of all tasks of a batch."""

    def loss(parameters: Parameters, rate_parameters: Parameters, support: Sequence[Any], query: Any) -> Tensor:
        return vmap(task_loss, in_dims=(None, None, 0, 0))(parameters, rate_parameters, support, query).sum()

    return loss


def reverse(task_loss: TaskLoss) -> Differentiated:
    """Gradients of the summed loss by a backward pass that frees its graph; `torch.func.grad` would keep it."""
    loss = summed(task_loss)

    def gradient(parameters: Parameters, rate_parameters: Parameters, support: Sequence[Any], query: Any) -> Any:
        with torch.enable_grad():
            leaves = [
                {n: x.detach().requires_grad_() for n, x in part.items()} for part in (parameters, rate_parameters)
            ]
            value = loss(leaves[0], leaves[1], support, query)
            flat = [x for part in leaves for x in part.values()]
            gradients = iter(torch.autograd.grad(value, flat, materialize_grads=True))
        return tuple({name: next(gradients) for name in part} for part in leaves), value.detach()

    return gradient


def compiled(task_loss: TaskLoss) -> Differentiated:
    """The same as one compiled graph. Keep the result: what is compiled belongs to it."""
    return torch.compile(grad_and_value(summed(task_loss), argnums=(0, 1)))


def meta_gradient(
    task_loss: TaskLoss | Sequence[TaskLoss],
    parameters: Parameters,
    rate_parameters: Parameters,
    support: Sequence[Any],
    query: Any,
    *,
    tasks: int,
    chunk: int,
    differentiate: Callable[[TaskLoss], Differentiated] = reverse,
) -> OuterGradient:
    """The mean task loss and its gradient with respect to parameters and rate parameters (eq. 1, without the step).

    Args:
        task_loss: of (parameters, rate_parameters, support, query) of one task; or the same loss several times, each on
            a module of its own (see `metarl.rollouts.folded.twin`), to have as many threads share the tasks.
        rate_parameters: what the loss makes its inner rates of, such as their logarithms; of any shapes.
        support, query: batches with a leading M (objects with `select(slice)`).
        tasks: M. chunk: tasks per vmap call; all on an accelerator, few on a CPU, where larger ones fall out of the
            cache.
        differentiate: `reverse` or `compiled`.
    """
    losses = [task_loss] if callable(task_loss) else task_loss
    parts = [slice(start, start + chunk) for start in range(0, tasks, chunk)]

    def share(loss: TaskLoss, mine: Sequence[slice]) -> tuple[tuple[Parameters, Parameters], Tensor]:
        gradient = differentiate(loss)
        data = [([batch.select(part) for batch in support], query.select(part)) for part in mine]
        return _sum([gradient(parameters, rate_parameters, *each) for each in data])

    shares = [(loss, parts[number :: len(losses)]) for number, loss in enumerate(losses)]
    gradients, value = _sum(run_all([partial(share, loss, mine) for loss, mine in shares if mine]))
    mean, mean_of_rates = ({name: gradient / tasks for name, gradient in part.items()} for part in gradients)
    return OuterGradient(mean, mean_of_rates, value / tasks)


def _sum(results: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    totals, value = results[0]
    for gradients, loss in results[1:]:
        totals = tuple(
            {n: x + part[n] for n, x in total.items()} for total, part in zip(totals, gradients, strict=True)
        )
        value = value + loss
    return totals, value


class MAML(GradientLearner):
    """Rounds of episodes before each inner step and after the last; a PPO outer loss through the inner steps (Finn et
    al. 2017, algorithm 3).

    The inner rates are learned too, in log space, at their own outer learning rate.
    """

    Settings = MAMLSettings

    def __init__(self, policy: Policy, settings: MAMLSettings, generator: torch.Generator) -> None:
        super().__init__(policy, settings, generator)
        self.rounds = settings.inner.steps + 1
        self.differentiate = functools.cache(compiled) if settings.inner.compile else reverse
        if settings.inner.compile:
            self.workers, self.attention = 1, "math"  # a compiled gradient has threads of its own
        elif not settings.inner.first_order:
            self.attention = "explicit"

    def parameter_groups(self) -> list[dict[str, object]]:
        groups = super().parameter_groups()
        if self.settings.inner.learn_rates:
            rate = self.settings.outer.learning_rate * self.settings.inner.rate_multiplier
            groups.append({"params": list(self.rate_parameters.values()), "lr": rate})
        return groups

    def inner_step(self, parameters: Parameters, rates: Rates, batch: Batch) -> Parameters:
        inner = self.settings.inner
        limit, first_order = inner.max_grad_norm, inner.first_order
        return inner_step(self.inner_loss, parameters, rates, batch, first_order=first_order, max_norm=limit)

    def first_step(self, parameters: Parameters, rates: Rates, batch: Batch) -> tuple[Parameters, Tensor]:
        """An inner step, and the PPO loss before it."""
        inner = self.settings.inner
        limit, first_order = inner.max_grad_norm, inner.first_order
        return inner_step_and_loss(self.losses, parameters, rates, batch, first_order=first_order, max_norm=limit)

    def task_loss(
        self, parameters: Parameters, rate_parameters: Parameters, support: Sequence[Batch], query: Batch
    ) -> Tensor:
        """`meta_loss` with this learner's losses and settings."""
        rates = self.step_rates(rate_parameters, len(support))
        data = (self.inner_step, self.outer_loss, parameters, rates, support, query)
        weight = self.settings.inner.unadapted_weight
        return meta_loss_with_unadapted(self.first_step, *data, weight) if weight else meta_loss(*data)

    def meta_gradient(self, rounds: Sequence[Batch], learners: Sequence[MAML]) -> OuterGradient:
        """`meta_gradient` on the rounds (M, E, T, ...), the tasks shared by learners on the same parameters."""
        *support, query = rounds
        return meta_gradient(
            [learner.task_loss for learner in learners],
            {name: value.detach() for name, value in self.parameters.items()},
            self.rate_parameters,
            support,
            query,
            tasks=len(query.tokens),
            chunk=self.chunk(query),
            differentiate=self.differentiate,
        )

    def chunk(self, batch: Batch) -> int:
        """Tasks per vmap call: as set; else a worker's share, but on a CPU no more than the cache holds."""
        tasks, *rest = batch.valid.shape
        share = math.ceil(tasks / self.workers)
        cached = max(min(CPU_CHUNK // math.prod(rest), share), 1)
        return self.settings.inner.chunk or (cached if on_cpu(self.device) else share)

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        metrics = self.descend(rounds, partial(self.meta_gradient, learners=self.twins()), weigh=tasks_of)
        rate = float(torch.stack([value.mean() for value in self.rates().values()]).mean())
        return metrics | {"inner_rate": rate, "std": self.action_std()}
