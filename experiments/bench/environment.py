"""Control steps per second of `envs` reach against the bare engine and against process pools of plain environments."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from mujoco.batch import Batch
from stable_baselines3.common.vec_env import SubprocVecEnv

from envs.reach import Reach
from experiments.bench.measure import Row, Target, interleave, speedup
from experiments.bench.peers import SUBSTEPS, PlainReach

SIMULATIONS = 256
STEPS = 50
PROCESSES = (2, 8, 64)  # one environment in each


def against_engine(quick: bool) -> list[Row]:
    """All of `Environment.step` against `Batch.step` alone on the same models, states and controls."""
    torch.set_num_threads(1)
    env, actions = _environment()
    env.reset()
    start = {name: env.simulator.field(name).clone() for name in ("qpos", "ctrl", "mocap_pos", "xfrc_applied")}
    controls = np.empty((STEPS, SIMULATIONS, env.action_size))
    batch = _bare_engine(env)
    state = {name: batch.bind(name) for name in (*start, "qvel")}

    def ours() -> None:
        for t in range(STEPS):
            env.step(actions[t])
            controls[t] = env.ctrl

    def engine() -> None:
        for t in range(STEPS):
            state["ctrl"][:] = controls[t]
            batch.step(nstep=SUBSTEPS)

    def rewind() -> None:
        env.simulator.reset(None, start)
        batch.reset()
        for name, value in start.items():
            state[name][:] = value
        batch.forward()

    seconds: dict[str, list[float]] = {"ours": [], "engine": []}
    for _ in range(3 if quick else 15):
        rewind()
        for name, times in interleave({"ours": ours, "engine": engine}, 1, warm_up=False).items():
            seconds[name] += times
    difference = float(np.abs(state["qpos"] - env.qpos.numpy()).max())
    if difference:
        raise AssertionError(f"the two sides simulated different things: qpos differs by {difference}")
    seconds = {name: times[1:] for name, times in seconds.items()}
    steps = SIMULATIONS * STEPS
    detail = f"{_rate(steps, seconds['ours'])} against {_rate(steps, seconds['engine'])} control steps/s"
    return [
        speedup("environment", "reach / bare engine", seconds["ours"], seconds["engine"], Target(">=", 0.85), detail)
    ]


def against_pools(quick: bool) -> list[Row]:
    """Against each vectoriser of single environments, with the number of processes that serves it best."""
    torch.set_num_threads(1)
    # The workers fork from a clean server that has imported what they need, not from this process and its threads.
    multiprocessing.set_forkserver_preload(["experiments.bench.peers", "stable_baselines3.common.vec_env"])
    env, actions = _environment()
    env.reset()

    def ours() -> None:
        for t in range(STEPS):
            env.step(actions[t])

    return [
        min((_against(name, make(count), ours, count, target, quick) for count in counts), key=lambda row: row.value)
        for name, make, counts, target in (
            ("Gymnasium AsyncVectorEnv", _asynchronous, PROCESSES[: 2 if quick else None], Target(">=", 4.0)),
            ("SB3 SubprocVecEnv", _subprocesses, PROCESSES[: 2 if quick else None], Target(">=", 6.0)),
            ("Gymnasium SyncVectorEnv", _synchronous, (8,), None),
        )
    ]


MEASUREMENTS = (against_engine, against_pools)
Pool = gymnasium.vector.VectorEnv | SubprocVecEnv


def _against(name: str, pool: Pool, ours: Callable[[], None], count: int, target: Target | None, quick: bool) -> Row:
    # A pool of few environments makes more steps, so that every contender runs for a comparable time.
    steps = max(10, 1600 // count)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, count, 7)).astype(np.float32)

    def peer() -> None:
        for action in actions:
            pool.step(action)

    try:
        pool.reset()
        seconds = interleave({"ours": ours, "peer": peer}, 2 if quick else 7)
    finally:
        pool.close()
    total = SIMULATIONS * STEPS
    theirs = [value * total / (steps * count) for value in seconds["peer"]]  # for as many control steps as ours
    detail = f"{_rate(total, seconds['ours'])} against {_rate(total, theirs)} control steps/s, {count} environments"
    return speedup("environment", f"reach / {name}", seconds["ours"], theirs, target, detail)


def _environment() -> tuple[Reach, torch.Tensor]:
    env = Reach(SIMULATIONS, seed=0)
    env.set_tasks(env.distribution.sample(SIMULATIONS))
    actions = torch.rand(STEPS, SIMULATIONS, env.action_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return env, actions


def _bare_engine(env: Reach) -> Batch:
    batch = Batch(env.model, SIMULATIONS, os.cpu_count() or 1)
    models = [env.simulator.model_of(index) for index in range(SIMULATIONS)]
    for name in ("body_mass", "body_inertia", "dof_damping"):
        batch.expand(name)[:] = np.stack([getattr(model, name) for model in models])
    batch.set_const()
    return batch


def _asynchronous(count: int) -> Pool:
    return gymnasium.vector.AsyncVectorEnv([PlainReach] * count, context="forkserver")


def _synchronous(count: int) -> Pool:
    return gymnasium.vector.SyncVectorEnv([PlainReach] * count)


def _subprocesses(count: int) -> Pool:
    return SubprocVecEnv([PlainReach] * count, start_method="forkserver")


def _rate(steps: int, seconds: list[float]) -> str:
    return f"{steps / float(np.median(seconds)):,.0f}"
