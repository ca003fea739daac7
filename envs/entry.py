"""Environments of the user's own, of either kind, at `package.module:Class`; their mistakes are told in one line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
from torch import Tensor

from envs.adapters.gymnasium_tasks import GymnasiumTasks
from envs.core.contract import check_first_step, check_observation, check_returned
from envs.core.environment import Environment, MujocoEnvironment, Step
from envs.core.explained import explained, place
from envs.errors import ContractError, TaskError, UnknownEnvironmentError

Factory = Callable[..., Environment]

ID = "gymnasium"  # env=gymnasium:Name-v0 is a registered name, not an entry
# What the class body or `__init__` must set.
_PROMISED = {"name": str, "success_criterion": str, "horizon": int, "observation_size": int, "action_size": int}


def load_entry(entry: str) -> Callable[..., Any]:
    """The class or function at `package.module:Class`.

    Raises:
        UnknownEnvironmentError: in one line, if the module does not exist, fails when it is imported, or has no such
            class.
    """
    module, _, name = entry.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _import_failed(entry, module, error) from error
        raise UnknownEnvironmentError(f"{entry}: {error}; a module is searched from the working folder") from None
    except Exception as error:
        raise _import_failed(entry, module, error) from error
    if not callable(found):
        raise UnknownEnvironmentError(f"{entry}: the module {module} has no class '{name}'")
    return found


def own_environment(entry: str) -> Factory:
    """A factory of N simulations of an environment of the user's own.

    Args:
        entry: `package.module:Class`, where `Class` is an `envs.environment.Environment`, a `gymnasium.Env` with
            `sample_tasks` and `set_task`, or a function that returns one of these (the first kind, if it takes
            `num_simulations`); or `gymnasium:Name-v0`, a name that is registered with Gymnasium.

    Raises:
        UnknownEnvironmentError: as `load_entry`.
        ContractError: if it is of neither kind, or lacks a method. The factory raises it too.
    """
    if entry.startswith(f"{ID}:"):
        return partial(_guarded, entry, partial(GymnasiumTasks, partial(_registered, entry), entry))
    found = load_entry(entry)
    if not is_batched(entry, found):
        return partial(_guarded, entry, partial(GymnasiumTasks, found, entry))
    if inspect.isabstract(found):
        raise ContractError(f"{entry}: lacks the methods {', '.join(sorted(found.__abstractmethods__))}")
    return partial(_guarded, entry, partial(_construct, found, entry))


def is_batched(entry: str, found: Callable[..., Any]) -> bool:
    """Whether what stands at an entry makes N simulations, and not one Gymnasium environment.

    Raises:
        ContractError: if it makes neither.
    """
    if isinstance(found, type) and not issubclass(found, Environment | gymnasium.Env):
        kinds = "envs.environment.MujocoEnvironment (or Environment) nor gymnasium.Env"
        raise ContractError(f"{entry}: is a subclass of neither {kinds}")
    if isinstance(found, type):
        return issubclass(found, Environment)
    try:
        return "num_simulations" in inspect.signature(found).parameters
    except (TypeError, ValueError):
        raise ContractError(f"{entry}: is not a function that makes an environment") from None


# The methods that are called while an environment is used.
_USED = ("set_tasks", "reset", "step", "begin_trial", "privileged", "realised", "render_state", "drawer")


def _guarded(entry: str, make: Factory, num_simulations: int, **options: Any) -> Environment:
    """The environment that `make` makes; whatever its code raises, now or in use, is explained in one line.

    Raises:
        ContractError: names the line of the code that raised, and holds the exception as its cause.
        TypeError: for an unexpected keyword, which `envs.registry` explains.
    """
    env = explained(entry, make, constructs=True)(num_simulations, **options)
    for name in _USED:
        setattr(env, name, explained(entry, getattr(env, name)))
    if not isinstance(env, MujocoEnvironment | GymnasiumTasks):  # these check themselves
        _check_use(entry, env)
    return env


def _check_use(entry: str, env: Environment) -> None:
    """Check from now on what an environment's reset and step return."""
    reset, step = env.reset, env.step
    first: list[Tensor] = []  # the first reset's observation, until the first step is checked

    def checked_reset(mask: Tensor | None = None) -> Tensor:
        observation = reset(mask)
        check_observation(entry, observation, (env.num_simulations, env.observation_size))
        if not env.begun:
            env.begun = True
            first.append(observation)
        return observation

    def checked_step(action: Tensor) -> Step:
        env.require_reset()
        result = step(action)
        check_returned(entry, result, env.num_simulations, env.observation_size)
        if first:
            check_first_step(entry, first.pop(), result.observation)
        return result

    env.reset, env.step = checked_reset, checked_step


def _construct(found: Callable[..., Any], entry: str, num_simulations: int, **options: Any) -> Environment:
    """A batched environment of the user's own, made and checked."""
    env = found(num_simulations, **options)
    if not isinstance(env, Environment):
        raise ContractError(f"{entry}: returned a {type(env).__name__}, which is not an envs.environment.Environment")
    for name, kind in _PROMISED.items():
        value = getattr(env, name, None)
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = "an integer" if kind is int else "a text"
            raise ContractError(f"{entry}: must set {name} to {wanted}, and it is {value!r}")
        if isinstance(value, int) and value < 1:
            raise ContractError(f"{entry}: must set {name} to a positive integer, and it is {value}")
    _check_override(entry, env, options.get("tasks_override") or {})
    return env


def _check_override(entry: str, env: Environment, changes: Mapping[str, object]) -> None:
    """Check that the ranges asked for have arrived: a class may take them and do nothing."""
    distribution = env.distribution
    if changes and distribution.override(changes).parameters != distribution.parameters:
        remedy = "hand the super().__init__ a distribution.override(tasks_override or {})"
        raise TaskError(f"{entry}: ignores the task ranges {', '.join(changes)}: {remedy}")


def _registered(entry: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """An environment by the name under which Gymnasium knows it."""
    try:
        return gymnasium.make(entry.partition(":")[2], disable_env_checker=True, **options)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        told = " ".join(str(error).split())
        remedy = "" if entry.count(":") > 1 else f"; if a module registers it: {entry.replace(':', ':my_module:')}"
        raise UnknownEnvironmentError(f"{entry}: {told}{remedy}") from None


def _import_failed(entry: str, module: str, error: Exception) -> UnknownEnvironmentError:
    where = place(error, whole=True) or place(error, installed=True, whole=True)
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    text = " ".join(str(error).split())
    return UnknownEnvironmentError(f"{entry}: cannot import {module}: {where}: {type(error).__name__}: {text}")
