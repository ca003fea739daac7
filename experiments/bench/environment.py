"""Control steps per second: every family against the bare engine, reach against process pools of plain environments."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import gymnasium
import numpy as np
import torch
from mujoco.batch import MODEL_FIELDS, Batch
from stable_baselines3.common.vec_env import SubprocVecEnv

from envs import registry
from envs.core.engine_cpu import CpuSimulator
from envs.core.environment import Environment, MujocoEnvironment
from envs.core.simulator import Simulator
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
    goal = Target(">=", 0.85)
    return [
        engine_row("environment", env.name, env, lambda env=env: [env], goal, quick)
        for env in families
        if isinstance(env, MujocoEnvironment)
    ]


def engine_row(
    group: str,
    name: str,
    env: Environment,
    parts: Callable[[], Sequence[MujocoEnvironment]],
    target: Target,
    quick: bool,
) -> Row:
    """`Environment.step` against the engine alone.

    Args:
        group, name: of the row.
        parts: what simulates for `env`, once it has its tasks.
    """
    env.set_tasks(env.distribution.sample(env.num_simulations))
    batches = [_bare_engine(part) for part in parts()]
    actions = _actions(env)
    generator = env.generator.get_state()
    calls = _recorded(env, parts(), actions)
    states = [{name: batch.bind(name) for name in INPUTS} for batch in batches]

    def rewind() -> None:
        env.generator.set_state(generator)
        env.reset()
        for batch, part in zip(batches, parts(), strict=True):
            batch.reset()
            batch.state[:] = _engine(part).state
            batch.forward()

    def ours() -> None:
        for action in actions:
            env.step(action)

    def engine() -> None:
        for part, substeps, inputs in calls:
            for name, value in inputs.items():
                states[part][name][:] = value
            batches[part].step(nstep=substeps)

    seconds: dict[str, list[float]] = {"ours": [], "engine": []}
    for _ in range(3 if quick else 15):
        rewind()
        for side, times in interleave({"ours": ours, "engine": engine}, 1, warm_up=False).items():
            seconds[side] += times
        for batch, part in zip(batches, parts(), strict=True):
            difference = float(np.abs(batch.bind("qpos") - part.simulator.field("qpos").numpy()).max())
            if difference:
                raise AssertionError(f"{name}: the two sides simulated different things: qpos differs by {difference}")
    seconds = {side: times[1:] for side, times in seconds.items()}
    steps = env.num_simulations * STEPS
    detail = f"{_rate(steps, seconds['ours'])} against {_rate(steps, seconds['engine'])} control steps/s"
    return speedup(group, f"{name} / bare engine", seconds["ours"], seconds["engine"], target, detail)


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


def _actions(env: Environment) -> torch.Tensor:
    shape = (STEPS, env.num_simulations, env.action_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


Call = tuple[int, int, dict[str, np.ndarray]]  # which part; its physics steps; its inputs that changed


def _recorded(env: Environment, parts: Sequence[MujocoEnvironment], actions: torch.Tensor) -> list[Call]:
    """What an episode of these actions asks of the engines."""
    calls: list[Call] = []
    env.reset()
    with ExitStack() as stack:
        for number, part in enumerate(parts):
            note = lambda substeps, inputs, number=number: calls.append((number, substeps, inputs))  # noqa: E731
            stack.enter_context(_recording(part.simulator, note))
        for action in actions:
            if env.step(action).failed.any():
                raise AssertionError(env.last_failure)
    return calls


@contextmanager
def _recording(simulator: Simulator, note: Callable[[int, dict[str, np.ndarray]], None]) -> Iterator[None]:
    """Tells each call's physics steps, and the inputs that have changed since the last one."""
    step = simulator.step
    last = {name: simulator.field(name).numpy().copy() for name in INPUTS}

    def record(substeps: int) -> torch.Tensor:
        inputs = {name: simulator.field(name).numpy() for name in INPUTS}
        note(substeps, {name: new.copy() for name, new in inputs.items() if not np.array_equal(new, last[name])})
        last.update({name: new.copy() for name, new in inputs.items()})
        return step(substeps)

    simulator.step = record  # type: ignore[method-assign]
    try:
        yield
    finally:
        simulator.step = step  # type: ignore[method-assign]


def _engine(env: MujocoEnvironment) -> Batch:
    assert isinstance(env.simulator, CpuSimulator)
    return env.simulator.batch


def _bare_engine(env: MujocoEnvironment) -> Batch:
    """An engine of our own whose simulations have the same models."""
    count = env.num_simulations
    theirs, batch = _engine(env), Batch(env.model, count, os.cpu_count() or 1)
    if theirs.models is not None:
        batch.set_models([env.simulator.model_of(index) for index in range(count)])
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
