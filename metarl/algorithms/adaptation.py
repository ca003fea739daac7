"""The inner loop: a few gradient steps on a task's own data, for all tasks in one vectorised call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import grad, vmap

Parameters = dict[str, Tensor]
Data = TypeVar("Data")
Loss = Callable[[Parameters, Data], Tensor]


def clip_by_norm(gradient: Parameters, limit: float | None) -> Parameters:
    """The gradient, scaled down to a global norm of `limit`; None leaves it."""
    if limit is None:
        return gradient
    # Not from 0: the root has no derivative there, and one task without any signal would make the meta-gradient NaN.
    norm = torch.sqrt(sum((g.square().sum() for g in gradient.values()), torch.tensor(1e-24)))
    scale = (limit / norm).clamp(max=1.0)
    return {name: g * scale for name, g in gradient.items()}


def inner_step(
    loss: Loss[Data],
    parameters: Parameters,
    rates: Mapping[str, Tensor],
    data: Data,
    *,
    first_order: bool = False,
    clip: float | None = None,
) -> Parameters:
    """theta' = theta - alpha * grad L(theta) (Finn et al. 2017, eq. 1; learned alpha per tensor: Li et al. 2017,
    Meta-SGD).

    Args:
        loss: of (parameters, data); a scalar.
        parameters: those that adapt.
        rates: alpha for each of them, a scalar or of the parameter's own shape.
        first_order: treat the gradient as a constant (FOMAML).
        clip: norm limit of the gradient.
    """
    gradient = clip_by_norm(grad(loss)(parameters, data), clip)
    if first_order:
        gradient = {name: g.detach() for name, g in gradient.items()}
    return {name: value - rates[name] * gradient[name] for name, value in parameters.items()}


def adapt(
    loss: Loss[Data],
    parameters: Parameters,
    rates: Mapping[str, Tensor],
    support: Sequence[Data],
    *,
    first_order: bool = False,
    clip: float | None = None,
    later_rate: float = 1.0,
) -> Parameters:
    """One task's parameters after an inner step on each batch of `support` in turn.

    The rates of all steps after the first are multiplied by `later_rate`.
    """
    for number, data in enumerate(support):
        if number == 1:
            rates = {name: rate * later_rate for name, rate in rates.items()}
        parameters = inner_step(loss, parameters, rates, data, first_order=first_order, clip=clip)
    return parameters


def adapt_tasks(
    loss: Loss[Data],
    parameters: Parameters,
    rates: Mapping[str, Tensor],
    data: Data,
    *,
    per_task: bool,
    clip: float | None = None,
) -> Parameters:
    """One inner step for M tasks at once, without a graph for the outer gradient.

    Args:
        parameters: with a leading M if `per_task`, else shared by all tasks.
        data: a batch with a leading M.

    Returns:
        Parameters with a leading M.
    """

    def step(task_parameters: Parameters, task_data: Data) -> Parameters:
        return inner_step(loss, task_parameters, rates, task_data, clip=clip)

    with torch.no_grad():
        return vmap(step, in_dims=(0 if per_task else None, 0))(parameters, data)
