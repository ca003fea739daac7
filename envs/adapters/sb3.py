"""A Stable-Baselines3 `VecEnv` on the batched engine: all simulations step in one call, without processes.

model = PPO("MlpPolicy", SB3VecEnv("reach", num_envs=64, goal_visible=True))
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from envs.adapters.episodic import Episodic, as_dictionary
from envs.adapters.gymnasium import RENDER_MODES, spaces
from envs.adapters.pictures import Pictures, check_render_mode, frame_rate
from envs.core.environment import Environment
from envs.errors import EnvsError
from envs.registry import make


class SB3VecEnv(VecEnv):
    """N simulations; every episode has a new task, drawn from `split`, until `set_tasks` fixes tasks.

    A finished episode's `info` has what Stable-Baselines3 looks for: `terminal_observation`, `TimeLimit.truncated`,
    `is_success` (at the episode's end) and `episode` (return, length, seconds), so that no monitor is needed; and its
    `task`. The task of the present episode is in `reset_infos`, under the same name.

    Args:
        environment: an environment, or a name in `envs.registry.names()`.
        num_envs: simulations; with a name only.
        split: "train", "validation", "test" or "ood".
        render_mode: "rgb_array", "human" (a window with the first nine simulations), or None.
        width, height: of each picture, in pixels.
        options: of the environment, such as `goal_visible`; with a name only.

    Raises:
        EnvsError: for an unknown name, option, split, render mode or task.
    """

    def __init__(
        self,
        environment: Environment | str,
        num_envs: int | None = None,
        split: str = "train",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 360,
        **options: object,
    ) -> None:
        check_render_mode(render_mode, RENDER_MODES)
        if isinstance(environment, str):
            environment = make(environment, 1 if num_envs is None else num_envs, **options)
        elif num_envs is not None or options:
            raise EnvsError("num_envs and options are for an environment's name: this environment is made already")
        self.environment = environment
        self.episodes = Episodic(environment, split)
        if options.get("seed") is not None:
            self.episodes.seed(int(str(options["seed"])))
        self.render_mode = render_mode
        self.metadata = {"render_modes": list(RENDER_MODES), "render_fps": frame_rate(environment)}
        self._pictures = Pictures(
            environment, width, height, f"{environment.name} - metarl" if render_mode == "human" else None
        )
        self._returns = np.zeros(environment.num_simulations)
        self._actions = torch.zeros(environment.num_simulations, environment.action_size)
        self._began = time.monotonic()
        super().__init__(environment.num_simulations, *spaces(environment))

    def set_tasks(self, tasks: Sequence[Mapping[str, object]] | None) -> None:
        """Keep M tasks, N / M simulations each, each from its next episode on; None: a new one for every episode."""
        self.episodes.fix(tasks)

    def reset(self) -> np.ndarray:
        if self._seeds[0] is not None:
            self.episodes.seed(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._pictures.forget()
        observation = self.episodes.start().numpy()
        self._tell_tasks(range(self.num_envs))
        self._pictures.show()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = torch.from_numpy(np.array(actions, np.float32))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        step, truncated = self.episodes.step(self._actions)
        observation, done = step.observation, step.terminated | truncated
        self._returns += step.reward.numpy()
        infos: list[dict[str, Any]] = [
            {"success": success, "feedback": felt, "TimeLimit.truncated": cut}
            for success, felt, cut in zip(
                step.success.tolist(), step.feedback.tolist(), truncated.tolist(), strict=True
            )
        ]
        if done.any():
            seconds = round(time.monotonic() - self._began, 6)
            ended = done.nonzero()[:, 0].tolist()
            for i in ended:
                length = int(self.episodes.elapsed[i])
                infos[i]["terminal_observation"] = observation[i].numpy().copy()
                infos[i]["is_success"] = infos[i]["success"]
                infos[i]["episode"] = {"r": float(self._returns[i]), "l": length, "t": seconds}
                infos[i]["task"] = self.reset_infos[i]["task"]
            self._returns[done.numpy()] = 0.0
            observation = self.episodes.start(done)
            self._tell_tasks(ended)
            self._pictures.forget(done)
        self._pictures.show()
        return observation.numpy(), step.reward.numpy(), done.numpy(), infos

    def _tell_tasks(self, started: Iterable[int]) -> None:
        """Say which task the simulations have whose episodes have just begun."""
        assert self.environment.tasks is not None
        for i in started:
            self.reset_infos[i] = {"task": as_dictionary(self.environment.tasks, i)}

    def close(self) -> None:
        self._pictures.close()

    def render(self, mode: str | None = None) -> np.ndarray | None:
        if self.render_mode != "human":
            return super().render(mode)
        self._pictures.show()
        return None

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [self._pictures.draw(index) for index in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        owner = self if hasattr(self, attr_name) else self.environment
        return [getattr(owner, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if indices is not None:
            raise EnvsError("the simulations are one object: set_attr cannot set an attribute for some of them")
        setattr(self.environment if hasattr(self.environment, attr_name) else self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        raise EnvsError(
            f"the simulations are one object without methods of their own: call '{method_name}' on this VecEnv"
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        # The `episode` entries of `info` are what a Monitor is wanted for.
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]
