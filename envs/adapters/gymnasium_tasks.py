"""Any Gymnasium environment with `sample_tasks(n)` and `set_task(task)`, the convention of learn2learn and garage, as a
batched task environment.

The physics is the environment's own, and so is its speed: N of them are stepped by Gymnasium's `SyncVectorEnv`, one
after the other, or by `AsyncVectorEnv`, in N processes.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.wrappers import FlattenObservation, RescaleAction
from torch import Tensor

from envs.core.contract import check_first_step
from envs.core.environment import Drawer, Environment, Step
from envs.core.explained import explained
from envs.core.tasks import PUBLISHED_BLOCK, SPLITS, Range, TaskDistribution, Tasks
from envs.errors import ContractError, EnvsError, TaskError

Make = Callable[..., gymnasium.Env[Any, Any]]

# Tasks are numbers that float32 holds exactly, all below 2^24; each split has numbers of its own.
STRIDE = 2**22
PERIOD = 0.05  # seconds per control step, if the environment does not say


class WorkerTraceback(Exception):
    """The traceback, as text, of what a worker process raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Processes(AsyncVectorEnv):
    """Environments in processes of their own, which end with it.

    A worker process is a copy of its parent, with the parent's earlier environments: it must leave those alone. What a
    worker raises is raised here, with the worker's traceback as its cause, and not printed.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._owner = os.getpid()
        super().__init__(*arguments, **options)

    def __del__(self) -> None:
        if self._owner == os.getpid():
            for process in getattr(self, "processes", ()):
                process.terminate()
                process.join()

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        errors = [self.error_queue.get() for success in successes if not success]
        for index, *_ in errors:
            self.parent_pipes[index].close()
        if errors:
            self._state = AsyncState.DEFAULT
            _, _, value, trace = errors[0]
            raise value from WorkerTraceback(trace)


TAKEN = ("horizon", "vectorization", "train_tasks")  # options that are ours, unless an environment has them too
VECTORISATION = {"sync": SyncVectorEnv, "async": Processes}


class NumberedTasks(TaskDistribution):
    """Tasks that are arbitrary objects, by number: the parameter `task` counts them, each split of `SPLITS` from the
    next multiple of `STRIDE` on.

    A split's tasks are what `sample_tasks` returns under fixed seeds, the same for every method, run and machine. The
    numbers of `test` differ from those of `train`; whether the tasks do is up to `sample_tasks`: draws from a
    continuous range differ, draws from a short list repeat. If the environment has `sample_tasks(n, split=...)`, it
    divides all the splits itself, and only then there is an `ood` split.

    Args:
        name: of the environment, for messages.
        draw: (n, split, seed) -> n tasks.
        count: tasks in each split; `sample` draws from these.
        splits: those that there are.
    """

    def __init__(
        self, name: str, draw: Callable[[int, str, int], list[Any]], count: int, splits: Sequence[str]
    ) -> None:
        super().__init__({"task": Range(0, STRIDE * len(SPLITS) - 1, unit="number")})
        self.name, self.draw, self.count, self.splits = name, draw, count, splits
        self._blocks: dict[tuple[str, int], list[Any]] = {}

    def override(self, changes: Mapping[str, object]) -> NumberedTasks:
        if changes:
            given = ", ".join(changes)
            raise TaskError(f"{self.name}: its tasks come from sample_tasks, so there is no range of {given} to set")
        return self

    def sample(self, n: int, split: str = "train", width: float = 1.0) -> Tasks:
        if width < 1.0:
            raise TaskError(f"{self.name}: its tasks come from sample_tasks, and have no middle: set algo.curriculum=0")
        return self._numbered(split, torch.randint(self.count, (n,), generator=self.generator))

    def published(self, split: str, n: int = PUBLISHED_BLOCK) -> Tasks:
        limit = self.count if split == "train" else STRIDE
        if not 1 <= n <= limit:
            raise TaskError(f"a list of {split} tasks has 1 to {limit} tasks, not {n}")
        return self._numbered(split, torch.arange(n))

    def split_of(self, tasks: Tasks) -> list[str]:
        return [SPLITS[int(number) // STRIDE] for number in tasks["task"][:, 0].tolist()]

    def task(self, number: int) -> Any:
        """The task of a number."""
        split = SPLITS[number // STRIDE]
        block, row = divmod(number % STRIDE, PUBLISHED_BLOCK)
        if (split, block) not in self._blocks:
            seed = 7_919 * (block + 1) + SPLITS.index(split)
            self._blocks[split, block] = self.draw(PUBLISHED_BLOCK, split, seed)
        return self._blocks[split, block][row]

    def _numbered(self, split: str, index: Tensor) -> Tasks:
        if split not in SPLITS:
            raise TaskError(f"unknown split '{split}' (valid: {', '.join(SPLITS)})")
        if split not in self.splits:
            raise TaskError(f"{self.name}: has no split '{split}', which needs a sample_tasks(n, split=...)")
        return Tasks({"task": (index + STRIDE * SPLITS.index(split)).float()[:, None]})


class GymnasiumTasks(Environment):
    """N Gymnasium environments with tasks, stepped together.

    Observation: the environment's own, flattened, float32. Action: scaled from [-1, 1] to its Box. Reward term:
    `reward`, its own. Success: `info["success"]`, else `info["is_success"]`, else never. An episode
    that the environment terminates or truncates before the horizon ends there. A reward or observation that is not
    finite ends it too, and is reported in `Step.failed`.

    Every `reset` hands the environments fresh seeds, so a run can be repeated and resumed as far as they draw from
    `self.np_random`. `reset(seed=...)` must work before the first `set_task`, and seed what `sample_tasks` draws from
    (numpy's and Python's global generators are seeded as well).

    Args:
        make: returns one environment, given the options.
        entry: where it comes from, for messages; what follows the last colon or slash names the environment.
        num_simulations: N.
        horizon: control steps per episode; None: the registered `max_episode_steps`.
        vectorization: "sync", or "async": a process for each simulation.
        train_tasks: how many training tasks there are.
        tasks_override: must be empty.
        options: of the environment.
        threads: not used.

    Raises:
        ContractError: if it is not an environment with `sample_tasks` and `set_task`, or its spaces cannot be used.
        EnvsError: for an option that is not allowed.
    """

    success_criterion = "what the environment calls success in its info"

    def __init__(
        self,
        make: Make,
        entry: str,
        num_simulations: int,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        vectorization: str = "sync",
        train_tasks: int = 1000,
        tasks_override: Mapping[str, object] | None = None,
        **options: Any,
    ) -> None:
        if vectorization not in VECTORISATION:
            raise EnvsError(f"vectorization={vectorization}: must be one of {', '.join(VECTORISATION)}")
        if isinstance(train_tasks, bool) or not isinstance(train_tasks, int) or not 1 <= train_tasks <= STRIDE:
            raise EnvsError(f"train_tasks={train_tasks}: must be an integer from 1 to {STRIDE}")
        sampler = _prepared(make(**options), entry)
        distribution = _distribution(sampler, entry, train_tasks).override(tasks_override or {})
        super().__init__(num_simulations, distribution, seed)
        self.name = entry.replace("/", ":").rpartition(":")[2]
        self.horizon = _horizon(sampler, entry, horizon)
        self.observation_size, self.action_size = flatdim(sampler.observation_space), flatdim(sampler.action_space)
        self._action_shape = sampler.action_space.shape or ()
        self.control_period = _period(sampler)
        # Only a lone simulation is filmed: a graphics context for each of many would be too much.
        if num_simulations == 1 and _draws(make, sampler):
            options = options | {"render_mode": "rgb_array"}
        makers = [lambda: _prepared(make(**options), entry)] * num_simulations
        self.vector = VECTORISATION[vectorization](makers, autoreset_mode=AutoresetMode.DISABLED)
        self.elapsed = torch.zeros(num_simulations, dtype=torch.int64)
        self.last_failure: str | None = None
        self._first: Tensor | None = None  # the first reset's observation, until the first step is checked

    def apply_tasks(self) -> None:
        numbers = self.assigned["task"][:, 0].long().tolist()
        assert isinstance(self.distribution, NumberedTasks)
        # They take their task at their next reset: a running episode keeps its own.
        self.vector.set_attr("next_task", [(number, self.distribution.task(number)) for number in numbers])

    def reset(self, mask: Tensor | None = None) -> Tensor:
        if self.tasks is None:
            raise TaskError(f"{self.name}: call set_tasks before reset")
        chosen = torch.ones(self.num_simulations, dtype=torch.bool) if mask is None else mask
        seeds = self.drawn(partial(torch.randint, 2**31 - 1), self.num_simulations).tolist()
        observation, _ = self.vector.reset(seed=seeds, options={"reset_mask": chosen.numpy().copy()})
        self.elapsed[chosen] = 0
        rows = _rows(observation)
        if not self.begun:
            self.begun, self._first = True, rows
        return rows

    def step(self, action: Tensor) -> Step:
        self.require_reset()
        scaled = action.nan_to_num(0.0).clamp(-1.0, 1.0).reshape(-1, *self._action_shape).numpy()
        seen, earned, _, _, info = self.vector.step(scaled)
        self.elapsed += 1
        observation, reward = _rows(seen), torch.from_numpy(np.array(earned, np.float32))
        success, terminated, truncated = (torch.from_numpy(np.array(info[key], bool)) for key in _Simulation.TOLD)
        over = terminated | (truncated & (self.elapsed < self.horizon))
        failed = ~(torch.isfinite(observation).all(-1) & torch.isfinite(reward) & torch.isfinite(action).all(-1))
        first, self._first = self._first, None
        if first is not None:
            check_first_step(self.name, first, observation)
        if failed.any():
            self._report(first is not None, failed, observation, reward, action)
            observation = torch.where(failed[:, None], self.reset(failed), observation)
            reward, success = reward.masked_fill(failed, 0.0), success & ~failed
        feedback = self.felt(reward, lambda: success)
        return Step(observation, reward, {"reward": reward}, success, over | failed, failed, feedback)

    @property
    def privileged_size(self) -> int:
        raise EnvsError(f"{self.name}: a critic cannot see its tasks, which are numbered: agent.critic_sees_task=false")

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        if self.vector.render_mode != "rgb_array":
            reason = "has no render mode 'rgb_array'" if self.num_simulations == 1 else "is drawn only if it is alone"
            raise EnvsError(f"{self.name}: {reason}, so there is no picture of it")
        pictures = self.vector.render()
        assert pictures is not None
        return {"picture": np.array(pictures[simulation], np.uint8)}

    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        from PIL import Image, ImageOps  # only drawing loads it

        return lambda state: np.asarray(ImageOps.pad(Image.fromarray(state["picture"]), (width, height)))

    def _report(self, first: bool, failed: Tensor, observation: Tensor, reward: Tensor, action: Tensor) -> None:
        index = int(failed.nonzero()[0, 0])
        culprit = "the reward" if torch.isfinite(observation[index]).all() else "the observation"
        culprit = culprit if torch.isfinite(action[index]).all() else "the action"
        if first and failed.all() and culprit != "the action":
            raise ContractError(
                f"{self.name}: {culprit} is not finite in all {self.num_simulations} simulations at the first step"
            )
        self.last_failure = self.failure_of(index, f"{culprit} is not finite")


class _Simulation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment: it takes its next task at a reset, and rests between the end of an episode and the next reset.

    Only `info` says that an episode is over, so that Gymnasium's vectors leave the resets to us.
    """

    TOLD: tuple[str, ...] = ("success", "terminated", "truncated")

    def __init__(self, env: gymnasium.Env[Any, Any], entry: str) -> None:
        super().__init__(env)
        self.entry = entry
        self._task: Any = None
        self._next: tuple[int, Any] | None = None
        self._rest: tuple[Any, dict[str, bool]] | None = None

    @property
    def next_task(self) -> tuple[int, Any] | None:
        """Number and task from the next reset on; None: it keeps the one it has."""
        return self._next

    @next_task.setter
    def next_task(self, value: tuple[int, Any]) -> None:
        self._next = value if value[0] != self._task else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self._next is not None:
            self._task, task = self._next
            self._next = None
            explained(self.entry, self.env.get_wrapper_attr("set_task"))(task)
        self._rest = None
        observation, _ = explained(self.entry, self.env.reset)(seed=seed)
        return self._checked(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._rest is not None:
            return self._rest[0], 0.0, False, False, self._rest[1]
        observation, reward, terminated, truncated, info = explained(self.entry, self.env.step)(action)
        success = bool(info.get("success", info.get("is_success", False)))
        told: dict[str, bool] = dict(zip(self.TOLD, (success, bool(terminated), bool(truncated)), strict=True))
        if terminated or truncated:
            self._rest = (observation, told | {"terminated": True})
        return self._checked(observation), float(reward), False, False, told

    def _checked(self, observation: Any) -> Any:
        found, wanted = np.shape(observation), self.observation_space.shape
        if found != wanted:
            raise ContractError(f"{self.entry}: the observation has shape {found}, its space says {wanted}")
        return observation


def _prepared(env: object, entry: str) -> _Simulation:
    """An environment behind the wrappers that make its spaces ours."""
    if not isinstance(env, gymnasium.Env):
        kinds = "neither envs.environment.Environment nor gymnasium.Env"
        raise ContractError(f"{entry}: returned a {type(env).__name__}, which is {kinds}")
    for method in ("sample_tasks", "set_task"):
        if not (env.has_wrapper_attr(method) and callable(env.get_wrapper_attr(method))):
            raise ContractError(f"{entry}: lacks {method}: a task environment has sample_tasks(n) and set_task(task)")
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), Space):
            raise ContractError(f"{entry}: must set {name} to a gymnasium.spaces.Box")
    action, observation = env.action_space, env.observation_space
    if not isinstance(action, Box):
        raise ContractError(f"{entry}: needs actions in a Box, has {action}")
    if not (np.isfinite(action.low).all() and np.isfinite(action.high).all() and (action.low < action.high).all()):
        raise ContractError(f"{entry}: needs actions with finite bounds to scale to, has {action}")
    if not observation.is_np_flattenable:
        raise ContractError(f"{entry}: needs observations that can be flattened, has {observation}")
    if not (np.all(action.low == -1.0) and np.all(action.high == 1.0)):
        one = np.ones(action.shape, action.dtype)
        env = RescaleAction(env, -one, one)
    if not isinstance(observation, Box) or len(observation.shape) != 1:
        env = FlattenObservation(env)
    return _Simulation(env, entry)


def _distribution(sampler: _Simulation, entry: str, count: int) -> NumberedTasks:
    """The tasks that an environment draws."""
    sample = sampler.get_wrapper_attr("sample_tasks")
    splits = "split" in inspect.signature(sample).parameters

    def draw(n: int, split: str, seed: int) -> list[Any]:
        with _global_seed(seed):
            sampler.reset(seed=seed)
            given = explained(entry, sample)(n, split=split) if splits else explained(entry, sample)(n)
        if not isinstance(given, Iterable):
            raise ContractError(f"{entry}: sample_tasks({n}) returned a {type(given).__name__}, not a list of tasks")
        tasks = list(given)
        if len(tasks) != n:
            raise ContractError(f"{entry}: sample_tasks({n}) returned {len(tasks)} tasks")
        return tasks

    distribution = NumberedTasks(entry, draw, count, [split for split in SPLITS if splits or split != "ood"])
    distribution.task(0)  # a mistake shows now, not in the middle of a run
    return distribution


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds the generators that older environments draw from, and puts them back afterwards."""
    before = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


def _horizon(sampler: _Simulation, entry: str, horizon: int | None) -> int:
    steps = horizon if horizon is not None else getattr(sampler.spec, "max_episode_steps", None)
    if steps is None:
        raise EnvsError(f"{entry}: does not say how long an episode is: give env.horizon=<control steps>")
    return steps


def _draws(make: Make, sampler: _Simulation) -> bool:
    """Whether the environment can be asked for the render mode "rgb_array"."""
    arguments = inspect.signature(make).parameters
    takes = "render_mode" in arguments or any(a.kind == a.VAR_KEYWORD for a in arguments.values())
    return takes and "rgb_array" in (sampler.metadata.get("render_modes") or [])


def _period(sampler: _Simulation) -> float:
    fps = sampler.metadata.get("render_fps")
    if fps:
        return 1.0 / float(fps)
    return float(sampler.get_wrapper_attr("dt")) if sampler.has_wrapper_attr("dt") else PERIOD


def _rows(observation: Any) -> Tensor:
    """Observations (N, D) as fresh float32."""
    return torch.from_numpy(np.array(observation, np.float32))
