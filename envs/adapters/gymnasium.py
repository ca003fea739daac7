"""Gymnasium environments: one simulation (`TaskEnv`) and many on the batched engine (`VectorTaskEnv`).

    gymnasium.make("metarl/Reach-v0")                    after `import envs`, or
    gymnasium.make("envs:metarl/Reach-v0")               without it
    gymnasium.make_vec("metarl/Reach-v0", num_envs=256)  the batched engine, one call for all simulations

Both have the task functions of learn2learn and garage: `sample_tasks(n)` draws tasks, `set_task(task)` fixes one from
the next episode on. Until one is fixed, each simulation keeps the task, from `split`, that its first reset draws; a
reset with a seed draws it anew. After `set_task(None)` every episode has a new one, as training over many tasks wants
it. A task is a dictionary of parameter name to (d,) numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.adapters.episodic import Episodic, as_dictionary
from envs.adapters.pictures import Pictures, check_render_mode, frame_rate
from envs.core.environment import Environment
from envs.errors import EnvsError, TaskError
from envs.registry import make

# MuJoCo calls a state beyond this (mjMAXVAL) unstable, so no observation gets there.
OBSERVATION_LIMIT = 1e10
RENDER_MODES = ("rgb_array", "human")


def spaces(environment: Environment) -> tuple[Box, Box]:
    """Observation and action space of one simulation."""
    observation = Box(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, (environment.observation_size,), np.float32)
    return observation, Box(-1.0, 1.0, (environment.action_size,), np.float32)


class TaskInterface:
    """The task functions of learn2learn and garage, for one simulation or many."""

    environment: Environment
    episodes: Episodic

    def sample_tasks(self, num_tasks: int) -> list[dict[str, np.ndarray]]:
        """Tasks drawn from the split, by the environment's own generator."""
        tasks = self.environment.distribution.sample(num_tasks, self.episodes.split)
        return [as_dictionary(tasks, index) for index in range(len(tasks))]

    def set_task(self, task: Mapping[str, object] | None) -> None:
        """Keep this task, in every simulation, from its next episode on; None: a new one in every episode."""
        self.episodes.fix(None if task is None else [task])


class TaskEnv(TaskInterface, gymnasium.Env[np.ndarray, np.ndarray]):
    """One simulation of a task environment.

    Args:
        name: in `envs.registry.names()`.
        split: "train", "validation", "test" or "ood": where tasks are drawn from.
        render_mode: "rgb_array" (render returns a (height, width, 3) uint8 picture), "human" (a window), or None.
        width, height: of the picture, in pixels.
        options: of the environment, such as `goal_visible`, `horizon` or `tasks_override`.

    `reset(seed=...)` makes all that follows repeatable; `reset(options={"task": task})` calls `set_task(task)` first.
    `info` has `task`; after a step also `success` (now), `failed` (the physics broke; the episode is terminated),
    `reward_terms`, whose sum is the reward, and `feedback`, what a policy is fed. `truncated` is set at the horizon.

    Raises:
        EnvsError: for an unknown name, option, split, render mode or task.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 20}

    def __init__(
        self,
        name: str,
        split: str = "train",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 360,
        **options: object,
    ) -> None:
        check_render_mode(render_mode, RENDER_MODES)
        if "seed" in options:
            raise EnvsError(f"{name}: no option 'seed'; it is reset(seed=...) that seeds everything")
        self.environment = make(name, 1, **options)
        self.episodes = Episodic(self.environment, split, keep=True)
        self.observation_space, self.action_space = spaces(self.environment)
        self.metadata = {**type(self).metadata, "render_fps": frame_rate(self.environment)}
        self.render_mode = render_mode
        self._pictures = Pictures(
            self.environment, width, height, f"{name} - metarl" if render_mode == "human" else None
        )

    def get_task(self) -> dict[str, np.ndarray]:
        """The task of the present episode."""
        if self.environment.tasks is None:
            raise TaskError("there is no task before the first reset")
        return as_dictionary(self.environment.tasks, 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        first = self._np_random is None
        super().reset(seed=seed)
        if first or seed is not None:
            self.episodes.seed(int(self.np_random.integers(2**63)))
        if options and "task" in options:
            self.set_task(options["task"])
        observation = self.episodes.start()
        self._pictures.forget()
        self._pictures.show()
        return observation[0].numpy(), {"task": self.get_task()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step, truncated = self.episodes.step(torch.from_numpy(np.array(action, np.float32))[None])
        info = {
            "task": self.get_task(),
            "success": bool(step.success[0]),
            "failed": bool(step.failed[0]),
            "feedback": float(step.feedback[0]),
            "reward_terms": {name: float(term[0]) for name, term in step.terms.items()},
        }
        self._pictures.show()
        return step.observation[0].numpy(), float(step.reward[0]), bool(step.terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        if self.render_mode is None:
            gymnasium.logger.warn("render() draws nothing without a render_mode: give one to make()")
            return None
        if self.render_mode == "human":
            self._pictures.show()
            return None
        return self._pictures.draw(0)

    def close(self) -> None:
        self._pictures.close()


class VectorTaskEnv(TaskInterface, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N simulations on the batched engine; a simulation whose episode ends begins the next one in the same step.

    Arguments, tasks and `info` are as in `TaskEnv`, with a leading N and Gymnasium's masks (`_success`, ...); a window
    shows the first nine simulations. `success`, `failed`, `feedback` and `reward_terms` belong to the step just taken
    and `task` to the observation returned; `final_obs` and `final_info` hold what the finished episodes ended with.
    `reset(options={"reset_mask": (N,) bool})` begins new episodes only in these simulations.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "autoreset_mode": AutoresetMode.SAME_STEP}  # type: ignore[misc]

    def __init__(
        self,
        name: str,
        num_envs: int = 1,
        split: str = "train",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 360,
        **options: object,
    ) -> None:
        check_render_mode(render_mode, RENDER_MODES)
        if "seed" in options:
            raise EnvsError(f"{name}: no option 'seed'; it is reset(seed=...) that seeds everything")
        self.environment = make(name, num_envs, **options)
        self.episodes = Episodic(self.environment, split, keep=True)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = spaces(self.environment)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**type(self).metadata, "render_fps": frame_rate(self.environment)}  # type: ignore[misc]
        self.render_mode = render_mode
        self._pictures = Pictures(
            self.environment, width, height, f"{name} - metarl" if render_mode == "human" else None
        )

    def set_tasks(self, tasks: Sequence[Mapping[str, object]]) -> None:
        """Keep M tasks, N / M simulations each, each from its next start on."""
        self.episodes.fix(tasks)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        first = self._np_random is None
        super().reset(seed=seed)
        if first or seed is not None:
            self.episodes.seed(int(self.np_random.integers(2**63)))
        given = options or {}
        if "task" in given:
            self.set_task(given["task"])
        mask = None if given.get("reset_mask") is None else self._as_mask(given["reset_mask"])
        observation = self.episodes.start(mask)
        self._pictures.forget(mask)
        self._pictures.show()
        chosen = np.ones(self.num_envs, bool) if mask is None else mask.numpy()
        return observation.numpy(), _masked({"task": self._tasks()}, chosen)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        step, truncated = self.episodes.step(torch.from_numpy(np.array(actions, np.float32)))
        terms = {name: term.numpy() for name, term in step.terms.items()}
        told = {name: getattr(step, name).numpy() for name in ("success", "failed", "feedback")}
        info: dict[str, Any] = {**told, "reward_terms": terms}
        observation, done = step.observation, step.terminated | truncated
        infos: dict[str, Any] = {}
        if done.any():
            ended = done.numpy()
            infos = _masked(
                {"final_obs": _rows(observation, done), "final_info": {"task": self._tasks(), **info}}, ended
            )
            observation = self.episodes.start(done)
            self._pictures.forget(done)
        self._pictures.show()
        infos |= _masked({"task": self._tasks(), **info}, np.ones(self.num_envs, bool))
        reward = step.reward.double().numpy()
        return observation.numpy(), reward, step.terminated.numpy(), truncated.numpy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() draws nothing without a render_mode: give one to make_vec()")
            return None
        if self.render_mode == "human":
            self._pictures.show()
            return None
        return tuple(self._pictures.draw(index) for index in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        self._pictures.close()

    def _tasks(self) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in self.environment.assigned.items()}

    def _as_mask(self, mask: object) -> Tensor:
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,)):
            raise EnvsError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},)")
        return torch.from_numpy(mask.copy())


def _rows(values: Tensor, mask: Tensor) -> np.ndarray:
    """The masked rows of (N, D) as an object array (N,), which is the form of Gymnasium's `final_obs`."""
    rows = np.full(len(mask), None, dtype=object)
    for index in mask.nonzero()[:, 0].tolist():
        rows[index] = values[index].numpy().copy()
    return rows


def _masked(info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's vector info: beside every entry, also nested ones, `_entry` (N,) says for whom it holds."""
    result: dict[str, Any] = {}
    for name, value in info.items():
        result[name] = _masked(value, mask) if isinstance(value, dict) else value.copy()
        result[f"_{name}"] = mask.copy()
    return result
