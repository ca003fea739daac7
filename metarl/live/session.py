"""A policy that acts while somebody watches, and changes its task: what a page shows and asks for, without the page.

Nothing here draws or waits. Every method returns at once, except for `gradient_step`, which plays episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from envs.core.environment import Environment, MujocoEnvironment
from envs.core.tasks import Categories, Tasks
from envs.errors import TaskError
from envs.metaworld.mixed import MixedTasks
from metarl.agent import Agent
from metarl.algorithms.rounds import finite_step
from metarl.assembly.build import stream_seed
from metarl.errors import ViewError
from metarl.rollouts.rollout import collect

SPEEDS = (0.1, 10.0)  # times real time


def _why_not(env: Environment) -> str:
    """Why a page cannot show an environment."""
    if isinstance(env, MixedTasks):
        what = f"its {len(env.kinds)} tasks have a MuJoCo model each, and the page shows one"
        remedy = "a run trained with env.benchmark=ML1 can be watched"
    else:
        what = "has no MuJoCo model that a page could show (an environment of Gymnasium's keeps its own to itself)"
        remedy = "metarl.render makes films of what draws itself"
    return f"{env.name}: {what}; {remedy}"


@dataclass(frozen=True)
class Played:
    """An episode that ran to its end."""

    feedback: float  # summed over the episode
    success: bool  # at its end
    steps: int
    gradient_steps: int  # taken before it
    trial: int  # which episode in the memory it was, from 1
    failed: bool = False  # the physics broke


class Session:
    """One robot with one policy on one task, which a person may change at any time.

    Attributes:
        agent: the policy as it acts now.
        episodes: those played on the present task, oldest first.
        gradient_steps: taken on the present task.
        feedback: of the present episode so far.
        success: whether the criterion holds now.
        elapsed: control steps of the present episode.
        paused, speed: what a page should do; nothing here waits. Speed 1 is real time.

    Args:
        beside: a session whose task this one has, in place of number `task` of a split.

    Raises:
        ViewError: if the environment has no MuJoCo model, or not the tasks, pace and bodies of the one beside.
        EnvsError, ConfigError: if there is no such task.
    """

    def __init__(
        self, agent: Agent, split: str = "test", task: int = 0, seed: int = 0, beside: Session | None = None
    ) -> None:
        run, self._seed = agent.run, stream_seed(seed, "evaluation")
        env = run.environment(1, self._seed, 1)
        if not isinstance(env, MujocoEnvironment):
            raise ViewError(_why_not(env))
        env.distribution.generator.manual_seed(self._seed + 2)
        self.env, self.agent, self._trained = env, agent, agent
        self._generator = torch.Generator().manual_seed(self._seed + 1)
        self.paused, self.speed = False, 1.0
        if beside is None:
            self.present(run.held_out(split, task + 1).select([task]))
            return
        if _world(env) != _world(beside.env):
            what = f"{env.name} has other tasks, another pace or other bodies than {beside.env.name}"
            raise ViewError(f"{run.name} cannot act beside {beside.agent.run.name}: {what}")
        self.present(beside.tasks)

    @property
    def values(self) -> Mapping[str, Tensor]:
        """The present task as it is, (d,) by parameter; a category is the number of its name."""
        return {name: value[0] for name, value in self.env.realised(self.tasks).values.items()}

    @property
    def tasks(self) -> Tasks:
        """The present task."""
        assert self.env.tasks is not None
        return self.env.tasks

    @property
    def split(self) -> str:
        """The split that the present task would belong to."""
        return self.env.distribution.split_of(self.tasks)[0]

    @property
    def splits(self) -> tuple[str, ...]:
        """Those from which a person may ask for a new task."""
        can_leave = any(parameter.ood for parameter in self.env.distribution.parameters.values())
        return ("train", "test", *(("ood",) if can_leave else ()))

    @property
    def beyond(self) -> list[str]:
        """The parameters with a value that was not trained on."""
        return [name for name, moved in self.env.distribution.moved(self.tasks).items() if moved[0]]

    @property
    def trial(self) -> tuple[int, int]:
        """Which episode in its memory the present one is, from 1, and how many there were in training."""
        memory, total = self._controller.memory, self.agent.run.learner.settings.trial_episodes
        if memory is None:
            return 1, total
        if self.elapsed:
            return memory[0].episodes, total
        return memory[0].episodes + 1 if self.agent.run.policy.context == "trial" else 1, total

    @property
    def pace(self) -> float:
        """Seconds from one `advance` to the next."""
        return self.env.step_period / self.speed

    @property
    def attention(self) -> np.ndarray | None:
        """(t,) how much the last action looked at each of the t steps in the memory, the mean over heads and layers.

        None: before the first action, or of a policy that does not attend.
        """
        weights = self._controller.attention()
        return None if weights is None else weights[0].mean((0, 1))

    def advance(self) -> None:
        """One control step; after the last one of an episode, the next episode begins.

        Raises:
            EnvsError: as the environment.
        """
        if self._over:
            self.next_episode()
        action = self._controller.act(self._observation, self._felt)
        step = self.env.step(torch.from_numpy(action)[None])
        self._observation, self._felt = step.observation[0].numpy(), float(step.feedback[0])
        self.elapsed += 1
        self.feedback += self._felt
        self.success = bool(step.success[0])
        self._over = bool(step.terminated[0]) or self.elapsed >= self.env.horizon
        if self._over:
            trial, failed = self.trial[0], bool(step.failed[0])
            self.episodes.append(Played(self.feedback, self.success, self.elapsed, self.gradient_steps, trial, failed))

    def next_episode(self) -> None:
        """Begin an episode; what is remembered stays, and one that had not ended does not count."""
        self._observation = self.env.reset()[0].numpy()
        self._controller.reset()
        self.elapsed, self.feedback, self.success, self._over = 0, 0.0, False, False

    def forget(self) -> None:
        """Clear the memory, and begin an episode; what has adapted by gradient steps stays."""
        self._controller, self._felt = replace(self.agent, memory=None).controller(), 0.0
        self.next_episode()

    def gradient_step(self) -> None:
        """Adapt by one inner step, on as many exploring episodes of this task as an evaluation plays, and begin anew.

        Raises:
            NotFiniteError: if the step is not finite; nothing has changed then.
        """
        run = self.agent.run
        self._explored.set_tasks(self.tasks)
        trial = run.learner.settings.trial_episodes
        played = collect(
            self._explored, run.policy, self.agent.adapted, generator=self._generator, trial_episodes=trial
        )
        adapted = finite_step(run.learner, ["this task"])(self.agent.adapted, run.learner.prepare(played))
        self.agent = replace(self.agent, adapted=adapted, memory=None)
        self.gradient_steps += 1
        self.forget()

    def as_trained(self) -> None:
        """Undo the gradient steps, those of a kept policy too; clear the memory, and begin an episode."""
        self.agent, self.gradient_steps = replace(self.agent, adapted=None, memory=None, history=()), 0
        self.forget()

    def new_task(self, split: str) -> None:
        """A task drawn from a split, and the policy as it was at the beginning of the session, without a memory.

        Raises:
            TaskError: if there is no such split.
        """
        tasks = self.env.distribution.sample(1, split)
        self.present(tasks)

    def change(self, name: str, value: float | str, axis: int = 0) -> None:
        """Change a parameter in the middle of the episode; the robot is not told, stays where it is, and remembers.

        Args:
            value: a number in the parameter's unit, or the name of a category.

        Raises:
            TaskError: if there is no such parameter or category.
        """
        parameter = self.env.distribution.parameters.get(name)
        if parameter is None or (isinstance(parameter, Categories) and value not in parameter.names):
            raise TaskError(f"{self.env.name}: there is no {name}={value}")
        values = {key: row.clone()[None] for key, row in self.values.items()}
        values[name][0, axis] = parameter.names.index(str(value)) if isinstance(parameter, Categories) else float(value)
        self._observation = self.env.change_tasks(Tasks(values))[0].numpy()
        # What was felt and reached on the task of before does not count for this one.
        self.episodes: list[Played] = []
        self.feedback, self.success = 0.0, bool(self.env.success()[0])

    def present(self, tasks: Tasks) -> None:
        """Begin with another task, (1, d) by parameter, and with the policy as it was at first."""
        self.env.set_tasks(tasks)
        self.agent, self.episodes, self.gradient_steps = self._trained, [], 0
        self._trained = replace(self._trained, memory=None)  # what was kept of another task is of no use in the next
        self._controller, self._felt = self.agent.controller(), 0.0
        self.next_episode()

    @cached_property
    def _explored(self) -> MujocoEnvironment:
        """Where gradient steps get their episodes, beside the robot that is watched."""
        run = self.agent.run
        env = run.environment(run.settings.evaluate.episodes_per_step, self._seed + 2)
        assert isinstance(env, MujocoEnvironment)
        return env


def _world(env: MujocoEnvironment) -> tuple[object, ...]:
    """What robots beside each other have in common: what varies, the pace, and what moves."""
    parameters = env.distribution.parameters
    varies = [(name, p.names if isinstance(p, Categories) else p.size) for name, p in parameters.items()]
    model = env.drawn_model(0)
    return varies, env.step_period, model.nq, model.nbody, model.nmocap
