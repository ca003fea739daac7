"""The contract of a batched task environment, and its base class for MuJoCo.

N simulations run side by side; task m of the M current tasks runs in simulations m * N / M up to (m + 1) * N / M.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.core.contract import Assigned, check_first_step, check_observation, check_step, first_not_finite
from envs.core.engine_cpu import CpuSimulator
from envs.core.models import PictureModel, physics_model
from envs.core.simulator import Simulator
from envs.core.step import Step, check_highest, joined, log_scaled
from envs.core.tasks import TaskDistribution, Tasks
from envs.errors import ContractError, EnvsError, ModelError, TaskError

ASSETS = Path(__file__).parents[1] / "assets"


class Part(NamedTuple):
    """Which simulations of a larger whole an environment has: several processes may have a part of it each."""

    first: int  # the number of those before them
    whole: int


Drawer = Callable[[dict[str, np.ndarray]], np.ndarray]


class Environment(ABC):
    """N simulations of one task family, stepped together. `reset` before the first `step`.

    Attributes:
        horizon: steps of an episode.
        control_period: seconds per control step.
        action_repeat: control steps for which a step holds its action.
        feedback: what `Step.feedback` is: `reward`; `log_reward`, its distance to the highest on a logarithmic scale,
            which tells near from very near; `sparse`, what `signal` tells; or `none`, which is always 0.
        documented_by: another class whose docstring tells of its observation and action, see `envs.core.described`.
        highest_reward: of a control step, where there is one; `log_reward` needs it.
        paid_once: whether a reward term depends on earlier episodes of the trial, so that returns do not compare.
    """

    name: ClassVar[str]
    horizon: int
    observation_size: int
    action_size: int
    success_criterion: ClassVar[str]
    documented_by: ClassVar[type[Environment] | None] = None
    control_period: float
    action_repeat: int = 1
    feedback: str = "reward"
    highest_reward: float | None = None
    paid_once: ClassVar[bool] = False
    begun: bool = False  # whether `reset` was called

    def __init__(self, num_simulations: int, distribution: TaskDistribution, seed: int = 0) -> None:
        if num_simulations < 1:
            raise TaskError(f"num_simulations must be at least 1, got {num_simulations}")
        self.num_simulations = num_simulations
        self.part = Part(0, num_simulations)
        self.distribution = distribution
        self.generator = torch.Generator().manual_seed(seed)
        self.tasks: Tasks | None = None
        self.assigned: dict[str, Tensor] = Assigned()

    def set_tasks(self, tasks: Tasks) -> None:
        """Give M tasks to the N simulations, N / M simulations each; call `reset` afterwards.

        Raises:
            TaskError: if N is not a multiple of M, or the tasks lack a parameter of this environment.
        """
        count = len(tasks)
        if count == 0 or self.num_simulations % count:
            raise TaskError(f"{count} tasks do not divide {self.num_simulations} simulations evenly")
        missing = sorted(set(self.distribution.parameters) - set(tasks.values))
        if missing:
            raise TaskError(f"{self.name}: the tasks lack the parameters {', '.join(missing)}")
        self.tasks = tasks
        repeats = self.num_simulations // count
        self.assigned = Assigned({name: value.repeat_interleave(repeats, 0) for name, value in tasks.values.items()})
        self.apply_tasks()

    @abstractmethod
    def apply_tasks(self) -> None:
        """Realise `self.assigned` (name -> (N, d)) in the simulations."""

    def realised(self, tasks: Tasks) -> Tasks:
        """Tasks as they are once they are set, for whoever shows them; here as they were asked for."""
        return tasks

    @abstractmethod
    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes in the masked simulations (N,) (None: in all); returns the observation (N, D)."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Advance one control step with action (N, A), clipped to [-1, 1]."""

    @property
    def step_period(self) -> float:
        """Seconds per step."""
        return self.control_period * self.action_repeat

    def repeat_actions(self, times: int) -> None:
        """Have each step hold its action for several control steps, so that an episode has as many times fewer steps.

        Called once, before the first `reset`. Reward and feedback are sums over the control steps; observation and
        success are those of the last.

        Raises:
            EnvsError: if this environment cannot, or an episode is not so many times something.
        """
        if times != 1:
            raise EnvsError(f"{self.name}: cannot hold an action for several control steps")

    def _hold(self, times: int) -> None:
        """What `repeat_actions` does of an environment that can."""
        if times < 1 or self.horizon % times:
            wanted = f"a divisor of the {self.horizon} control steps of an episode"
            raise EnvsError(f"{self.name}: an action is held for {wanted}, not for {times}")
        self.horizon //= times
        self.action_repeat = times

    def require_reset(self) -> None:
        """For the beginning of `step`.

        Raises:
            TaskError: if there was no `reset` yet.
        """
        if not self.begun:
            raise TaskError(f"{self.name}: call set_tasks and reset before step")

    def felt(self, reward: Tensor, signal: Callable[[], Tensor]) -> Tensor:
        """`Step.feedback` (N,) of a step with this reward (N,) and this sparse signal (N,).

        Raises:
            EnvsError: if it is `log_reward`, and there is no highest reward.
        """
        if self.feedback == "reward":
            return reward
        if self.feedback == "log_reward":
            return log_scaled(reward, check_highest(self.name, self.highest_reward))
        return signal().float() if self.feedback == "sparse" else torch.zeros_like(reward)

    @property
    def fed_the_reward(self) -> bool:
        """Whether `Step.feedback` is `Step.reward`."""
        return self.feedback == "reward"

    @property
    def privileged_size(self) -> int:
        """P, see `privileged`."""
        return sum(parameter.size for parameter in self.distribution.parameters.values())

    def privileged(self) -> Tensor:
        """What a critic may see of the task in training, (N, P) float32: here every task parameter."""
        return torch.cat(list(self.assigned.values()), -1)

    def begin_trial(self) -> None:  # noqa: B027  - few need it
        """Episodes that share one context begin in all simulations: training says so before the first one is reset.

        For rewards that look back at earlier episodes of the trial; by default nothing happens.
        """

    def task_of(self, simulation: int) -> str:
        """The task of a simulation in words, for messages."""
        if self.tasks is None:
            return "no task"
        index = simulation // (self.num_simulations // len(self.tasks))
        before = self.part.first // (self.num_simulations // len(self.tasks))
        return f"task {before + index} {self.tasks.describe(index)}"

    def failure_of(self, simulation: int, cause: str) -> str:
        """What broke in a simulation in words, with its task; both by their numbers in the whole."""
        return f"{self.name}: {cause} in simulation {self.part.first + simulation}, {self.task_of(simulation)}"

    @abstractmethod
    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        """What a drawer needs to draw a simulation as it is now."""

    @abstractmethod
    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        """A function from render states of this simulation to pictures (height, width, 3) uint8."""

    def noise(self, *size: int, dim: int = 0) -> Tensor:
        """Standard normal numbers from the environment's own generator; `dim` counts the simulations."""
        return self.drawn(torch.randn, *size, dim=dim)

    def uniform(self, *size: int, dim: int = 0) -> Tensor:
        """The same, uniform in [0, 1)."""
        return self.drawn(torch.rand, *size, dim=dim)

    def drawn(self, draw: Callable[..., Tensor], *size: int, dim: int = 0) -> Tensor:
        """Random numbers `draw(size, generator=...)` from the environment's own generator.

        Where the environment is a part of a whole, they are drawn for the whole, so that each simulation has the same
        numbers however the whole is divided.
        """
        if size[dim] != self.num_simulations:  # not a number for each of them
            return draw(size, generator=self.generator)
        whole = list(size)
        whole[dim] = self.part.whole
        return draw(whole, generator=self.generator).narrow(dim, self.part.first, size[dim])


class MujocoEnvironment(Environment):
    """A task environment on MuJoCo: subclasses give the model, the tasks, the control law, observation and reward.

    A control step calls `control`, steps the physics, then calls `sense`, `reward_terms`, `success` and `observe`. A
    reset calls `initial_state`, `on_reset`, `sense` and `observe`. What several of them need, `sense` computes; those
    after it only read. `qpos`, `qvel` and `ctrl` are live (N, ...) views of the engine's memory; `elapsed` (N,) counts
    the control steps of an episode.

    A simulation whose physics becomes unstable, or whose observation or reward is not finite, ends its episode with
    reward 0, is reset by itself, and is reported in `Step.failed`; `last_failure` names it and its task. An action that
    is held on moves what was reset. What the subclass returns is checked once, at the first reset and the first step.

    Raises:
        ContractError: if an observation, a reward term or the success has another shape or type than promised, a
            value is not finite in all simulations at the very first step, or an observation is above 1e15 there or in
            the memory of the one before.
    """

    substeps: int = 10

    def __init__(
        self,
        spec: mujoco.MjSpec,
        num_simulations: int,
        distribution: TaskDistribution,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        super().__init__(num_simulations, distribution, seed)
        self.spec = spec
        self.model = physics_model(spec)
        self.control_period = self.model.opt.timestep * self.substeps
        self.simulator: Simulator = CpuSimulator(self.model, num_simulations, threads)
        self.qpos, self.qvel, self.ctrl = (self.simulator.field(name) for name in ("qpos", "qvel", "ctrl"))
        self.elapsed = torch.zeros(num_simulations, dtype=torch.int64)
        self.last_failure: str | None = None
        self.last_cause = ""  # of that failure, wherever it was
        self._first: Tensor | None = None  # the first reset's observation, until the first step is checked

    @abstractmethod
    def initial_state(self) -> dict[str, Tensor]:
        """State fields (N, ...) at the start of an episode, for all simulations."""

    @abstractmethod
    def control(self, action: Tensor) -> None:
        """Turn clipped actions (N, A) into the simulator's `ctrl`."""

    def sense(self) -> None:
        """Compute what `observe`, `reward_terms` and `success` read of the present state.

        It is called once after the physics of every control step and once after every reset. A reset of some
        simulations senses the others a second time at the same instant, so count by `elapsed` and never by calls, and
        keep in `control` what is needed of the time before the step.
        """

    @abstractmethod
    def observe(self) -> Tensor:
        """The observation (N, D) float32 of the present state."""

    @abstractmethod
    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        """Named reward terms (N,); the reward is their sum."""

    @abstractmethod
    def success(self) -> Tensor:
        """(N,) bool: whether the success criterion holds now."""

    def signal(self) -> Tensor:
        """What the robot senses with `feedback=sparse`, (N,): here 1 where the success criterion holds now."""
        return self.success()

    def on_reset(self, mask: Tensor) -> None:
        """Reset what the subclass remembers of the masked simulations (N,)."""

    def reset(self, mask: Tensor | None = None) -> Tensor:
        if self.tasks is None:
            raise TaskError(f"{self.name}: call set_tasks before reset")
        self.simulator.reset(mask, self.initial_state())
        chosen = torch.ones(self.num_simulations, dtype=torch.bool) if mask is None else mask
        self.elapsed[chosen] = 0
        self.on_reset(chosen)
        self.sense()
        observation = self.observe()
        if not self.begun:
            self._check(observation)
            self.begun, self._first = True, observation
        return observation

    def change_tasks(self, tasks: Tasks) -> Tensor:
        """Give other tasks to episodes that go on: robots and objects stay where they are; the observation (N, D).

        What an episode begins with and only the task decides, a goal's marker or a weight, changes at once.

        Raises:
            TaskError: as `set_tasks`.
        """
        kept = self.simulator.state()
        noise = self.generator.get_state()
        before = {name: value.clone() for name, value in self.initial_state().items()}
        self.set_tasks(tasks)
        self.generator.set_state(noise)
        after = self.initial_state()
        moved = {name: value for name, value in after.items() if not torch.equal(value, before[name])}
        self.simulator.reset(None, kept | moved | {name: kept[name] for name in ("qpos", "qvel", "act", "ctrl")})
        self.sense()
        return self.observe()

    def repeat_actions(self, times: int) -> None:
        self._hold(times)

    def step(self, action: Tensor) -> Step:
        self.require_reset()
        action = action.clamp(-1.0, 1.0)
        return joined([self._control_step(action) for _ in range(self.action_repeat)])

    def _control_step(self, action: Tensor) -> Step:
        self.control(action)
        failed = unstable = self.simulator.step(self.substeps)
        self.elapsed += 1
        self.sense()
        terms = self.reward_terms(action)
        success = self.success()
        observation = self.observe()
        first, self._first = self._first, None
        if first is not None:
            self._check(observation)
            check_first_step(type(self).__name__, first, observation)
            check_step(type(self).__name__, terms, success, self.num_simulations)
        terms = {name: term.float() for name, term in terms.items()}
        reward = torch.stack(tuple(terms.values())).sum(0)
        feedback = self.felt(reward, self.signal)
        # One sum tells in one pass whether anything is not finite; only then the culprit is searched.
        if not math.isfinite(reward.sum() + feedback.sum() + observation.sum()):
            failed = failed | ~(torch.isfinite(observation).all(-1) & torch.isfinite(reward) & torch.isfinite(feedback))
            if first is not None and failed.all() and not unstable.any():
                culprit = first_not_finite(terms, observation, 0)
                where = f"in all {self.num_simulations} simulations at the first step"
                raise ContractError(f"{type(self).__name__}: {culprit} is not finite {where}")
        if failed.any():
            index = int(failed.nonzero()[0, 0])
            cause = (
                "physics failed" if unstable[index] else f"{first_not_finite(terms, observation, index)} is not finite"
            )
            self.last_cause = cause if torch.isfinite(action[index]).all() else "the action is not finite"
            self.last_failure = self.failure_of(index, self.last_cause)
            observation = torch.where(failed[:, None], self.reset(failed), observation)
            reward, feedback = reward.masked_fill(failed, 0.0), feedback.masked_fill(failed, 0.0)
            terms = {name: term.masked_fill(failed, 0.0) for name, term in terms.items()}
            success = success & ~failed
        return Step(observation, reward, terms, success, failed, failed, feedback)

    def _check(self, observation: object) -> None:
        check_observation(type(self).__name__, observation, (self.num_simulations, self.observation_size))

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        return {name: self.simulator.field(name)[simulation].numpy().copy() for name in ("qpos", "mocap_pos")}

    def drawn_model(self, simulation: int) -> mujoco.MjModel:
        """A fresh model with everything that is drawn, as this simulation has it."""
        return PictureModel(self.spec).variant(self.simulator.model_of(simulation))

    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        from envs.rendering.frames import FrameRenderer  # only drawing loads OpenGL

        model = self.drawn_model(simulation)
        cameras = [model.camera(index).name for index in range(model.ncam)]
        renderer = FrameRenderer(model, width, height, "viewer" if "viewer" in cameras else None)
        return lambda state: renderer.render(state["qpos"], state["mocap_pos"], state.get("mocap_quat"))

    def sensor(self, name: str) -> Tensor:
        """Live (N, d) values of a sensor, one physics step old after a step.

        Raises:
            ModelError: if the model has no such sensor.
        """
        try:
            found = self.model.sensor(name)
        except KeyError:
            raise ModelError(f"{self.name}: the model has no sensor '{name}'") from None
        start = int(found.adr[0])
        return self.simulator.field("sensordata")[:, start : start + int(found.dim[0])]

    def repeated(self, name: str) -> Tensor:
        """A model field as compiled, once for each simulation (N, ...): change it and give it to `set_model_fields`."""
        value = torch.from_numpy(getattr(self.model, name).copy())
        return value.repeat(self.num_simulations, *[1] * value.ndim)
