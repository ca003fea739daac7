"""Losses on a batch of sequences; scalars, to be minimised."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.policy import Output, entropy, log_probability
from metarl.rollouts.episodes import Batch


def mean_valid(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid steps; a scalar."""
    return (x * valid).sum() / valid.sum().clamp(min=1.0)


def surrogate(output: Output, batch: Batch) -> Tensor:
    """The inner loss: -E[ratio * advantage], ratio = pi / pi_old.

    At the policy that acted its gradient is the policy gradient; the ratio makes that gradient depend on the policy in
    the right way for the second derivative (the low-variance estimator of ProMP, Rothfuss et al. 2019, arXiv
    1810.06784, sec. 5).
    """
    ratio = torch.exp(log_probability(output, batch.actions) - batch.log_probability)
    return -mean_valid(ratio * batch.advantage, batch.valid)


def clipped_surrogate(output: Output, batch: Batch, clip_range: float) -> Tensor:
    """The PPO loss (Schulman et al. 2017, arXiv 1707.06347, eq. 7)."""
    ratio = torch.exp(log_probability(output, batch.actions) - batch.log_probability)
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -mean_valid(torch.minimum(ratio * batch.advantage, clipped * batch.advantage), batch.valid)


def value_loss(output: Output, batch: Batch, unit: Tensor | float = 1.0) -> Tensor:
    """Half the mean squared error of the critic, in units of `unit`."""
    return 0.5 * mean_valid(((output.value - batch.target) / unit).square(), batch.valid)


def ppo(
    output: Output, batch: Batch, clip_range: float, value_coef: float, entropy_coef: float, unit: Tensor | float = 1.0
) -> Tensor:
    """Clipped surrogate, critic and entropy together (arXiv 1707.06347, eq. 9); the critic errs in units of `unit`."""
    loss = clipped_surrogate(output, batch, clip_range)
    if value_coef:
        loss = loss + value_coef * value_loss(output, batch, unit)
    if entropy_coef:
        loss = loss - entropy_coef * mean_valid(entropy(output), batch.valid)
    return loss
