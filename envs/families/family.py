"""What the task families share: how they are made from the options of the command line, and what an oracle sees."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import mujoco
import torch
from torch import Tensor

from envs.core.environment import Environment, MujocoEnvironment
from envs.core.tasks import Parameter, TaskDistribution
from envs.errors import EnvsError

Vector = tuple[float, float, float]


class Family(Environment):
    """A task family. A subclass states as class attributes its name, its horizon, its sizes and its task parameters.

    It sets `self.goal` (N, G) float32 in `apply_tasks`: the hidden part of the task, which an oracle also observes.
    """

    parameters: ClassVar[Mapping[str, Parameter]]
    hidden_size: ClassVar[int]  # G: how much longer an oracle's observation is
    edition: ClassVar[int] = 0  # of the published lists, see `TaskDistribution`
    goal: Tensor

    def task_distribution(self, changes: Mapping[str, object] | None) -> TaskDistribution:
        """The family's tasks, with other training ranges where `changes` has some."""
        return TaskDistribution(dict(self.parameters), edition=self.edition).override(changes or {})

    def take_options(self, horizon: int | None, oracle: bool) -> None:
        """Set what the options change: the horizon (None: the family's own), and whether an oracle observes.

        Raises:
            EnvsError: for a horizon that is not an integer from 1, or an `oracle` that is not true or false.
        """
        if horizon is not None and (type(horizon) is not int or horizon < 1):
            raise EnvsError(f"{self.name}: horizon={horizon!r}: must be an integer from 1")
        if not isinstance(oracle, bool):
            raise EnvsError(f"{self.name}: an oracle is asked for by true or false, got {oracle!r}")
        self.horizon = self.horizon if horizon is None else horizon
        self.oracle = oracle
        self.observation_size += self.hidden_size * oracle

    @abstractmethod
    def seen(self) -> list[Tensor]:
        """The parts (N, ...) of the observation that every policy sees."""

    def hidden(self) -> Tensor:
        """What an oracle sees besides, (N, G) float32."""
        return self.goal

    @property
    def privileged_size(self) -> int:
        return self.hidden_size

    def privileged(self) -> Tensor:
        return self.hidden()

    def observe(self) -> Tensor:
        """The observation (N, D) float32 of the present state."""
        observation = torch.cat(self.seen(), -1).float()
        return torch.cat([observation, self.hidden()], -1) if self.oracle else observation


class MujocoFamily(Family, MujocoEnvironment):
    """A task family on MuJoCo.

    Args:
        num_simulations: N.
        seed: of the initial states and the sensors' noise.
        threads: of the physics; 0: all cores.
        horizon: control steps per episode; None: the family's own.
        goal_visible: makes it an oracle: the goal is at the end of the observation.
        tasks_override: other training ranges, see `TaskDistribution.override`.
    """

    def __init__(
        self,
        num_simulations: int,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        goal_visible: bool = False,
        tasks_override: Mapping[str, object] | None = None,
    ) -> None:
        distribution = self.task_distribution(tasks_override)
        super().__init__(self.build_spec(distribution), num_simulations, distribution, seed, threads)
        self.take_options(horizon, goal_visible)
        self.bind()

    @abstractmethod
    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        """The model for these tasks; called before anything else is set."""

    @abstractmethod
    def bind(self) -> None:
        """Take the views of the engine's memory and the constants that the family works with; called once."""
