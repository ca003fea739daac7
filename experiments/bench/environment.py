"""Control steps per second: every family against the bare engine, reach against process pools of plain environments."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from mujoco.batch import MODEL_FIELDS, Batch
from stable_baselines3.common.vec_env import SubprocVecEnv

from envs import registry
from envs.core.engine_cpu import CpuSimulator
from envs.core.environment import MujocoEnvironment
from envs.families.reach import Reach
from experiments.bench.measure import Row, Target, interleave, speedup
from experiments.bench.peers import PlainReach

SIMULATIONS = 256
STEPS = 50
# What an environment may write between two calls of the engine.
INPUTS = ("ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat", "eq_active")
PROCESSES = (2, 8, 64)  # one environment in each


def against_engine(quick: bool) -> list[Row]:
    """All of `Environment.step` against `Batch.step` alone on the same models, states and inputs, for every family."""
    torch.set_num_threads(1)
    families = (registry.make(name, SIMULATIONS, seed=0) for name in registry.names())
    return [_against_engine(env, quick) for env in families if isinstance(env, MujocoEnvironment)]


def _against_engine(env: MujocoEnvironment, quick: bool) -> Row:
    env.set_tasks(env.distribution.sample(SIMULATIONS))
    actions = _actions(env)
    generator = env.generator.get_state()
    calls = _recorded(env, actions)
    batch = _bare_engine(env)
    state = {name: batch.bind(name) for name in INPUTS}

    def rewind() -> None:
        env.generator.set_state(generator)
        env.reset()
        batch.reset()
        batch.state[:] = _engine(env).state
        batch.forward()

    def ours() -> None:
        for action in actions:
            env.step(action)

    def engine() -> None:
        for substeps, inputs in calls:
            for name, value in inputs.items():
                state[name][:] = value
            batch.step(nstep=substeps)

    seconds: dict[str, list[float]] = {"ours": [], "engine": []}
    for _ in range(3 if quick else 15):
        rewind()
        for name, times in interleave({"ours": ours, "engine": engine}, 1, warm_up=False).items():
            seconds[name] += times
        difference = float(np.abs(batch.bind("qpos") - env.simulator.field("qpos").numpy()).max())
        if difference:
            raise AssertionError(f"{env.name}: the two sides simulated different things: qpos differs by {difference}")
    seconds = {name: times[1:] for name, times in seconds.items()}
    steps = SIMULATIONS * STEPS
    detail = f"{_rate(steps, seconds['ours'])} against {_rate(steps, seconds['engine'])} control steps/s"
    name = f"{env.name} / bare engine"
    return speedup("environment", name, seconds["ours"], seconds["engine"], Target(">=", 0.85), detail)


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
    return env, _actions(env)


def _actions(env: MujocoEnvironment) -> torch.Tensor:
    shape = (STEPS, env.num_simulations, env.action_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _recorded(env: MujocoEnvironment, actions: torch.Tensor) -> list[tuple[int, dict[str, np.ndarray]]]:
    """What an episode of these actions asks of the engine: each call's physics steps, and the inputs that changed."""
    calls: list[tuple[int, dict[str, np.ndarray]]] = []
    step, simulator = env.simulator.step, env.simulator

    def record(substeps: int) -> torch.Tensor:
        inputs = {name: simulator.field(name).numpy() for name in INPUTS}
        calls.append(
            (substeps, {name: new.copy() for name, new in inputs.items() if not np.array_equal(new, last[name])})
        )
        last.update({name: new.copy() for name, new in inputs.items()})
        return step(substeps)

    env.reset()
    last = {name: simulator.field(name).numpy().copy() for name in INPUTS}
    simulator.step = record  # type: ignore[method-assign]
    try:
        for action in actions:
            if env.step(action).failed.any():
                raise AssertionError(env.last_failure)
    finally:
        simulator.step = step  # type: ignore[method-assign]
    return calls


def _engine(env: MujocoEnvironment) -> Batch:
    assert isinstance(env.simulator, CpuSimulator)
    return env.simulator.batch


def _bare_engine(env: MujocoEnvironment) -> Batch:
    """An engine of our own whose simulations have the same models."""
    theirs, batch = _engine(env), Batch(env.model, SIMULATIONS, os.cpu_count() or 1)
    if theirs.models is not None:
        batch.set_models([env.simulator.model_of(index) for index in range(SIMULATIONS)])
        return batch
    for name in MODEL_FIELDS:
        values = theirs.expanded(name)
        if values is not None:
            batch.expand(name)[:] = values
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
