"""The inner loop: a few gradient steps on a task's own data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import grad, vmap

Parameters = dict[str, Tensor]
Rates = Mapping[str, Tensor]  # the inner rate of each parameter that adapts
Data = TypeVar("Data")
Loss = Callable[[Parameters, Data], Tensor]
InnerStep = Callable[[Parameters, Rates, Data], Parameters]  # `inner_step` on a loss that is already given
Losses = Callable[[Parameters, Data], tuple[Tensor, Tensor]]  # two that share what they compute


def clip_by_norm(gradient: Parameters, max_norm: float | None) -> Parameters:
    """The gradient, scaled down to a global norm of `max_norm`; None leaves it."""
    if max_norm is None:
        return gradient
    # Not from 0: the root has no derivative there, and one task without any signal would make the meta-gradient NaN.
    norm = torch.sqrt(sum((g.square().sum() for g in gradient.values()), torch.tensor(1e-24)))
    scale = (max_norm / norm).clamp(max=1.0)
    return {name: g * scale for name, g in gradient.items()}


def inner_step(
    loss: Loss[Data],
    parameters: Parameters,
    rates: Rates,
    data: Data,
    *,
    first_order: bool = False,
    max_norm: float | None = None,
) -> Parameters:
    """theta' = theta - alpha * grad L(theta) (Finn et al. 2017, arXiv 1703.03400, section 2.2); a learned alpha for
    each parameter is that of Meta-SGD (Li et al. 2017, arXiv 1707.09835).

    Args:
        loss: of (parameters, data); a scalar.
        parameters: theta. Those without a rate stay as they are.
        rates: alpha of each parameter that adapts; a scalar, or of the parameter's own shape.
        first_order: treat the gradient as a constant (FOMAML, section 5.2).
        max_norm: to which the gradient is clipped; None: it is not.
    """
    adapting = {name: parameters[name] for name in rates}
    gradient = grad(lambda moved: loss({**parameters, **moved}, data))(adapting)
    return _moved(parameters, rates, gradient, first_order, max_norm)


def inner_step_and_loss(
    losses: Losses[Data],
    parameters: Parameters,
    rates: Rates,
    data: Data,
    *,
    first_order: bool = False,
    max_norm: float | None = None,
) -> tuple[Parameters, Tensor]:
    """As `inner_step` on the first of two losses; and the second one at theta, of the same forward pass."""
    adapting = {name: parameters[name] for name in rates}
    gradient, other = grad(lambda moved: losses({**parameters, **moved}, data), has_aux=True)(adapting)
    return _moved(parameters, rates, gradient, first_order, max_norm), other


def _moved(
    parameters: Parameters, rates: Rates, gradient: Parameters, first_order: bool, max_norm: float | None
) -> Parameters:
    gradient = clip_by_norm(gradient, max_norm)
    if first_order:
        gradient = {name: g.detach() for name, g in gradient.items()}
    return {**parameters, **{name: parameters[name] - rates[name] * g for name, g in gradient.items()}}


def adapt(step: InnerStep[Data], parameters: Parameters, rates: Sequence[Rates], support: Sequence[Data]) -> Parameters:
    """One task's parameters after inner steps at `rates[k]` on `support[k]`, one after the other."""
    for step_rates, data in zip(rates, support, strict=True):
        parameters = step(parameters, step_rates, data)
    return parameters


def step_tasks(
    step: InnerStep[Data], parameters: Parameters, rates: Rates, data: Data, *, per_task: bool
) -> Parameters:
    """One inner step of M tasks at once, in one vectorised call, without a graph for the outer gradient.

    Args:
        parameters: with a leading M if `per_task`, else shared by all tasks.
        data: a batch with a leading M.

    Returns:
        Parameters with a leading M.
    """

    def step_task(parameters: Parameters, data: Data) -> Parameters:
        return step(parameters, rates, data)

    with torch.no_grad():
        return vmap(step_task, in_dims=(0 if per_task else None, 0))(parameters, data)


def part(tensors: Mapping[str, Tensor], prefix: str) -> Parameters:
    """Those whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every entry is finite; waits for an accelerator only once."""
    return bool(torch.stack([torch.isfinite(value).all() for value in tensors.values()]).all())
