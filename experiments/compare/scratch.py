"""Stable-Baselines3's PPO from nothing, on one held-out task at a time: what a few episodes are worth by themselves."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from stable_baselines3 import PPO

from envs.adapters.sb3 import SB3VecEnv
from experiments.summary import told
from metarl.assembly.build import build_environment, stream_seed
from metarl.config.settings import TrainSettings
from metarl.evaluation.curve import RATES
from metarl.evaluation.statistics import mean_interval
from metarl.run_folder import atomic_write

TASKS = 10  # the first of the published list
SIMULATIONS = 10  # of the one task, each of which plays a share of the episodes
FEW = 5  # updates, if each simulation plays only one episode
MINIBATCHES, EPOCHS = 4, 10
INITIAL_STD = 0.5  # that of our policies


def rollout_sizes(horizon: int, episodes: int) -> dict[str, int]:
    """PPO's rollout and minibatch sizes: short rollouts if there are few episodes, else whole episodes."""
    short = episodes <= SIMULATIONS and horizon % FEW == 0
    steps = horizon // FEW if short else horizon
    return {"n_steps": steps, "batch_size": max(steps * SIMULATIONS // MINIBATCHES, 2)}


def task_env(settings: TrainSettings, task: int, seed: int) -> SB3VecEnv:
    """All simulations on one task of the published test list."""
    environment = build_environment(settings.env, SIMULATIONS, seed, settings.threads)
    env = SB3VecEnv(environment, split="test")
    env.episodes.fix(environment.distribution.published("test", task + 1).select(slice(task, task + 1)))
    env.seed(seed)
    return env


def play(model: PPO, env: SB3VecEnv) -> dict[str, float]:
    """One fresh episode in each simulation by the mean action: the shares that succeed, and the mean return."""
    observation = env.reset()
    open_, ever = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool)
    at_end, returns = np.zeros(env.num_envs), np.zeros(env.num_envs)
    while open_.any():
        action, _ = model.predict(np.asarray(observation), deterministic=True)
        env.step_async(action)
        observation, _, done, infos = env.step_wait()
        for i in np.flatnonzero(open_):
            ever[i] |= infos[i]["success"]
            if done[i]:
                at_end[i], returns[i], open_[i] = infos[i]["is_success"], infos[i]["episode"]["r"], False
    return {"success": float(at_end.mean()), "success_any_step": float(ever.mean()), "return": float(returns.mean())}


def learn(settings: TrainSettings, task: int, episodes: int) -> dict[str, Any]:
    """PPO on one task: how it acts before and after `episodes` episodes."""
    seed = stream_seed(settings.seed + 1000 * (task + 1), "environment") % 2**31
    env = task_env(settings, task, seed)
    horizon = env.environment.horizon
    sizes = rollout_sizes(horizon, episodes)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=sizes["n_steps"],
        batch_size=sizes["batch_size"],
        n_epochs=EPOCHS,
        gamma=settings.algo.gamma,
        policy_kwargs={"log_std_init": math.log(INITIAL_STD)},
        seed=seed,
        device="cpu",
    )
    before = play(model, task_env(settings, task, seed + 1))
    start = time.monotonic()
    model.learn(episodes * horizon)
    seconds = time.monotonic() - start
    after = play(model, task_env(settings, task, seed + 1))
    updates = model.num_timesteps // (sizes["n_steps"] * SIMULATIONS) * EPOCHS * MINIBATCHES
    return {
        "task": env.environment.distribution.published("test", task + 1).describe(task),
        "before": before,
        "after": after,
        "env_steps": model.num_timesteps,
        "seconds": seconds,
        "gradient_steps": updates,
    }


def evaluation(settings: TrainSettings, folder: Path, episodes: int, tasks: int, console: Console) -> dict[str, Any]:
    """PPO on the first test tasks, in the form of an evaluation file; results that `folder` has already are loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for task in range(tasks):
        path = folder / f"task-{task}.json"
        if not path.exists():
            result = learn(settings, task, episodes)
            atomic_write(path, json.dumps(result, indent=1).encode())
        results.append(json.loads(path.read_bytes()))
        after = results[-1]["after"]["success"]
        console.print(f"task {task + 1} of {tasks}: success {after:.2f} after {episodes} episodes")
    last = results[-1]
    curve, measures = [], told([result["after"] for result in results])
    for step, seen, when in ((0, 0, "before"), (last["gradient_steps"], episodes, "after")):
        entry: dict[str, Any] = {"step": step, "episodes": seen}
        for name in measures:
            values = [result[when][name] for result in results]
            rate = name in RATES
            mean, low, high = mean_interval(values, bounded=rate, episodes=SIMULATIONS if rate else 1)
            entry[name] = {"mean": mean, "ci95": [low, high]}
        curve.append(entry)
    per_task = [
        {"task": result["task"]} | {name: [result[when][name] for when in ("before", "after")] for name in measures}
        for result in results
    ]
    return {
        "env": settings.env.name,
        "algo": folder.name,
        "split": "test",
        "tasks": tasks,
        "episodes_per_step": episodes,
        "seed": settings.seed,
        "seconds": sum(result["seconds"] for result in results) / len(results),
        "env_steps": last["env_steps"],
        "curve": curve,
        "per_task": per_task,
    }
