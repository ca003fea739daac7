"""The share of a rollout's wall time that is not physics: policy, observation, reward and bookkeeping."""

from __future__ import annotations

import statistics
import time

import torch

from agents.transformer import TransformerPolicy
from envs.core.simulator import Simulator
from envs.families.reach import Reach
from experiments.bench.measure import Row, Target, summary
from metarl.rollouts.acting import Parameters
from metarl.rollouts.rollout import collect

SIMULATIONS = 200
TASKS = 25


def share(quick: bool) -> list[Row]:
    """One policy for all simulations, and parameters of its own for each of 25 tasks."""
    torch.set_num_threads(1)  # as the trainer does
    env = Reach(SIMULATIONS, seed=0)
    torch.manual_seed(0)
    policy = TransformerPolicy(env.observation_size, env.action_size, env.horizon)
    names = policy.parameter_names("all")
    adapted = {n: p.detach().repeat(TASKS, *[1] * p.dim()) for n, p in policy.named_parameters() if n in names}
    rounds = 5 if quick else 21
    return [
        _row(env, policy, None, SIMULATIONS, rounds, f"{SIMULATIONS} tasks, one policy"),
        _row(env, policy, adapted, TASKS, rounds, f"{TASKS} adapted policies x {SIMULATIONS // TASKS}"),
    ]


MEASUREMENTS = (share,)


class _Clock:
    """Seconds inside `Simulator.step` since the last `read`."""

    def __init__(self, simulator: Simulator) -> None:
        self.inside, self.seconds = simulator.step, 0.0
        simulator.step = self.step  # type: ignore[method-assign]

    def step(self, substeps: int) -> torch.Tensor:
        start = time.perf_counter()
        failed = self.inside(substeps)
        self.seconds += time.perf_counter() - start
        return failed

    def read(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def _row(env: Reach, policy: TransformerPolicy, adapted: Parameters | None, tasks: int, rounds: int, words: str) -> Row:
    env.set_tasks(env.distribution.sample(tasks))
    clock = _Clock(env.simulator)
    generator = torch.Generator().manual_seed(0)
    collect(env, policy, adapted, generator=generator)
    clock.read()
    shares, whole, physics = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        collect(env, policy, adapted, generator=generator)
        whole.append(time.perf_counter() - start)
        physics.append(clock.read())
        shares.append(1 - physics[-1] / whole[-1])
    env.simulator.step = clock.inside  # type: ignore[method-assign]
    detail = f"rollout {statistics.median(whole):.3f} s, physics {statistics.median(physics):.3f} s"
    return summary("acting", f"share that is not physics, {words}", shares, "", Target("<=", 0.4), detail)
