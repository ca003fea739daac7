"""Stable-Baselines3's PPO from nothing, on one held-out task at a time: what a few episodes are worth by themselves.

Observations and rewards are normalised, and the learning rate and the passes are chosen on validation tasks, for each
number of episodes anew.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from envs.adapters.sb3 import SB3VecEnv
from experiments.summary import measures
from metarl.assembly.build import build_environment, stream_seed
from metarl.config.settings import TrainSettings
from metarl.evaluation.curve import RATES
from metarl.evaluation.statistics import mean_interval
from metarl.run_folder import atomic_write

TASKS = 10  # the first of the published list
SIMULATIONS = 10  # of the one task, each of which plays a share of the episodes
FEW = 5  # updates, if each simulation plays only one episode
MINIBATCHES = 4
TUNING_TASKS = 2  # of the validation list, on which its settings are chosen
GRID: tuple[dict[str, float], ...] = (
    {"learning_rate": 1e-3, "n_epochs": 10},
    {"learning_rate": 3e-4, "n_epochs": 10},
    {"learning_rate": 3e-3, "n_epochs": 10},
    {"learning_rate": 1e-3, "n_epochs": 30},
)
INITIAL_STD = 0.5  # that of our policies


def rollout_sizes(horizon: int, episodes: int) -> dict[str, int]:
    """PPO's rollout and minibatch sizes: short rollouts if there are few episodes, else whole episodes."""
    short = episodes <= SIMULATIONS and horizon % FEW == 0
    steps = horizon // FEW if short else horizon
    return {"n_steps": steps, "batch_size": max(steps * SIMULATIONS // MINIBATCHES, 2)}


def task_env(settings: TrainSettings, split: str, task: int, seed: int) -> SB3VecEnv:
    """All simulations on one task of a published list."""
    environment = build_environment(settings.env, SIMULATIONS, seed, settings.threads)
    env = SB3VecEnv(environment, split=split)
    env.episodes.fix(environment.distribution.published(split, task + 1).select(slice(task, task + 1)))
    env.seed(seed)
    return env


def play(model: PPO, env: SB3VecEnv, normalised: VecNormalize) -> dict[str, float]:
    """One fresh episode in each simulation by the mean action: the shares that succeed, and the mean return.

    Args:
        normalised: how the model sees observations.
    """
    observation = env.reset()
    open_, ever = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool)
    at_end, returns = np.zeros(env.num_envs), np.zeros(env.num_envs)
    while open_.any():
        action, _ = model.predict(normalised.normalize_obs(np.array(observation)), deterministic=True)
        env.step_async(action)
        observation, _, done, infos = env.step_wait()
        for i in np.flatnonzero(open_):
            ever[i] |= infos[i]["success"]
            if done[i]:
                at_end[i], returns[i], open_[i] = infos[i]["is_success"], infos[i]["episode"]["r"], False
    return {"success": float(at_end.mean()), "success_any_step": float(ever.mean()), "return": float(returns.mean())}


def learn(
    settings: TrainSettings, task: int, episodes: int, tuned: Mapping[str, float] = GRID[0], split: str = "test"
) -> dict[str, Any]:
    """PPO on one task: how it acts before and after `episodes` episodes.

    Args:
        tuned: the learning rate and the passes over each rollout.
    """
    seed = stream_seed(settings.seed + 1000 * (task + 1), "environment") % 2**31
    env = task_env(settings, split, task, seed)
    normalised = VecNormalize(env, gamma=settings.algo.gamma)
    horizon = env.environment.horizon
    sizes = rollout_sizes(horizon, episodes)
    model = PPO(
        "MlpPolicy",
        normalised,
        n_steps=sizes["n_steps"],
        batch_size=sizes["batch_size"],
        n_epochs=int(tuned["n_epochs"]),
        learning_rate=tuned["learning_rate"],
        gamma=settings.algo.gamma,
        policy_kwargs={"log_std_init": math.log(INITIAL_STD)},
        seed=seed,
        device="cpu",
    )
    before = play(model, task_env(settings, split, task, seed + 1), normalised)
    start = time.monotonic()
    model.learn(episodes * horizon)
    seconds = time.monotonic() - start
    after = play(model, task_env(settings, split, task, seed + 1), normalised)
    updates = model.num_timesteps // (sizes["n_steps"] * SIMULATIONS) * model.n_epochs * MINIBATCHES
    return {
        "task": env.environment.distribution.published(split, task + 1).describe(task),
        "before": before,
        "after": after,
        "env_steps": model.num_timesteps,
        "seconds": seconds,
        "gradient_steps": updates,
    }


def tune(settings: TrainSettings, folder: Path, episodes: int, tasks: int, console: Console) -> dict[str, float]:
    """What of GRID gives the greatest return on the first validation tasks; recorded in `folder`, and chosen once."""
    path = folder / "tuning.json"
    if path.exists() and (known := json.loads(path.read_bytes()))["tasks"] == tasks:
        return known["chosen"]
    console.print(f"choosing PPO's settings for {episodes} episodes on {tasks} validation tasks")
    tried = []
    for choice in GRID:
        ends = [learn(settings, task, episodes, choice, "validation")["after"] for task in range(tasks)]
        means = {name: sum(end[name] for end in ends) / tasks for name in ("success", "return")}
        tried.append({"settings": choice} | means)
    chosen = max(tried, key=lambda entry: entry["return"])["settings"]
    content = {"split": "validation", "tasks": tasks, "episodes": episodes, "chosen": chosen, "tried": tried}
    atomic_write(path, json.dumps(content, indent=1).encode())
    return chosen


def evaluation(settings: TrainSettings, folder: Path, episodes: int, tasks: int, console: Console) -> dict[str, Any]:
    """PPO on the first test tasks, in the form of an evaluation file; results that `folder` has already are loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    tuned = tune(settings, folder, episodes, min(TUNING_TASKS, tasks), console)
    results = []
    for task in range(tasks):
        path = folder / f"task-{task}.json"
        if not path.exists():
            result = learn(settings, task, episodes, tuned)
            atomic_write(path, json.dumps(result, indent=1).encode())
        results.append(json.loads(path.read_bytes()))
        after = results[-1]["after"]["success"]
        console.print(f"task {task + 1} of {tasks}: success {after:.2f} after {episodes} episodes")
    last = results[-1]
    curve, names = [], measures(last["after"])
    for step, seen, when in ((0, 0, "before"), (last["gradient_steps"], episodes, "after")):
        entry: dict[str, Any] = {"step": step, "episodes": seen}
        for name in names:
            values = [result[when][name] for result in results]
            rate = name in RATES
            mean, low, high = mean_interval(values, bounded=rate, episodes=SIMULATIONS if rate else 1)
            entry[name] = {"mean": mean, "ci95": [low, high]}
        curve.append(entry)
    per_task = [
        {"task": result["task"]} | {name: [result[when][name] for when in ("before", "after")] for name in names}
        for result in results
    ]
    return {
        "env": settings.env.name,
        "algo": folder.name,
        "split": "test",
        "tasks": tasks,
        "episodes_per_step": episodes,
        "seed": settings.seed,
        "tuned": tuned,
        "seconds": sum(result["seconds"] for result in results) / len(results),
        "env_steps": last["env_steps"],
        "curve": curve,
        "per_task": per_task,
    }
