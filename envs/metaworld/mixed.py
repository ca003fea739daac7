"""Several of Meta-World's tasks side by side: a batch for each, behind one environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.core.environment import Drawer, Environment, Step
from envs.core.tasks import Tasks
from envs.errors import TaskError
from envs.metaworld.package import models
from envs.metaworld.sawyer import SawyerTask
from envs.metaworld.variations import Variations

KEPT = 3  # batches of a task: how many simulations it has changes with what is drawn


class Member(NamedTuple):
    """The simulations of one task."""

    kind: int
    env: SawyerTask
    rows: Tensor  # (n,) which of all simulations they are


class MixedTasks(Environment):
    """N simulations that are divided among tasks as `set_tasks` says; each task has a model and a batch of its own.

    A simulation that gets another task needs another model, and so has to be reset; the others go on where they were.

    Args:
        num_simulations: N.
        distribution: of tasks and their variations.
        seed, threads, horizon, goal_visible, bonus: of every task.

    Raises:
        PackageError: if the package metaworld is not installed, or is of another version.
    """

    name = "metaworld"
    success_criterion = "the task's own, as Meta-World defines it"
    horizon, observation_size, action_size = SawyerTask.horizon, SawyerTask.observation_size, SawyerTask.action_size
    control_period = 0.0125
    highest_reward = SawyerTask.highest_reward
    documented_by = SawyerTask

    def __init__(
        self,
        num_simulations: int,
        distribution: Variations,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        goal_visible: bool = False,
        bonus: float = 0.0,
    ) -> None:
        models()
        super().__init__(num_simulations, distribution, seed)
        self.kinds = distribution.kinds
        self.horizon = self.horizon if horizon is None else horizon
        self._options = {"seed": seed, "threads": threads, "horizon": horizon}
        self._options |= {"goal_visible": goal_visible, "bonus": bonus}
        self._made: dict[tuple[int, int], SawyerTask] = {}  # by kind and number of simulations; last used last
        self.members: list[Member] = []
        self._running: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}  # by kind: where each simulation was, episodes
        self.last_failure: str | None = None

    def repeat_actions(self, times: int) -> None:
        self._hold(times)  # its members do so when they are made

    def apply_tasks(self) -> None:
        kinds = self.assigned["task"][:, 0].long()
        if self.begun:
            self._running = {m.kind: (self._numbers(m.rows), m.env.episodes()) for m in self.members}
        self.members = []
        for kind in kinds.unique().tolist():
            rows = (kinds == kind).nonzero()[:, 0]
            env = self._environment(kind, len(rows))
            env.feedback = self.feedback
            env.set_tasks(Tasks({name: value[rows] for name, value in self.assigned.items() if name != "task"}))
            self.members.append(Member(kind, env, rows))
        self._back = torch.cat([member.rows for member in self.members]).argsort()
        self.begun = False

    def _environment(self, kind: int, count: int) -> SawyerTask:
        env = self._made.pop((kind, count), None)
        if env is None:
            others = [key for key in self._made if key[0] == kind]
            for key in others[: max(len(others) - KEPT + 1, 0)]:
                del self._made[key]
            distribution = Variations({"train": ((self.kinds[kind],), 0)})
            env = self.kinds[kind](count, distribution, **self._options)
            env.repeat_actions(self.action_repeat)
        self._made[kind, count] = env
        return env

    def reset(self, mask: Tensor | None = None) -> Tensor:
        if self.tasks is None:
            raise TaskError(f"{self.name}: call set_tasks before reset")
        mask = torch.ones(self.num_simulations, dtype=torch.bool) if mask is None else mask
        if self.begun:
            return self._together([m.env.reset(mask[m.rows]) for m in self.members])
        kept = [self._kept(member, ~mask[member.rows]) for member in self.members]
        self.begun, self._running = True, {}
        started = [m.env.reset() for m in self.members]
        going_on = zip(self.members, started, kept, strict=True)
        return self._together([m.env.go_on(~mask[m.rows], k) if k else fresh for m, fresh, k in going_on])

    def _kept(self, member: Member, going_on: Tensor) -> dict[str, Tensor]:
        """The episodes (n, ...) of a member's simulations as they ran before `set_tasks`; none if none goes on."""
        if not bool(going_on.any()):
            return {}
        numbers, episodes = self._running.get(member.kind, (torch.full((self.num_simulations,), -1), {}))
        number = numbers[member.rows]
        if bool((number[going_on] < 0).any()):
            first = int(member.rows[going_on & (number < 0)][0])
            raise TaskError(f"{self.name}: simulation {first} has another task than before, so it has to be reset")
        return {name: value[number.clamp(min=0)] for name, value in episodes.items()}

    def _numbers(self, rows: Tensor) -> Tensor:
        """For all simulations (N,) their place in `rows` (n,); -1: they are not there."""
        return torch.full((self.num_simulations,), -1).index_copy(0, rows, torch.arange(len(rows)))

    def step(self, action: Tensor) -> Step:
        self.require_reset()
        steps = [member.env.step(action[member.rows]) for member in self.members]
        fields = {name: self._together([getattr(s, name) for s in steps]) for name in Step._fields if name != "terms"}
        if fields["failed"].any():
            index = int(fields["failed"].nonzero()[0, 0])
            # A member counts its own simulations, so only the cause is taken from it.
            self.last_failure = self.failure_of(index, self._member_of(index)[0].last_cause)
        terms = {name: self._together([step.terms[name] for step in steps]) for name in steps[0].terms}
        return Step(terms=terms, **fields)

    @property
    def fed_the_reward(self) -> bool:
        return super().fed_the_reward and not self._options["bonus"]

    def _together(self, parts: Sequence[Tensor]) -> Tensor:
        """What the members have (n, ...) in the order of all simulations, (N, ...)."""
        return torch.cat(list(parts))[self._back]

    @property
    def privileged_size(self) -> int:
        return len(self.kinds) + 6

    def privileged(self) -> Tensor:
        """What a critic may see: which task it is, the target, and where the object started, (N, P)."""
        kinds = torch.nn.functional.one_hot(self.assigned["task"][:, 0].long(), len(self.kinds)).float()
        return torch.cat([kinds, self._together([m.env.privileged() for m in self.members])], -1)

    def _member_of(self, simulation: int) -> tuple[SawyerTask, int]:
        """The task of a simulation, and its number there."""
        for member in self.members:
            found = (member.rows == simulation).nonzero()
            if len(found):
                return member.env, int(found[0, 0])
        raise TaskError(f"{self.name}: there is no simulation {simulation}")

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        env, number = self._member_of(simulation)
        return env.render_state(number)

    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        env, number = self._member_of(simulation)
        return env.drawer(number, width, height)
