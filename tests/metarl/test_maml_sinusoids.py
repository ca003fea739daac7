"""The meta-gradient on the problem of the MAML paper that needs no environment: it learns to learn sinusoids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from metarl.algorithms.adaptation import Parameters, inner_step
from metarl.algorithms.maml import meta_gradient, meta_loss


class Points(NamedTuple):
    """Points of a function; leading M outside of vmap."""

    x: Tensor  # (..., n, 1)
    y: Tensor  # (..., n, 1)

    def select(self, index: slice) -> Points:
        return Points(self.x[index], self.y[index])


def sinusoids(tasks: int, generator: torch.Generator) -> tuple[Points, Points]:
    """Support and query points of sinusoids of random amplitude and phase (Finn et al. 2017, section 5.1)."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(tasks, *size, generator=generator)

    amplitude, phase = uniform(0.1, 5.0, 1, 1), uniform(0.0, torch.pi, 1, 1)
    x = [uniform(-5.0, 5.0, 10, 1) for _ in range(2)]
    support, query = (Points(points, amplitude * torch.sin(points - phase)) for points in x)
    return support, query


def test_maml_learns_to_learn_sinusoids() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(1, 40), torch.nn.Tanh(), torch.nn.Linear(40, 40), torch.nn.Tanh(), torch.nn.Linear(40, 1)
    )

    def loss(parameters: Parameters, points: Points) -> Tensor:
        return (functional_call(network, parameters, (points.x,)) - points.y).square().mean()

    def task_loss(parameters: Parameters, log_rates: Parameters, support: Sequence[Points], query: Points) -> Tensor:
        rates = {name: torch.exp(value) for name, value in log_rates.items()}
        return meta_loss(partial(inner_step, loss), loss, parameters, [rates] * len(support), support, query)

    parameters = dict(network.named_parameters())
    log_rates = {name: torch.tensor(0.02).log() for name in parameters}
    optimiser = torch.optim.Adam(
        [{"params": list(parameters.values()), "lr": 5e-3}, {"params": list(log_rates.values()), "lr": 2e-2}]
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(120):
        support, query = sinusoids(16, generator)
        detached = {name: value.detach() for name, value in parameters.items()}
        grads, rate_grads, _ = meta_gradient(task_loss, detached, log_rates, [support], query, tasks=16, chunk=16)
        for leaves, gradients in ((parameters, grads), (log_rates, rate_grads)):
            for name, gradient in gradients.items():
                leaves[name].grad = gradient
        optimiser.step()

    support, query = sinusoids(200, generator)
    trained = {name: value.detach() for name, value in parameters.items()}
    measure = partial(meta_gradient, tasks=200, chunk=200)
    after = float(measure(task_loss, trained, log_rates, [support], query)[2])
    before = float(measure(task_loss, trained, log_rates, [], query)[2])
    assert before > 3.0
    assert after < 0.4 * before
