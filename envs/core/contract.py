"""Checks of what the code of an environment returns; an error is one line that names the class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from envs.errors import ContractError, TaskError

LARGEST = 1e15  # of an observation: the square of much more is beyond float32, and its running variance useless


class Assigned(dict[str, Tensor]):
    """Task parameters (N, d) by name.

    Raises:
        TaskError: with the valid names, if another is asked for.
    """

    def __missing__(self, name: str) -> Tensor:
        raise TaskError(f"there is no task parameter '{name}' (valid: {', '.join(sorted(self)) or 'none'})")


def check_observation(owner: str, observation: object, shape: tuple[int, int]) -> None:
    """Check that an observation is (N, D) float32.

    Raises:
        ContractError: names the class (`owner`), what it returned and what it should have.
    """
    _check(owner, "observe()", observation, shape, torch.float32)


def check_step(owner: str, terms: Mapping[str, object], success: object, count: int) -> None:
    """Check that there are reward terms (N,), at least one, and that the success is (N,) bool; `count` is N.

    Raises:
        ContractError: as `check_observation`.
    """
    if not terms:
        raise ContractError(f"{owner}: reward_terms() returned no term")
    for name, term in terms.items():
        _check(owner, f"reward term '{name}'", term, (count,), None)
    _check(owner, "success()", success, (count,), torch.bool)


def check_returned(owner: str, step: object, count: int, size: int) -> None:
    """Check that what a `step` returned has the fields of an `envs.environment.Step`, in their shapes and types.

    Raises:
        ContractError: as `check_observation`; `count` is N, `size` D.
    """
    kinds = {"reward": torch.float32, "terminated": torch.bool, "failed": torch.bool, "feedback": torch.float32}
    if not all(hasattr(step, name) for name in ("observation", "terms", "success", *kinds)):
        raise ContractError(f"{owner}: step() returned a {type(step).__name__}, expected an envs.environment.Step")
    check_observation(owner, step.observation, (count, size))
    if not isinstance(step.terms, Mapping):
        raise ContractError(f"{owner}: step() returned terms that are not a dictionary")
    check_step(owner, step.terms, step.success, count)
    for name, dtype in kinds.items():
        _check(owner, name, getattr(step, name), (count,), dtype)


def check_first_step(owner: str, before: Tensor, observation: Tensor) -> None:
    """Check that the first step's observation (N, D) is not the memory of the reset's (`before`), and of sane size.

    Raises:
        ContractError: names the entry that is too large, or says what to return instead.
    """
    if before.data_ptr() == observation.data_ptr():
        remedy = "return a fresh tensor, such as a clone()"
        raise ContractError(f"{owner}: its observation is the same memory as that of the reset: {remedy}")
    absurd = (torch.isfinite(observation) & (observation.abs() > LARGEST)).nonzero()
    if len(absurd):
        simulation, entry = absurd[0].tolist()
        value, remedy = observation[simulation, entry].item(), f"give it in a unit in which it is below {LARGEST:g}"
        raise ContractError(f"{owner}: observation entry {entry} is {value:g} in simulation {simulation}: {remedy}")


def first_not_finite(terms: Mapping[str, Tensor], observation: Tensor, simulation: int) -> str:
    """Name what is not finite in a simulation: a reward term (N,), or an entry of the observation (N, D)."""
    for name, term in terms.items():
        if not torch.isfinite(term[simulation]):
            return f"reward term '{name}'"
    entries = (~torch.isfinite(observation[simulation])).nonzero()[:, 0].tolist()
    return f"observation entry {entries[0]}" if entries else "the sum of the reward terms, or the feedback,"


def _check(owner: str, what: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    wanted = f"{shape} {_short(dtype)}" if dtype else f"{shape}"
    if not isinstance(value, Tensor):
        raise ContractError(f"{owner}: {what} is a {type(value).__name__}, expected a tensor {wanted}")
    if tuple(value.shape) != shape or dtype not in (None, value.dtype):
        raise ContractError(f"{owner}: {what} is {tuple(value.shape)} {_short(value.dtype)}, expected {wanted}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
