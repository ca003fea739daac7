"""What Meta-World's rewards are made of (version 2 of them), for N simulations at once."""

from __future__ import annotations

import torch
from torch import Tensor

AT_MARGIN = 0.1  # of a tolerance, one margin outside of its bounds


def tolerance(x: Tensor, low: float, high: float, margin: Tensor | float, gaussian: bool = False) -> Tensor:
    """1 where x lies in [low, high], and less outside: 0.1 one margin away; without a margin 0.

    The tails are those of dm_control (Tassa et al. 2018, arXiv 1801.00690): long, 1 / (9 d^2 + 1), or Gaussian,
    0.1^(d^2), with d the distance to the bounds in margins.
    """
    outside = torch.maximum(low - x, x - high).clamp(min=0.0)
    margin = torch.as_tensor(margin, dtype=x.dtype).clamp(min=0.0)
    squared = (outside / torch.where(margin > 0, margin, 1.0)).square()
    tail = AT_MARGIN**squared if gaussian else 1.0 / ((1.0 / AT_MARGIN - 1.0) * squared + 1.0)
    return torch.where(margin > 0, tail, (outside == 0).to(x.dtype))


def hamacher_product(a: Tensor, b: Tensor) -> Tensor:
    """The T-norm ab / (a + b - ab) of two numbers in [0, 1]; 0 if both are 0."""
    product = a * b
    total = a + b - product
    return torch.where(total > 0, product / torch.where(total > 0, total, 1.0), 0.0)


def rect_prism_tolerance(point: Tensor, zero: Tensor, one: Tensor) -> Tensor:
    """1 outside of the box (N,) between two corners (N, 3); inside the product of how far along each axis a point is.

    At the corner `zero` it is 0, at the corner `one` it is 1.
    """
    way = (point - zero) / (one - zero)
    inside = ((way >= 0.0) & (way <= 1.0)).all(-1)
    return torch.where(inside, way.prod(-1), 1.0)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, over the last axis."""
    return torch.linalg.vector_norm(a - b, dim=-1)


def grip(action: Tensor) -> Tensor:
    """How firmly actions (N, 4) close the gripper, (N,) from 0 to 1."""
    return action[:, 3].clamp(0.0, 1.0).double()


def between_pads(apart: Tensor, low: float, high: float, margins: Tensor) -> Tensor:
    """Whether something lies between the pads, (N,): its distances to both of them, (N, 2) in m, are in bounds."""
    left, right = tolerance(apart, low, high, margins).unbind(-1)
    return hamacher_product(left, right)
