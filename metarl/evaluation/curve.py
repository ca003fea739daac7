"""The adaptation curve: how well a policy does on held-out tasks after each adaptation step, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment
from envs.core.tasks import Tasks
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.learner import Learner
from metarl.algorithms.rounds import finite_step, inner_loop
from metarl.evaluation.statistics import mean_interval
from metarl.rollouts.episodes import Batch, Episodes
from metarl.rollouts.rollout import collect

MEASURES = {
    "success": "success_at_end",
    "success_any_step": "success_any_step",
    "return": "returns",
    "time_to_success": "steps_to_success",
}
COLUMNS = {
    "success": ("success at end", ".3f"),
    "success_any_step": ("success at any step", ".3f"),
    "return": ("return", ".2f"),
    "time_to_success": ("time to success (s)", ".2f"),
}
RATES = ("success", "success_any_step")


def adaptation_rounds(
    env: Environment,
    policy: Policy,
    learner: Learner,
    tasks: Tasks,
    steps: int,
    generator: torch.Generator,
    deterministic: bool = False,
    trial_episodes: int | None = None,
    adapted: Parameters | None = None,
    measured: bool = True,
) -> tuple[list[Episodes], list[Parameters | None]]:
    """Episodes before adaptation and after each of `steps` inner steps, and the parameters that acted in them.

    The episodes of one round are the data of the next inner step, unless `deterministic`: then rounds measure the mean
    action, and each inner step has exploring episodes of its own. Policy and learner do not change.

    Args:
        trial_episodes: of a trial; more than the policy remembers if it takes no inner step. None: as in training.
        adapted: parameters (1, ...) with which each task begins; None: the policy's own.
        measured: False leaves out the last round, from which nothing is learned.

    Raises:
        NotFiniteError: if an inner step is not finite; names the task. Its episodes would all fail, and a failed
            episode can have a better return than one that was played.
    """
    env.set_tasks(tasks)
    names = [f"task {index} {tasks.describe(index)}" for index in range(len(tasks))]
    play = partial(
        collect, env, policy, generator=generator, trial_episodes=trial_episodes or learner.settings.trial_episodes
    )
    rounds: list[Episodes] = []
    acting: list[Parameters | None] = []

    def experience(adapted: Parameters | None) -> Batch:
        if not deterministic:
            return learner.prepare(rounds[-1])
        explored, measured = play(adapted), rounds[-1]
        failures = measured.failures + explored.failures
        rounds[-1] = replace(measured, failures=failures, failure=measured.failure or explored.failure)
        return learner.prepare(explored)

    start = adapted and {name: value.expand(len(tasks), *value.shape[1:]) for name, value in adapted.items()}
    for current in inner_loop(finite_step(learner, names), experience, steps, start):
        acting.append(current)
        if measured or len(acting) <= steps:
            rounds.append(play(current, deterministic=deterministic))
    return rounds, acting


def curve(
    rounds: Sequence[Episodes], step_period: float, chosen: Tensor | slice = slice(None), action_repeat: int = 1
) -> list[dict[str, Any]]:
    """One entry for each adaptation step and, in trials of several episodes, each episode of the trial.

    `step` counts gradient steps, `episode` those of the trial from 1 (in trials alone), `episodes` the episodes of the
    task that the policy had seen before and `env_steps` their environment steps. Each task's mean over its episodes is
    one observation of the interval. `time_to_success` is in seconds; an episode without success counts as its horizon.

    Args:
        step_period: seconds per step.
        chosen: which of the M tasks, (M,) bool; all of them if nothing is said.
        action_repeat: control steps, which are counted, per step.
    """
    entries = []
    for step, episodes in enumerate(rounds):
        sequences, trial = episodes.returns.shape[1:]
        measured = measures(episodes, step_period)
        for position in range(trial):
            seen, horizon = step * sequences * trial + position, episodes.reward.shape[2] // trial
            place = {"step": step, "episode": position + 1} if trial > 1 else {"step": step}
            entry: dict[str, Any] = place | {"episodes": seen, "env_steps": seen * horizon * action_repeat}
            for name, values in measured.items():
                column, rate = values[chosen, position].numpy(), name in RATES
                mean, low, high = mean_interval(column, bounded=rate, episodes=sequences if rate else 1)
                entry[name] = {"mean": mean, "ci95": [low, high]}
            entries.append(entry)
    return entries


def per_task(values: Tensor) -> Tensor:
    """Mean over the episodes of each task: (M, E, R) to (M, R)."""
    return values.double().mean(1)


def measures(episodes: Episodes, step_period: float) -> dict[str, Tensor]:
    """Each measure of the curve, (M, R): the mean over the episodes of each task."""
    values = {name: per_task(getattr(episodes, attribute)) for name, attribute in MEASURES.items()}
    return values | {"time_to_success": values["time_to_success"] * step_period}


def by_moved(rounds: Sequence[Episodes], tasks: Tasks, env: Environment) -> dict[str, dict[str, Any]]:
    """For each parameter that was moved in some task, how many they are and the curve over these.

    A task in which several parameters were moved counts for each of them.
    """
    return {
        name: {"tasks": int(chosen.sum()), "curve": curve(rounds, env.step_period, chosen, env.action_repeat)}
        for name, chosen in env.distribution.moved(tasks).items()
        if chosen.any()
    }


def report(
    rounds: Sequence[Episodes], tasks: Tasks, *, env: Environment, algo: str, split: str, seed: int, deterministic: bool
) -> dict[str, Any]:
    """The content of evaluation/<split>.json: the protocol, the curve, and the curve's values for each task.

    Of split `ood` also the curves over the tasks in which each parameter was moved beyond its training values.
    """
    played = [*rounds, *(rounds[:-1] if deterministic else ())]  # mean actions adapt to exploring episodes of their own
    sequences, trial = rounds[0].returns.shape[1:]
    measured = [measures(episodes, env.step_period) for episodes in rounds]
    flat = {name: torch.cat([values[name] for values in measured], 1) for name in MEASURES}
    return {
        "env": env.name,
        "algo": algo,
        "split": split,
        "tasks": len(tasks),
        "edition": env.distribution.edition,
        "episodes_per_step": sequences,
        "trial_episodes": trial,
        "horizon": env.horizon,
        "actions": "mean" if deterministic else "sampled",
        "seed": seed,
        "deterministic": deterministic,
        "success_criterion": env.success_criterion,
        "confidence_interval": "95%, over tasks; the mean of a task's episodes is one observation",
        "environment_steps": sum(episodes.steps for episodes in played) * env.action_repeat,
        "physics_failures": sum(episodes.failures for episodes in rounds),
        "first_physics_failure": next((episodes.failure for episodes in rounds if episodes.failure), None),
        "curve": curve(rounds, env.step_period, action_repeat=env.action_repeat),
        **({"by_moved": by_moved(rounds, tasks, env)} if split == "ood" else {}),
        "per_task": [
            {"task": tasks.describe(i)} | {name: values[i].tolist() for name, values in flat.items()}
            for i in range(len(tasks))
        ],
    }


def table(entries: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The curve as text cells: step, episode of a trial, episodes seen, and each measure with its 95% interval."""
    places = {"step": "step", "episode": "episode", "episodes": "episodes seen"}
    shown = [name for name in places if name in entries[0]]
    columns = {name: column for name, column in COLUMNS.items() if name in entries[0]}  # an older curve lacks the time
    rows = [(*(places[name] for name in shown), *(title for title, _ in columns.values()))]
    for entry in entries:
        cells = (_cell(entry, name, form) for name, (_, form) in columns.items())
        rows.append((*(str(entry[name]) for name in shown), *cells))
    return rows


def moved_table(parts: Mapping[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """What `by_moved` returned as text cells: the first and the last success and the last return of each parameter."""
    rows = [("parameter", "tasks", "first success", "last success", "last return")]
    for name, part in parts.items():
        first, last = part["curve"][0], part["curve"][-1]
        rows.append(
            (name, str(part["tasks"]), _cell(first, "success"), _cell(last, "success"), _cell(last, "return", ".2f"))
        )
    return rows


def _cell(entry: dict[str, Any], name: str, form: str = ".3f") -> str:
    mean, (low, high) = entry[name]["mean"], entry[name]["ci95"]
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
