"""What a rollout yields, and what the losses need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Episodes:
    """Episodes of M tasks: E sequences per task, T = R * H steps per sequence of R episodes (R = 1 without trials).

    What there is of every control step lies on the policy's device, what there is of an episode on the CPU.
    """

    tokens: Tensor  # (M, E, T, F) what the policy saw
    actions: Tensor  # (M, E, T, A) as sampled, before clipping
    log_probability: Tensor  # (M, E, T) under the policy that acted
    value: Tensor  # (M, E, T)
    reward: Tensor  # (M, E, T), 0 where not valid
    feedback: Tensor  # (M, E, T), likewise: what the policy was fed of it
    valid: Tensor  # (M, E, T) 1.0 while the episode ran, 0.0 where it failed and after its early end
    success_at_end: Tensor  # (M, E, R) bool
    success_any_step: Tensor  # (M, E, R) bool
    steps_to_success: Tensor  # (M, E, R) int64, control steps until the criterion first held; H if it never did
    returns: Tensor  # (M, E, R) undiscounted
    terms: dict[str, Tensor]  # reward term -> (M, E, R) summed over the episode
    fed_the_reward: bool  # whether the feedback is the reward that training maximises
    broken: Tensor  # (M, E, R) bool: the physics failed in it
    failures: int  # episodes whose physics failed; in an evaluation also those that explored for them
    failure: str | None = None  # the first of them in words, with the episode of the trial and the control step

    @property
    def trial_episodes(self) -> int:
        """R."""
        return self.returns.shape[-1]

    @property
    def steps(self) -> int:
        """Environment steps that were simulated."""
        return self.reward.numel()


class Batch(NamedTuple):
    """Training data; leading dimensions (M, E) outside of vmap over tasks, (E,) inside."""

    tokens: Tensor  # (..., T, F)
    actions: Tensor  # (..., T, A)
    log_probability: Tensor  # (..., T)
    advantage: Tensor  # (..., T) normalised
    target: Tensor  # (..., T) what the critic should predict
    valid: Tensor  # (..., T)
    inner_advantage: Tensor  # (..., T) normalised; that of the feedback, from which inner steps learn

    def select(self, index: Tensor | slice | int) -> Batch:
        """The tasks at `index`; a number takes one task, without its dimension."""
        return Batch(*(x[index] for x in self))

    def valid_first(self) -> Batch:
        """A copy in which the valid steps of each sequence come first, in their order.

        A causal policy then sees at each valid step the valid ones before it, and nothing else.
        """
        order = torch.argsort(self.valid, dim=-1, descending=True, stable=True)

        def ordered(x: Tensor) -> Tensor:
            index = order.view(*order.shape, *[1] * (x.dim() - order.dim()))
            return torch.take_along_dim(x, index, dim=order.dim() - 1)

        return Batch(*map(ordered, self))
