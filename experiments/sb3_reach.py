"""PPO of Stable-Baselines3 on reach: every episode has another goal, and the goal is in the observation.

    python -m experiments.sb3_reach --timesteps 500000

An example of the batched environments under somebody else's algorithm, in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from stable_baselines3 import PPO

from envs.adapters.sb3 import SB3VecEnv
from envs.core.environment import Environment


def train(timesteps: int, num_envs: int, seed: int) -> PPO:
    """A policy after `timesteps` steps of `num_envs` simulations together."""
    env = SB3VecEnv("reach", num_envs=num_envs, seed=seed, goal_visible=True)
    env.seed(seed)
    # One rollout is one episode of every simulation, halved into two minibatches.
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=25 * num_envs, gamma=0.95, seed=seed, device="cpu")
    return model.learn(timesteps)


def success_rate(model: PPO, tasks: int) -> float:
    """The share of the published test tasks in which the mean action has reached the goal when the episode ends."""
    env = SB3VecEnv("reach", num_envs=tasks, split="test", goal_visible=True)
    environment: Environment = env.environment
    env.episodes.fix(environment.distribution.published("test", tasks))
    env.seed(0)
    observation = env.reset()
    infos = []
    for _ in range(environment.horizon):
        action, _ = model.predict(observation, deterministic=True)
        env.step_async(action)
        observation, _, _, infos = env.step_wait()
    return float(np.mean([info["is_success"] for info in infos]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the success before and after."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sb3_reach", description="PPO on reach.")
    parser.add_argument("--timesteps", type=int, default=500_000, help="environment steps (default: %(default)s)")
    parser.add_argument("--num-envs", type=int, default=64, help="simulations (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=100, help="held-out test tasks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = train(options.timesteps, options.num_envs, options.seed)
    rate = success_rate(model, options.tasks)
    print(f"success {rate:.3f} on {options.tasks} held-out test tasks after {model.num_timesteps} steps")


if __name__ == "__main__":
    main()
