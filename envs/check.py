"""Whether an environment keeps its promises, found out before a training does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from envs.core.environment import Environment, Step
from envs.core.tasks import SPLITS, Tasks
from envs.errors import EnvsError
from envs.registry import make

COUNT = 8  # simulations, each with a task of its own
SEED = 1
SECONDS = 1.0  # for which the speed is measured


class Finding(NamedTuple):
    """What one check found, in a line."""

    check: str
    verdict: Literal["ok", "look", "fail"]  # look: it may be meant
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.check}: {self.text}"


class Played(NamedTuple):
    """An episode of all simulations; H steps."""

    observation: Tensor  # (H + 1, N, D)
    told: Tensor  # (H, N, 2): reward and success
    failures: int


def check_env(name: str, **options: object) -> list[Finding]:
    """Try an environment with random actions, print a line for each finding, and return them.

    Tried are the contract (types, shapes, sizes), whether what a step returned stays as it was, whether every entry of
    the observation lives, whether the seed decides everything, whether every task parameter changes anything, which
    splits can be drawn, and the speed. After a failure of the contract nothing else can be tried.

    Args:
        name: as for `env=` on the command line, such as `my_robots.cart:Cart` or `reach`.
        options: what stands after `env.`, such as `horizon=60`, and `threads`.
    """
    findings = []
    for finding in _findings(name, options):
        print(finding, flush=True)
        findings.append(finding)
    return findings


def _findings(name: str, options: dict[str, object]) -> Iterator[Finding]:
    try:
        env = make(name, COUNT, seed=SEED, **options)
        tasks = env.distribution.published("train", COUNT)
        played, kept = _play(env, tasks), _reused(env)
        sizes = f"D = {env.observation_size}, A = {env.action_size}, {env.horizon} steps of {env.step_period:g} s"
        yield Finding("contract", "ok", sizes)
        yield kept
        yield _failures(env, played)
        yield _sensors(played)
        yield _determinism(partial(make, name, COUNT, seed=SEED, **options), tasks, played)
        yield from _parameters(env, tasks)
        yield from map(partial(_split, env), SPLITS)
        yield _speed(env)
    except EnvsError as error:
        yield Finding("contract", "fail", str(error))


def _actions(env: Environment) -> Iterator[Tensor]:
    """An episode's random actions (N, A), always the same ones."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(env.horizon):
        yield 2.0 * torch.rand(env.num_simulations, env.action_size, generator=generator) - 1.0


def _play(env: Environment, tasks: Tasks) -> Played:
    env.generator.manual_seed(SEED)
    env.set_tasks(tasks)
    env.begin_trial()
    observations, told, failures = [env.reset().clone()], [], 0
    for action in _actions(env):
        step = env.step(action)
        observations.append(step.observation.clone())
        told.append(torch.stack([step.reward, step.success.float()], -1))
        failures += int(step.failed.sum())
    return Played(torch.stack(observations), torch.stack(told), failures)


def _same(one: Played, two: Played) -> bool:
    return torch.equal(one.observation, two.observation) and torch.equal(one.told, two.told)


def _reused(env: Environment) -> Finding:
    """Whether a later step writes into what an earlier one returned."""

    def tensors(step: Step) -> dict[str, Tensor]:
        named = {f"reward term '{name}'": value for name, value in step.terms.items()}
        return named | {name: getattr(step, name) for name in ("observation", "reward", "success", "terminated")}

    env.reset()
    held: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for action in _actions(env):
        step = tensors(env.step(action))
        held.append((step, {name: value.clone() for name, value in step.items()}))
    changed = {name for step, copy in held for name in step if not torch.equal(step[name], copy[name])}
    text = f"a later step overwrites {', '.join(sorted(changed))}: return a clone()"
    return Finding("memory", "fail" if changed else "ok", text if changed else "what a step returned stays as it was")


def _failures(env: Environment, played: Played) -> Finding:
    first = getattr(env, "last_failure", None)
    text = f"{played.failures} failures in an episode of {COUNT} simulations; the last: {first}"
    return Finding(
        "physics", "look" if played.failures else "ok", text if played.failures else "no failure under random actions"
    )


def _sensors(played: Played) -> Finding:
    still = (played.observation == played.observation[0, 0]).all(1).all(0).nonzero()[:, 0].tolist()
    text = f"observation entries {', '.join(map(str, still))} never change"
    return Finding("sensors", "look" if still else "ok", text if still else "every observation entry changes")


def _determinism(again: partial[Environment], tasks: Tasks, played: Played) -> Finding:
    same = _same(_play(again(), tasks), played)
    remedy = "draw from self.noise or self.generator (in a gymnasium.Env, self.np_random)"
    text = "the seed decides everything" if same else f"one seed gave two different episodes: {remedy}"
    return Finding("determinism", "ok" if same else "fail", text)


def _parameters(env: Environment, tasks: Tasks) -> Iterator[Finding]:
    """Whether each task parameter, varied alone, changes an observation, a reward or a success."""
    alike = tasks.select([0] * COUNT)
    before = _play(env, alike)
    for name in env.distribution.parameters:
        if bool((tasks[name] == tasks[name][0]).all()):
            continue  # it is fixed
        varied = replace(alike, values={**alike.values, name: tasks[name]})
        changes = not _same(_play(env, varied), before)
        text = f"'{name}' changes {'what a robot meets' if changes else 'nothing: does apply_tasks write it?'}"
        yield Finding("task", "ok" if changes else "fail", text)


def _split(env: Environment, split: str) -> Finding:
    try:
        env.set_tasks(env.distribution.published(split, COUNT))
    except EnvsError as error:
        return Finding(f"split {split}", "look" if split == "ood" else "fail", " ".join(str(error).split()))
    return Finding(f"split {split}", "ok", "tasks can be drawn")


def _speed(env: Environment) -> Finding:
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        env.reset()
        for action in _actions(env):
            env.step(action)
            steps += env.num_simulations
    speed = steps / (time.perf_counter() - start)
    return Finding("speed", "ok", f"{speed:,.0f} environment steps a second, with {COUNT} simulations")
