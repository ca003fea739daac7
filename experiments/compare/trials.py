"""Trials as Stable-Baselines3 can learn from them: several episodes of one task are one of its episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnvWrapper

from envs.adapters.sb3 import SB3VecEnv
from envs.core.tasks import Tasks


class TrialsVecEnv(VecEnvWrapper):
    """A trial of R episodes of one task, drawn from the environment's split, is one episode; then comes another task.

    The observation is that of RL^2: [observation (D), previous action clipped to [-1, 1] (A), feedback on it (1), first
    flag (1)], the token of this project's own policies; the flag is 1 where an episode of the trial begins. At the end
    of such an episode nothing ends for the learner, whose memory goes on; `info` says `is_success` and `episode` of it.

    Args:
        env: without fixed tasks.
        episodes: R.
    """

    def __init__(self, env: SB3VecEnv, episodes: int) -> None:
        space, action = env.observation_space, env.action_space
        assert isinstance(space, Box) and isinstance(action, Box)
        ends = np.ones(action.shape[0], np.float32), np.full(1, np.inf, np.float32), np.ones(1, np.float32)
        low = np.concatenate([space.low, -ends[0], -ends[1], 0 * ends[2]])
        high = np.concatenate([space.high, *ends])
        super().__init__(env, observation_space=Box(low, high, dtype=np.float32))
        self.inner, self.trial_episodes = env, episodes
        self._actions = np.zeros((env.num_envs, action.shape[0]), np.float32)
        self._feedback = np.zeros(env.num_envs, np.float32)
        self._played = np.zeros(env.num_envs, int)  # episodes of the trial that are over

    def reset(self) -> np.ndarray:
        everywhere = np.ones(self.num_envs, bool)
        self._actions[:], self._feedback[:], self._played[:] = 0.0, 0.0, 0
        self._draw(everywhere)
        observation = self.inner.reset()
        self._draw(everywhere & (self.trial_episodes == 1))
        return self._extended(observation, everywhere)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.clip(np.asarray(actions, np.float32), -1.0, 1.0)
        self.inner.step_async(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, ended, infos = self.inner.step_wait()
        self._feedback = np.array([info["feedback"] for info in infos], np.float32)
        self._played += ended
        done = self._played >= self.trial_episodes
        for i in np.flatnonzero(ended):
            last = infos[i].pop("terminal_observation")
            if done[i]:
                infos[i]["terminal_observation"] = np.concatenate(
                    [last, self._actions[i], self._feedback[i : i + 1], np.zeros(1, np.float32)]
                )
            else:
                infos[i]["TimeLimit.truncated"] = False
        self._actions[done], self._feedback[done], self._played[done] = 0.0, 0.0, 0
        # The next start is that of another trial where the last episode of this one has begun.
        self._draw(ended & (self._played == self.trial_episodes - 1))
        return self._extended(observation, ended), reward, done, infos

    def _draw(self, rows: np.ndarray) -> None:
        """Give the simulations in rows (N,) another task, from their next start on."""
        if not rows.any():
            return
        episodes, distribution = self.inner.episodes, self.inner.environment.distribution
        fresh = distribution.sample(int(rows.sum()), episodes.split)
        if episodes.fixed is None:
            assert rows.all()
            return episodes.fix(fresh)
        values = {name: value.clone() for name, value in episodes.fixed.values.items()}
        for name, value in fresh.values.items():
            values[name][rows] = value
        episodes.fix(Tasks(values))

    def _extended(self, observation: np.ndarray, first: np.ndarray) -> np.ndarray:
        columns = [observation, self._actions, self._feedback[:, None], first[:, None]]
        return np.concatenate(columns, 1, dtype=np.float32)
