"""Milliseconds from an observation to an action of one robot, on one thread: `Agent.predict`, and exported."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.bench.measure import MissingPeer, Row, Target, summary
from metarl.agent import Agent, load
from metarl.assembly.kept import Kept
from metarl.assembly.onnx_file import write_onnx
from metarl.errors import ConfigError

POLICIES = ("reach", "navigate_search")  # an episode's memory, and that of a trial, the longest one
Step = Callable[[], object]
# A loop of 1 kHz has room for the rest. What `predict` takes is of a machine: that it halved stands in the log.
TARGETS = {"ONNX": {"99th percentile": Target("<=", 0.25)}}


def latency(quick: bool) -> list[Row]:
    """Median and 99th percentile over whole memories; in each round every contender fills one."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in POLICIES:
        agent = load(name, "cpu")
        contenders = {"predict": _predicting(agent), "predict, adapted": _predicting(_adapted(agent))}
        rows += _rows(name, agent, contenders, quick)
        try:
            rows += _rows(name, agent, {"ONNX": _onnx(agent)}, quick)
        except (ConfigError, ImportError) as error:
            raise MissingPeer(f"latency: {error}", rows) from None
    return rows


MEASUREMENTS = (latency,)


def _rows(name: str, agent: Agent, contenders: dict[str, Callable[[], Step]], quick: bool) -> list[Row]:
    times: dict[str, list[list[float]]] = {each: [] for each in contenders}
    for _ in range(3 if quick else 15):
        for each, begin in contenders.items():
            times[each].append(_timed(begin(), agent.run.policy.max_length))
    rows = []
    for each, rounds in times.items():
        for words, share in (("median", 50), ("99th percentile", 99)):
            values = [float(np.percentile(some, share)) for some in rounds]
            rows.append(summary("latency", f"{each}, {words}, {name}", values, "ms", TARGETS.get(each, {}).get(words)))
    return rows


def _timed(step: Step, count: int) -> list[float]:
    """Milliseconds of each step but the first, which makes the memory."""
    step()
    times = []
    for _ in range(count - 1):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _predicting(agent: Agent) -> Callable[[], Step]:
    observation = _observation(agent)

    def begin() -> Step:
        robot = agent.controller()
        return lambda: robot.act(observation, 0.0)

    return begin


def _onnx(agent: Agent) -> Callable[[], Step]:
    from experiments.deploy.run_onnx import Robot

    with tempfile.TemporaryDirectory() as folder:
        path = write_onnx(agent.run, Kept(), Path(folder) / "policy.onnx")
        robot = Robot(str(path))
    observation = _observation(agent)

    def begin() -> Step:
        robot.forget()
        robot.reset()
        return lambda: robot.act(observation, 0.0)

    return begin


def _observation(agent: Agent) -> np.ndarray:
    return np.random.default_rng(0).normal(size=agent.run.policy.observation_size).astype(np.float32)


def _adapted(agent: Agent) -> Agent:
    """Every parameter that can adapt is the robot's own."""
    policy = agent.run.policy
    names = policy.parameter_names("all")
    return replace(agent, adapted={n: p.detach()[None].clone() for n, p in policy.named_parameters() if n in names})
