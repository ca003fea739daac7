"""Returns, baselines and advantages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agents.policy import widest

ROUNDING = 1e-6  # of a mean of float32, relative to the largest
Total = Callable[[Tensor], Tensor]  # a sum over some tasks to that over all that belong together


def discounted_returns(reward: Tensor, valid: Tensor, discount: float) -> Tensor:
    """Discounted sum of future rewards (..., T); steps that are not valid take no time."""
    result = torch.empty_like(reward)
    total = torch.zeros_like(reward[..., 0])
    for t in reversed(range(reward.shape[-1])):
        total = torch.where(valid[..., t] > 0, reward[..., t] + discount * total, total)
        result[..., t] = total
    return result


def generalised_advantage(reward: Tensor, value: Tensor, valid: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates (..., T) (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    The value after the last valid step is 0: episodes are tasks of finite length, not truncated ones. Steps that are
    not valid take no time: credit passes over them, to the last valid step before. Their own advantage is 0.
    """
    result = torch.empty_like(reward)
    advantage = torch.zeros_like(reward[..., 0])
    next_value = torch.zeros_like(advantage)
    for t in reversed(range(reward.shape[-1])):
        alive = valid[..., t] > 0
        delta = reward[..., t] + discount * next_value - value[..., t]
        advantage = torch.where(alive, delta + discount * trace * advantage, advantage)
        next_value = torch.where(alive, value[..., t], next_value)
        result[..., t] = advantage * alive
    return result


def linear_baseline(observation: Tensor, returns: Tensor, valid: Tensor, ridge: float = 1e-5) -> Tensor:
    """Values (M, E, T) of a linear feature baseline fitted to each task in closed form.

    Features obs, obs^2, t, t^2, t^3, 1 with t in hundredths (Duan et al. 2016, arXiv 1604.06778, supplement); ridge
    regression on the valid steps, its weight raised tenfold until every task's solution is finite.

    Args:
        observation: (M, E, T, D). returns: (M, E, T) discounted. valid: (M, E, T).
    """
    tasks, episodes, steps, _ = observation.shape
    wide, device = widest(observation.device), observation.device
    observation = observation.clamp(-10.0, 10.0).to(wide)
    time = (torch.arange(steps, device=device).to(wide) / 100.0).expand(tasks, episodes, steps)[..., None]
    features = torch.cat([observation, observation**2, time, time**2, time**3, torch.ones_like(time)], -1)
    rows = (features * valid[..., None]).flatten(1, 2)
    gram = rows.transpose(1, 2) @ rows
    moment = rows.transpose(1, 2) @ returns.to(wide).flatten(1)[..., None]
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    while True:
        weights, trouble = torch.linalg.solve_ex(gram + ridge * identity, moment)
        sound = (trouble == 0).all() & torch.isfinite(weights).all()
        if bool(sound) or ridge > 1e3:
            break
        ridge *= 10.0
    weights = torch.nan_to_num(weights, 0.0, 0.0, 0.0)
    return (features.flatten(1, 2) @ weights).view(tasks, episodes, steps).to(returns.dtype)


def episode_baseline_advantage(reward: Tensor, valid: Tensor, discount: float) -> Tensor:
    """Discounted returns (M, E, T) minus their mean over a task's episodes at the same step: needs no critic.

    Where they differ from it by rounding alone it is 0: normalised, it would be as large as any other.
    """
    returns = discounted_returns(reward, valid, discount) * valid
    if reward.shape[1] == 1:
        return returns
    moved = (returns - returns.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1.0)) * valid
    return moved * (moved.abs() > ROUNDING * returns.abs().amax((1, 2), keepdim=True))


def these_alone(total: Tensor) -> Tensor:
    """There are no other tasks."""
    return total


def normalise(advantage: Tensor, valid: Tensor, dims: tuple[int, ...], total: Total = these_alone) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the valid steps of `dims`, and 0 elsewhere.

    Args:
        total: where `dims` has the tasks, adds the sums over those that are elsewhere.
    """
    count = total(valid.sum(dims, keepdim=True)).clamp(min=1.0)
    moved = centred(advantage, valid, dims, total)
    return moved / (total(moved.square().sum(dims, keepdim=True)) / count).sqrt().clamp(min=1e-6)


def centred(advantage: Tensor, valid: Tensor, dims: tuple[int, ...], total: Total = these_alone) -> Tensor:
    """Advantages with mean 0 over the valid steps of `dims`, and 0 elsewhere; `total` as for `normalise`."""
    count = total(valid.sum(dims, keepdim=True)).clamp(min=1.0)
    return (advantage - total((advantage * valid).sum(dims, keepdim=True)) / count) * valid
