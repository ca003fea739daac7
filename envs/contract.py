"""What an environment's own code must return: checked once, and said in one line that names the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from envs.errors import ContractError, TaskError


class Sized(Protocol):
    """What the checks need to know about an environment."""

    num_simulations: int
    observation_size: int


class Assigned(dict[str, Tensor]):
    """Task parameters (N, d) by name.

    Raises:
        TaskError: names the valid ones, where another is asked for.
    """

    def __missing__(self, name: str) -> Tensor:
        raise TaskError(f"there is no task parameter '{name}' (valid: {', '.join(sorted(self)) or 'none'})")


def check_observation(env: Sized, observation: Tensor) -> None:
    """An observation must be (N, D) float32.

    Raises:
        ContractError: names the class, what it returned and what it should have.
    """
    _check(env, "observe()", observation, (env.num_simulations, env.observation_size), torch.float32)


def check_step(env: Sized, terms: Mapping[str, Tensor], success: Tensor) -> None:
    """Reward terms must be (N,), at least one, and the success (N,) bool.

    Raises:
        ContractError: as `check_observation`.
    """
    if not terms:
        raise ContractError(f"{type(env).__name__}: reward_terms() returned no term")
    for name, term in terms.items():
        _check(env, f"reward term '{name}'", term, (env.num_simulations,), None)
    _check(env, "success()", success, (env.num_simulations,), torch.bool)


def find_culprit(terms: Mapping[str, Tensor], observation: Tensor, simulation: int) -> str:
    """What is not finite in a simulation: a reward term, or an entry of the observation."""
    for name, term in terms.items():
        if not torch.isfinite(term[simulation]):
            return f"reward term '{name}'"
    entries = (~torch.isfinite(observation[simulation])).nonzero()[:, 0].tolist()
    return f"observation entry {entries[0]}" if entries else "the sum of the reward terms"


def _check(env: Sized, what: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    if not isinstance(value, Tensor):
        raise ContractError(f"{type(env).__name__}: {what} is a {type(value).__name__}, expected a tensor {shape}")
    if tuple(value.shape) != shape or dtype not in (None, value.dtype):
        found = f"{tuple(value.shape)} {_short(value.dtype)}"
        wanted = f"{shape} {_short(dtype)}" if dtype else f"{shape}"
        raise ContractError(f"{type(env).__name__}: {what} is {found}, expected {wanted}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
