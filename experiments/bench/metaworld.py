"""Control steps per second of Meta-World: against its package in processes, and against the bare engine.

The package needs a MuJoCo of its own, so it is installed in an environment of its own under runs/metaworld_parity, and
stands behind a pipe.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch

from envs.core.environment import Environment, MujocoEnvironment
from envs.metaworld.benchmarks import metaworld
from envs.metaworld.mixed import MixedTasks
from envs.metaworld.package import VERSION
from experiments.bench.environment import engine_row
from experiments.bench.measure import MissingPeer, Row, Target, interleave, speedup
from experiments.metaworld_parity import package_python

SIMULATIONS = 500  # of ML10 50 of each task: its training variations
STEPS = 20
CORES = os.cpu_count() or 1
PROCESSES = {"ML1": (CORES, 2 * CORES, 20), "ML10": (10, 20)}  # one environment in each
PEER = Path(__file__).with_name("metaworld_peer.py")
FOLDER = Path("runs/metaworld_parity")


def against_package(quick: bool) -> list[Row]:
    """Against Gymnasium's AsyncVectorEnv of the package's environments, with the number that serves it best."""
    _installed()
    torch.set_num_threads(1)
    rows = []
    for benchmark, target in (("ML1", Target(">=", 6.0)), ("ML10", Target(">=", 5.0))):
        env = _environment(benchmark)
        counts = PROCESSES[benchmark][: 1 if quick else None]
        rows.append(min((_against(env, benchmark, count, target, quick) for count in counts), key=lambda r: r.value))
    return rows


def against_engine(quick: bool) -> list[Row]:
    """All of `Environment.step` against the engine alone on the same models."""
    _installed()
    torch.set_num_threads(1)
    rows = []
    for benchmark in ("ML1", "ML10"):
        env = _environment(benchmark)
        parts = lambda env=env: _parts(env)  # noqa: E731
        rows.append(engine_row("metaworld", _named(benchmark), env, parts, Target(">=", 0.8), quick))
    return rows


MEASUREMENTS = (against_package, against_engine)


def _installed() -> None:
    if importlib.util.find_spec("metaworld") is None:
        raise MissingPeer(f"metaworld: pip install --no-deps metaworld=={VERSION}")


def _named(benchmark: str) -> str:
    return "ML1 reach" if benchmark == "ML1" else benchmark


def _environment(benchmark: str) -> Environment:
    env = metaworld(SIMULATIONS, benchmark=benchmark)
    env.set_tasks(env.distribution.sample(SIMULATIONS))
    env.reset()
    return env


def _parts(env: Environment) -> list[MujocoEnvironment]:
    if isinstance(env, MixedTasks):
        return [member.env for member in env.members]
    assert isinstance(env, MujocoEnvironment)
    return [env]


def _against(env: Environment, benchmark: str, count: int, target: Target, quick: bool) -> Row:
    actions = torch.rand(STEPS, SIMULATIONS, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    steps = max(10, 200 // count)  # so that both run for a comparable time

    def ours() -> None:
        for action in actions:
            env.step(action)

    told: list[float] = []
    with _package(benchmark, count) as (asked, answers):

        def theirs() -> None:
            asked.write(f"{steps}\n")
            asked.flush()
            if not (answer := answers.readline()):
                raise MissingPeer(f"metaworld: {PEER.name} has ended")
            told.append(float(answer))

        seconds = interleave({"ours": ours, "peer": theirs}, 2 if quick else 9)
    total = SIMULATIONS * STEPS
    scaled = [value * total / (steps * count) for value in told[1:]]  # for as many control steps as ours
    mine, rate = total / np.median(seconds["ours"]), total / np.median(scaled)
    detail = f"{mine:,.0f} against {rate:,.0f} control steps/s, {count} environments on its MuJoCo 3.3.0"
    return speedup("metaworld", f"{_named(benchmark)} / AsyncVectorEnv", seconds["ours"], scaled, target, detail)


@contextmanager
def _package(benchmark: str, count: int) -> Iterator[tuple[IO[str], IO[str]]]:
    """What the peer is asked, and its answers."""
    line = [package_python(FOLDER), "-P", PEER, benchmark, "reach", str(count)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise MissingPeer(f"metaworld: {PEER.name} does not start")
        yield process.stdin, process.stdout
    finally:
        process.stdin.close()
        process.wait()
