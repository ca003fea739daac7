"""What a step of an environment returns, and several control steps as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from envs.errors import EnvsError

FEEDBACK = ("reward", "log_reward", "sparse", "none")
LOG_FLOOR = 0.01  # of the highest reward: what is nearer to it than this looks all the same on the logarithmic scale


class Step(NamedTuple):
    """What one step returns; every tensor is fresh memory, safe to keep."""

    observation: Tensor  # (N, D) float32
    reward: Tensor  # (N,) float32, the sum of the terms: what training maximises; it may know the hidden task
    terms: dict[str, Tensor]  # name -> (N,) float32
    success: Tensor  # (N,) bool: the success criterion holds at this step
    terminated: Tensor  # (N,) bool: the episode is over before its horizon
    failed: Tensor  # (N,) bool: the physics or a value broke; the simulation was reset
    feedback: Tensor  # (N,) float32: what the robot senses of how it is doing; a policy is fed nothing else of it


def check_highest(owner: str, highest: float | None) -> float:
    """The highest reward, which `feedback=log_reward` is measured from.

    Raises:
        EnvsError: if there is none.
    """
    if highest is None:
        raise EnvsError(f"feedback=log_reward: {owner} has no highest reward that it could be measured from")
    return highest


def log_scaled(reward: Tensor, highest: float) -> Tensor:
    """How near a reward (N,) is to the highest on a scale that tells near from very near, (N,)."""
    return -(1.0 - reward / highest).clamp(min=0.0).add(LOG_FLOOR).log()


def joined(steps: Sequence[Step]) -> Step:
    """Several control steps, at least one, as one: sums of reward and feedback, and the rest as it is at their end.

    A simulation that failed in one of them has failed.
    """
    last = steps[-1]
    if len(steps) == 1:
        return last
    failed = torch.stack([step.failed for step in steps]).any(0)

    def total(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(parts)).sum(0).masked_fill(failed, 0.0)

    return Step(
        observation=last.observation,
        reward=total([step.reward for step in steps]),
        terms={name: total([step.terms[name] for step in steps]) for name in last.terms},
        success=last.success & ~failed,
        terminated=torch.stack([step.terminated for step in steps]).any(0),
        failed=failed,
        feedback=total([step.feedback for step in steps]),
    )
