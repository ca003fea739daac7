"""Scripted controllers for the families of reach: what knowing the hidden task gives, and what reacting gives."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.families.reach import DELTA, Reach
from envs.families.reach_worn import LATENCY, ReachWorn


def reacts(env: Reach, stiffness: float) -> Tensor:
    """The action (N, 7) that takes away this share of the present error, were every drive as it should be."""
    error = env.goal.double() - env.grip
    change = stiffness * _least_squares(_jacobian(env), error)
    # Scaled as a whole: clipping each joint by itself would bend the way to the goal.
    return (change / change.abs().amax(-1, keepdim=True).clamp(min=DELTA)).float()


def knows(env: ReachWorn) -> Tensor:
    """The action (N, 7) of one who knows the drives and what is on its way to them."""
    free = (~env.stuck).double()
    gain, bias = free * env.gain, env.bias.double()
    coming = env.ctrl - env.qpos + DELTA * gain * (env.pending.sum(0) + LATENCY * bias)
    low, high = DELTA * gain * (bias - 1), DELTA * gain * (bias + 1)
    jacobian = _jacobian(env)
    error = 0.5 * (env.goal.double() - env.grip - (jacobian @ coming[..., None])[..., 0])
    change = _least_squares(jacobian, error, torch.minimum(-low, high))
    room = torch.where(change > 0, high, -low).clamp(min=1e-6)
    change = change / (change.abs() / room).amax(-1, keepdim=True).clamp(min=1.0)
    return (change / (DELTA * gain.clamp(min=1e-6)) - bias).float()


def _least_squares(jacobian: Tensor, error: Tensor, ease: Tensor | float = 1.0) -> Tensor:
    """Joint changes (N, 7) that move the grip point by error (N, 3); the more of it by a joint the easier it moves."""
    eased = jacobian * (ease[:, None] if isinstance(ease, Tensor) else ease)
    normal = eased @ jacobian.mT
    damping = 1e-3 * normal.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(3, dtype=normal.dtype)
    return (eased.mT @ torch.linalg.solve(normal + damping, error[..., None]))[..., 0]


def _jacobian(env: Reach) -> Tensor:
    """(N, 3, 7): velocity of the grip point per joint velocity."""
    axes, anchors = (env.simulator.field(name)[:, : env.action_size] for name in ("xaxis", "xanchor"))
    return torch.linalg.cross(axes, env.grip[:, None] - anchors).mT
