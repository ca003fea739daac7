"""Episodes that follow one another, for the adapters: when they end, and which task the next one has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from envs.core.environment import Environment, Step
from envs.core.tasks import SPLITS, Categories, Parameter, Range, TaskDistribution, Tasks, span
from envs.errors import TaskError


class Episodic:
    """An environment whose N simulations each have a task of their own and start their episodes one by one.

    Args:
        split: where tasks are drawn from, until `fix` gives fixed ones.
        keep: each simulation keeps the task that it draws until it is seeded; else every episode draws a new one.

    Raises:
        TaskError: if the split is unknown.
    """

    def __init__(self, environment: Environment, split: str = "train", keep: bool = False) -> None:
        if split not in SPLITS:
            raise TaskError(f"unknown split '{split}' (valid: {', '.join(SPLITS)})")
        self.environment = environment
        self.split = split
        self.elapsed = torch.zeros(environment.num_simulations, dtype=torch.int64)
        self.fixed: Tasks | None = None
        self.keep = keep
        self._drawn = torch.zeros(environment.num_simulations, dtype=torch.bool)  # (N,) since the last seed

    def seed(self, seed: int) -> None:
        """Seed the tasks and the initial states, each by a stream of its own; what a trial remembers is forgotten."""
        tasks, states = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self.environment.distribution.generator.manual_seed(int(tasks >> np.uint64(1)))
        self.environment.generator.manual_seed(int(states >> np.uint64(1)))
        self._drawn[:] = False
        self.environment.begin_trial()

    def fix(self, tasks: Sequence[Mapping[str, object]] | Tasks | None) -> None:
        """Keep M tasks (N a multiple of M) from each simulation's next start on; None: draw new ones in every episode.

        Raises:
            TaskError: if N is not a multiple of M, or a task does not fit the environment.
        """
        if tasks is None:
            self.fixed, self.keep = None, False
            return
        given = tasks if isinstance(tasks, Tasks) else as_tasks(self.environment.distribution, tasks)
        total = self.environment.num_simulations
        if len(given) == 0 or total % len(given):
            raise TaskError(f"{len(given)} tasks do not divide {total} simulations evenly")
        repeats = total // len(given)
        self.fixed = Tasks({name: value.repeat_interleave(repeats, 0) for name, value in given.values.items()})

    def start(self, mask: Tensor | None = None) -> Tensor:
        """Begin new episodes in the masked simulations (N,) (None: in all); returns the observation (N, D)."""
        environment = self.environment
        # The first start ignores the mask: every simulation needs a task.
        if mask is None or environment.tasks is None:
            mask = torch.ones(environment.num_simulations, dtype=torch.bool)
        self._assign(mask & ~self._drawn if self.keep and self.fixed is None else mask)
        self.elapsed[mask] = 0
        return environment.reset(None if mask.all() else mask)

    def step(self, action: Tensor) -> tuple[Step, Tensor]:
        """One control step with action (N, A); returns it, and (N,) bool: the horizon has cut the episode off.

        Raises:
            TaskError: if the action has another shape.
        """
        wanted = (self.environment.num_simulations, self.environment.action_size)
        if action.shape != wanted:
            raise TaskError(f"{self.environment.name}: an action of shape {tuple(action.shape)}, expected {wanted}")
        step = self.environment.step(action)
        self.elapsed += 1
        return step, (self.elapsed >= self.environment.horizon) & ~step.terminated

    def _assign(self, rows: Tensor) -> None:
        """Give the simulations in rows (N,) their next task."""
        count, environment = int(rows.sum()), self.environment
        if count == 0:
            return
        sample = environment.distribution.sample
        fresh = sample(count, self.split) if self.fixed is None else self.fixed.select(rows)
        self._drawn |= rows
        if environment.tasks is None:
            environment.set_tasks(fresh)
        elif any(not torch.equal(value, environment.assigned[name][rows]) for name, value in fresh.values.items()):
            merged = {name: value.clone() for name, value in environment.assigned.items()}
            for name, value in fresh.values.items():
                merged[name][rows] = value
            environment.set_tasks(Tasks(merged))


def as_tasks(distribution: TaskDistribution, tasks: Sequence[Mapping[str, object]]) -> Tasks:
    """Tasks from dictionaries: parameter name to a number, a list or array of numbers, or a category's name.

    Raises:
        TaskError: for a missing or unknown parameter, a wrong length, a value that is not finite or not possible at all
            (`Range.within`), an unknown category.
    """
    wanted = distribution.parameters
    for task in tasks:
        if not isinstance(task, Mapping):
            raise TaskError(f"a task is a dictionary of its parameters, got {task!r}")
        wrong = sorted(set(wanted) ^ set(task))
        if wrong:
            raise TaskError(
                f"a task needs exactly the parameters {', '.join(wanted)}; missing or unknown: {', '.join(wrong)}"
            )
    if not tasks:
        raise TaskError("no task given")
    rows = {name: [_as_row(name, parameter, task[name]) for task in tasks] for name, parameter in wanted.items()}
    return Tasks({name: torch.from_numpy(np.stack(values)) for name, values in rows.items()})


def as_dictionary(tasks: Tasks, index: int) -> dict[str, np.ndarray]:
    """One task as fresh float32 arrays (d,); `as_tasks` takes it back."""
    return {name: value[index].numpy().copy() for name, value in tasks.values.items()}


def _as_row(name: str, parameter: Parameter, value: object) -> np.ndarray:
    if isinstance(parameter, Categories) and isinstance(value, str):
        if value not in parameter.names:
            raise TaskError(
                f"task parameter '{name}': unknown category '{value}' (valid: {', '.join(parameter.names)})"
            )
        value = parameter.names.index(value)
    try:
        row = np.atleast_1d(np.asarray(value, dtype=np.float32))
    except (TypeError, ValueError):
        raise TaskError(f"task parameter '{name}': expected {parameter.size} numbers, got {value!r}") from None
    if row.shape != (parameter.size,):
        raise TaskError(f"task parameter '{name}': expected {parameter.size} numbers, got shape {row.shape}")
    if not np.isfinite(row).all():
        raise TaskError(f"task parameter '{name}' is not finite: {row.tolist()}")
    if isinstance(parameter, Range) and parameter.within is not None:
        low, high = (np.asarray(bound, np.float32) for bound in parameter.within)
        if not ((low <= row) & (row <= high)).all():
            raise TaskError(f"task parameter '{name}' must be within {span(*parameter.within)}, got {row.tolist()}")
    if isinstance(parameter, Categories) and (row[0] % 1 or not 0 <= row[0] < len(parameter.names)):
        raise TaskError(f"task parameter '{name}': no category has the number {row[0]:g}")
    return row
