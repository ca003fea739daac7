"""Several processes: how much faster two are than one on the same cores, and what hundreds would take, by a model.

The model is of weak scaling: every process has as many tasks as in the run that was timed, so that simulating and
adapting take what they took. What is added is counted below and printed beside its assumptions; nobody has seen it on
so many machines.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass

import torch

from experiments.bench.measure import Row, summary
from experiments.bench.trained import trained
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.training.trainer import Trainer

GROUP = "scaling"
TRAIN = ["env=reach", "algo=maml", "algo.warm_start.iterations=0", "seed=0", "device=cpu", "evaluate.tasks=1"]
TRAIN += ["evaluate.steps=0", "evaluate.episodes_per_step=1", "checkpoint.every=1000"]
QUICK = ["algo.tasks=4", "algo.episodes=2", "env.horizon=10", "agent.width=8"]
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FLOAT = 4  # bytes
DRAWN = 1e8  # normal numbers that one core draws in a second


@dataclass(frozen=True)
class Network:
    """What carries the messages."""

    name: str
    latency: float  # seconds of a message, however short
    bandwidth: float  # bytes per second, into and out of each process


NETWORKS = (Network("10 Gb/s, 50 us", 50e-6, 1.25e9), Network("200 Gb/s, 5 us", 5e-6, 25e9))


@dataclass(frozen=True)
class Iteration:
    """A meta-iteration of one process, alone."""

    seconds: float
    parameters: int  # that an outer gradient is of
    updates: int
    data: int  # bytes that its tasks leave, in all rounds
    numbers: int  # random numbers of its tasks


def reduced(size: float, ranks: int, network: Network) -> float:
    """Seconds to sum `size` bytes over processes in a ring: each sends 2 (n - 1) messages of an n-th."""
    return 2 * (ranks - 1) * (network.latency + size / ranks / network.bandwidth)


def gathered(size: float, ranks: int, network: Network) -> float:
    """Seconds to give `size` bytes of each process to all in a ring."""
    return (ranks - 1) * (network.latency + size / network.bandwidth)


def modelled(one: Iteration, ranks: int, network: Network) -> tuple[float, float]:
    """Seconds of an iteration of so many processes with as many tasks each, and the bytes that each sends."""
    gradient = FLOAT * one.parameters
    talk = one.updates * reduced(gradient, ranks, network) + gathered(one.data, ranks, network)
    sent = 2 * (ranks - 1) / ranks * gradient * one.updates + (ranks - 1) * one.data
    return one.seconds + talk + (ranks - 1) * one.numbers / DRAWN, sent


def two_processes(quick: bool) -> list[Row]:
    """A process of two threads against two processes of one, and the model."""
    small = QUICK if quick else []
    rounds, iterations = (1, 2) if quick else (3, 6)
    threads = [["threads=2", "algo.inner.workers=2"], ["threads=1", "algo.inner.workers=1"]]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):  # in turns: whatever else the machine does affects both
        for launch, own, found in zip(([], LAUNCH), threads, times, strict=True):
            run = trained([*TRAIN, *small, *own, f"budget.iterations={iterations}"], launch)
            found.append(run.rollout + run.update)
    ratios = [one / two for one, two in zip(*times, strict=True)]
    each = ", ".join(f"{statistics.median(found):.2f} s" for found in times)
    rows = [
        summary(
            GROUP, "2 processes x 1 thread over 1 x 2", ratios, "x", None, f"an iteration takes 1 x 2 and 2 x 1: {each}"
        )
    ]
    one = _iteration(compose([*TRAIN, *small]), statistics.median(times[0]))
    for network in NETWORKS:
        for ranks in (8, 64, 512):
            seconds, sent = modelled(one, ranks, network)
            told = f"model: {seconds:.2f} s where one process takes {one.seconds:.2f}, each sends {sent / 1e6:,.1f} MB"
            rows.append(
                summary(GROUP, f"{ranks} processes, {network.name}", [one.seconds / seconds], "share", None, told)
            )
    assumed = (
        f"every process has the tasks of the run timed here ({one.seconds:.2f} s)",
        f"messages go in rings: {one.updates} gradients of {one.parameters:,} numbers",
        f"and the data of each process' tasks, {one.data / 1e6:.1f} MB",
        f"each process draws the random numbers of all tasks, {DRAWN:.0e} in a second",
        "no process waits for a slower one",
    )
    print("the model assumes:", *assumed, sep="\n  ", file=sys.stderr)
    return rows


def _iteration(settings: TrainSettings, seconds: float) -> Iteration:
    trainer = Trainer(settings, torch.device("cpu"))
    algo, learner = settings.algo, trainer.learner
    steps = algo.tasks * algo.episodes * algo.trial_episodes * trainer.environments[algo.tasks * algo.episodes].horizon
    steps *= learner.rounds
    kept = trainer.policy.layout.size + trainer.policy.action_size + 5  # as `Batch` has them
    moved = sum(value.numel() for value in (*learner.parameters.values(), *learner.rate_parameters.values()))
    updates = algo.outer.n_epochs * min(algo.outer.minibatches, algo.tasks)
    return Iteration(seconds, moved, updates, FLOAT * steps * kept, math.ceil(steps * trainer.policy.action_size))


MEASUREMENTS = (two_processes,)
