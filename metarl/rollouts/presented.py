"""What a Gymnasium environment presents to a trained policy: whether it fits, and whether it is one task."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorObservationWrapper, VectorRewardWrapper, VectorWrapper

from agents.policy import Policy
from metarl.errors import MetaRLError, RunWarning

Single = gymnasium.Env[Any, Any]
Vector = VectorEnv[Any, Any, Any]

CHANGES = (
    gymnasium.ObservationWrapper,
    gymnasium.RewardWrapper,
    VectorObservationWrapper,
    VectorRewardWrapper,
    wrappers.NormalizeReward,
    wrappers.vector.NormalizeReward,
)
# These pass on the same numbers.
SAME = (
    wrappers.FlattenObservation,
    wrappers.DtypeObservation,
    wrappers.vector.FlattenObservation,
    wrappers.vector.DtypeObservation,
)


def vector_of(env: object) -> Vector:
    """The environment as a vector of one, if it is not a vector.

    Raises:
        MetaRLError: if it is not of Gymnasium, or has not set its spaces.
    """
    if isinstance(env, VectorEnv):
        _check_set(env, "single_observation_space", "single_action_space")
        return env
    if not isinstance(env, gymnasium.Env):
        remedy = "a batched class is one as envs.adapters.gymnasium.TaskEnv('my_package.my_module:Class')"
        given = type(env).__name__
        raise MetaRLError(f"adapt needs a gymnasium.Env or a gymnasium.vector.VectorEnv, not a {given}; {remedy}")
    _check_set(env, "observation_space", "action_space")
    return SyncVectorEnv([lambda: _Shaped(env)])


class _Shaped(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose observations have the shape that its space says; a vector would fail at them in numpy."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._checked(observation), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        told = self.env.step(action)
        if not isinstance(told, tuple) or len(told) != 5:
            count = len(told) if isinstance(told, tuple) else type(told).__name__
            raise MetaRLError(
                f"{name_of(self.env)}: step returned {count}, not (observation, reward, terminated, truncated, info)"
            )
        return self._checked(told[0]), *told[1:]

    def _checked(self, observation: Any) -> Any:
        wanted, found = self.observation_space.shape, np.shape(observation)
        if wanted is not None and found != wanted:
            raise MetaRLError(f"{name_of(self.env)}: the observation has shape {found}, its space says {wanted}")
        return observation


def _check_set(env: Single | Vector, *spaces: str) -> None:
    for name in spaces:
        if not isinstance(getattr(env, name, None), gymnasium.Space):
            raise MetaRLError(f"{type(env.unwrapped).__name__} must set {name} to a gymnasium.spaces.Box")


def name_of(env: object) -> str:
    """What an environment is called: by Gymnasium, by this project, or its class."""
    inner = getattr(env, "unwrapped", env)
    spec, own = getattr(env, "spec", None), getattr(getattr(inner, "environment", None), "name", None)
    if isinstance(inner, SyncVectorEnv):
        return name_of(inner.envs[0])
    return str(own or (spec.id if spec else type(inner).__name__))


def check_spaces(env: Single | Vector, policy: Policy) -> None:
    """Refuse spaces that are not those of the policy.

    Raises:
        MetaRLError: with the remedy, if there is one.
    """
    if isinstance(env, VectorEnv):
        seen, action, place = env.single_observation_space, env.single_action_space, "gymnasium.wrappers.vector"
    else:
        seen, action, place = env.observation_space, env.action_space, "gymnasium.wrappers"
    found, wanted = (seen.shape, action.shape), ((policy.observation_size,), (policy.action_size,))
    if found != wanted:
        text = f"the environment's observation and action shapes are {found}, the policy's are {wanted}"
        if seen.shape != wanted[0] and seen.is_np_flattenable and flatdim(seen) == policy.observation_size:
            text = f"the environment's observation is a {type(seen).__name__}, the policy's is flat"
            text += f": wrap the environment in {place}.FlattenObservation(env)"
        raise MetaRLError(text)
    if not (isinstance(action, Box) and np.issubdtype(action.dtype, np.floating)):
        given = f"a {type(action).__name__} of {action.dtype}"
        raise MetaRLError(f"the environment's actions are {given}, the policy's are real numbers from -1 to 1")
    if np.isfinite(action.low).all() and not (np.allclose(action.low, -1.0) and np.allclose(action.high, 1.0)):
        remedy = "wrap it in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"
        raise MetaRLError(f"the environment's actions are not from -1 to 1, as the policy's are: {remedy}")


def warn_of_differences(env: Single | Vector, horizon: int, stacklevel: int) -> None:
    """Say what may differ from training: other observations and rewards, or other than H = `horizon` control steps.

    Both can be meant, so they are no errors.
    """
    layers = list(_layers(env))
    changing = [type(layer).__name__ for layer in layers if isinstance(layer, CHANGES) and not isinstance(layer, SAME)]
    if changing:
        names = ", ".join(dict.fromkeys(changing))
        text = f"observations or rewards pass through {names}: adapt without, unless the policy was trained on them so"
        warnings.warn(text, RunWarning, stacklevel=stacklevel + 1)
    others = [length for length in map(_horizon, layers) if length is not None and length != horizon]
    if others:
        text = f"the environment's episodes end after {min(others)} control steps, the policy was trained on {horizon}"
        warnings.warn(text, RunWarning, stacklevel=stacklevel + 1)


def _layers(env: Single | Vector) -> Iterator[Single | Vector]:
    """An environment, all that it wraps, and all that stand side by side in it, as far as they are in this process."""
    yield env
    if isinstance(env, gymnasium.Wrapper | VectorWrapper):
        yield from _layers(env.env)
    elif isinstance(env, SyncVectorEnv):
        for each in env.envs:
            yield from _layers(each)


def _horizon(layer: Single | Vector) -> int | None:
    """After how many control steps an episode is cut off here; None: it is not, or nobody says."""
    if isinstance(layer, wrappers.TimeLimit):
        return layer._max_episode_steps
    if isinstance(layer, gymnasium.Wrapper | VectorWrapper):
        return None
    return getattr(getattr(layer, "environment", None), "horizon", None)


class OneTask:
    """Watches over the resets of a vector environment whether it presents one task, as far as it tells.

    An environment tells its task by `info["task"]` of `reset`, or by `get_task()` or `task`.
    """

    def __init__(self, env: Vector) -> None:
        self.env = env
        self._seen: list[Any] = []

    def check(self, info: Mapping[str, Any]) -> None:
        """Look at the tasks after a reset.

        Raises:
            MetaRLError: if they are not all the same, and the same as after earlier resets.
        """
        told = _rows(info["task"], self.env.num_envs) if "task" in info else _asked(self.env)
        if any(not same_task(task, told[0]) for task in told):
            raise MetaRLError("the environments have different tasks, and adapt needs one: give it to all by set_task")
        self._seen = self._seen or told[:1]
        if told and not same_task(told[0], self._seen[0]):
            raise MetaRLError("the environment has another task after a reset, and adapt needs one: fix it by set_task")


def _rows(value: Any, count: int) -> list[Any]:
    """What each of so many environments has told, from Gymnasium's vector info."""
    if not isinstance(value, Mapping):
        return list(value) if np.ndim(value) and len(value) == count else [None] * count
    columns = {name: _rows(each, count) for name, each in value.items() if f"_{name}" in value}
    return [{name: column[index] for name, column in columns.items()} for index in range(count)]


def _asked(env: Vector) -> list[Any]:
    """The tasks of the environments, if they are in this process and have them."""
    base = env.unwrapped
    told = [_task(each) for each in base.envs] if isinstance(base, SyncVectorEnv) else []
    return told if all(task is not None for task in told) else []


def _task(env: Single) -> Any:
    if env.has_wrapper_attr("get_task"):
        return env.get_wrapper_attr("get_task")()
    return env.get_wrapper_attr("task") if env.has_wrapper_attr("task") else None


def same_task(one: Any, two: Any) -> bool:
    """Whether two tasks are equal, as far as they are plain data; of others it is taken for granted."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(same_task(one[name], two[name]) for name in one)
    if isinstance(one, Sequence) and isinstance(two, Sequence) and not isinstance(one, str | bytes):
        return len(one) == len(two) and all(map(same_task, one, two))
    plain = (str, bytes, int, float, np.generic, np.ndarray)
    return not (isinstance(one, plain) and isinstance(two, plain)) or np.array_equal(one, two)
