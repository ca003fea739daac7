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
from metarl.algorithms.adaptation import Loss, Parameters, adapt
from metarl.algorithms.learner import Learner
from metarl.algorithms.threads import run_all
from metarl.config.settings import MAMLSettings
from metarl.rollouts.episodes import Batch

# Steps (over all episodes of a chunk of tasks) for which the activations of a small network stay in a CPU's cache.
CPU_CHUNK = 4096


def meta_loss(
    inner: Loss[Any],
    outer: Loss[Any],
    parameters: Parameters,
    log_rates: Parameters,
    support: Sequence[Any],
    query: Any,
    *,
    first_order: bool = False,
    clip: float | None = None,
    later_rate: float = 1.0,
    unadapted_weight: float = 0.0,
) -> Tensor:
    """One task's loss after adaptation (Finn et al. 2017, arXiv 1703.03400, eq. 2); a scalar.

    Only the parameters named in `log_rates` adapt. With `unadapted_weight` the same loss is asked of the unadapted
    parameters on the first support batch: without it they drift towards pure exploration.
    """
    adapting = {name: parameters[name] for name in log_rates}
    rates = {name: torch.exp(value) for name, value in log_rates.items()}
    fixed = {name: value for name, value in parameters.items() if name not in log_rates}
    adapted = adapt(
        lambda task, data: inner({**fixed, **task}, data),
        adapting,
        rates,
        support,
        first_order=first_order,
        clip=clip,
        later_rate=later_rate,
    )
    loss = outer({**fixed, **adapted}, query)
    if unadapted_weight:
        loss = loss + unadapted_weight * outer(parameters, support[0])
    return loss


TaskLoss = Callable[[Parameters, Parameters, Sequence[Any], Any], Tensor]
Gradient = Callable[[Parameters, Parameters, Sequence[Any], Any], tuple[tuple[Parameters, Parameters], Tensor]]


def batched(task_loss: TaskLoss) -> TaskLoss:
    """The sum of the losses of all tasks of a batch."""

    def loss(parameters: Parameters, log_rates: Parameters, support: Sequence[Any], query: Any) -> Tensor:
        return vmap(task_loss, in_dims=(None, None, 0, 0))(parameters, log_rates, support, query).sum()

    return loss


def reverse(task_loss: TaskLoss) -> Gradient:
    """Gradients of the summed loss by a backward pass that frees its graph; `torch.func.grad` would keep it."""
    loss = batched(task_loss)

    def gradient(parameters: Parameters, log_rates: Parameters, support: Sequence[Any], query: Any) -> Any:
        with torch.enable_grad():
            leaves = [{n: x.detach().requires_grad_() for n, x in part.items()} for part in (parameters, log_rates)]
            value = loss(leaves[0], leaves[1], support, query)
            flat = [x for part in leaves for x in part.values()]
            slopes = iter(torch.autograd.grad(value, flat, materialize_grads=True))
        return tuple({name: next(slopes) for name in part} for part in leaves), value.detach()

    return gradient


def compiled(task_loss: TaskLoss) -> Gradient:
    """The same as one compiled graph. Keep the result: what is compiled belongs to it."""
    return torch.compile(grad_and_value(batched(task_loss), argnums=(0, 1)))


def meta_gradient(
    task_loss: TaskLoss | Sequence[TaskLoss],
    parameters: Parameters,
    log_rates: Parameters,
    support: Sequence[Any],
    query: Any,
    *,
    tasks: int,
    chunk: int,
    differentiate: Callable[[TaskLoss], Gradient] = reverse,
) -> tuple[Parameters, Parameters, Tensor]:
    """Gradient of the mean task loss with respect to parameters and log rates, and the loss itself.

    Args:
        task_loss: of (parameters, log_rates, support, query) of one task; or the same loss several times, each on a
            module of its own (see `metarl.algorithms.threads.twin`), to have as many threads share the tasks.
        support, query: batches with a leading M (objects with `select(slice)`).
        tasks: M. chunk: tasks per vmap call; all on a GPU, few on a CPU, where larger ones fall out of the cache.
        differentiate: `reverse` or `compiled`.
    """
    losses = [task_loss] if callable(task_loss) else task_loss
    parts = [slice(start, start + chunk) for start in range(0, tasks, chunk)]

    def total(loss: TaskLoss, mine: Sequence[slice]) -> tuple[tuple[Parameters, Parameters], Tensor]:
        gradient = differentiate(loss)
        return _sum([gradient(parameters, log_rates, [s.select(p) for s in support], query.select(p)) for p in mine])

    shares = [(loss, parts[number :: len(losses)]) for number, loss in enumerate(losses)]
    grads, value = _sum(run_all([partial(total, loss, mine) for loss, mine in shares if mine]))
    mean = tuple({name: gradient / tasks for name, gradient in part.items()} for part in grads)
    return mean[0], mean[1], value.cpu() / tasks


def _sum(results: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    totals, value = results[0]
    for grads, loss in results[1:]:
        totals = tuple({n: x + part[n] for n, x in total.items()} for total, part in zip(totals, grads, strict=True))
        value = value + loss
    return totals, value


class MAML(Learner):
    """Rounds of episodes before each inner step and after the last; a PPO outer loss through the inner steps.

    The inner rates are learned in log space, one per tensor, at their own outer learning rate.
    """

    def __init__(self, policy: Policy, settings: MAMLSettings, generator: torch.Generator) -> None:
        super().__init__(policy, settings, generator)
        self.rounds = settings.inner.steps + 1
        self.differentiate = functools.cache(compiled) if settings.inner.compile else reverse
        if settings.inner.compile:
            self.workers = 1  # a compiled gradient has threads of its own
        self.attention = "math" if settings.inner.compile or settings.inner.first_order else "explicit"

    def parameter_groups(self) -> list[dict[str, object]]:
        groups = super().parameter_groups()
        if self.settings.inner.learn_rates:
            rate = self.settings.outer.learning_rate * self.settings.inner.rate_multiplier
            groups.append({"params": list(self.log_rates.values()), "lr": rate})
        return groups

    def chunk(self, batch: Batch) -> int:
        """Tasks per vmap call: as set; else a worker's share, but on a CPU no more than the cache holds."""
        tasks, *rest = batch.valid.shape
        share = math.ceil(tasks / self.workers)
        return self.settings.inner.chunk or (share if self.on_gpu else max(min(CPU_CHUNK // math.prod(rest), share), 1))

    def task_loss(
        self, parameters: Parameters, log_rates: Parameters, support: Sequence[Batch], query: Batch
    ) -> Tensor:
        """`meta_loss` with this learner's losses and settings."""
        inner = self.settings.inner
        return meta_loss(
            self.inner_loss,
            self.outer_loss,
            parameters,
            log_rates,
            support,
            query,
            first_order=inner.first_order,
            clip=inner.max_grad_norm,
            later_rate=inner.later_rate,
            unadapted_weight=inner.unadapted_weight,
        )

    def objective(self, parameters: Parameters, log_rates: Parameters, rounds: Sequence[Batch]) -> Tensor:
        return self.task_loss(parameters, log_rates, rounds[:-1], rounds[-1])

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        total, skipped, count = 0.0, 0, 0
        learners = self.twins(self.workers)
        for index in self.minibatches(self.settings.tasks):
            *support, query = [batch.select(index.to(batch.valid.device)) for batch in rounds]
            parameters = {name: value.detach() for name, value in self.parameters.items()}
            grads, rate_grads, loss = meta_gradient(
                [learner.task_loss for learner in learners],
                parameters,
                self.log_rates,
                support,
                query,
                tasks=len(index),
                chunk=self.chunk(query),
                differentiate=self.differentiate,
            )
            for name, gradient in grads.items():
                self.parameters[name].grad = gradient
            for name, gradient in rate_grads.items():
                self.log_rates[name].grad = gradient
            skipped += not self.apply()
            total += float(loss)
            count += 1
        rate = float(torch.stack([torch.exp(r) for r in self.log_rates.values()]).mean())
        std = float(torch.exp(self.policy.log_std.detach()).mean())
        return {
            "loss": total / count,
            "updates": float(count),
            "skipped_updates": float(skipped),
            "inner_rate": rate,
            "std": std,
        }
