"""One meta-iteration: sample tasks, collect, adapt, collect, update; and the state from which training goes on."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment, Part
from envs.core.tasks import Tasks
from metarl.algorithms.adaptation import part
from metarl.algorithms.learner import Learner
from metarl.algorithms.nan_search import search_data, search_update, snapshot
from metarl.algorithms.rounds import inner_loop
from metarl.algorithms.threads import cores
from metarl.assembly.build import build_environment, build_learners, build_policy, load_policy, stream_seed
from metarl.assembly.device import fitting
from metarl.config.algorithms import AlgorithmSettings, Phase
from metarl.config.settings import TrainSettings
from metarl.distributed import ALONE, Ranks
from metarl.errors import ConfigError, TrainingError
from metarl.rollouts.episodes import Batch, Episodes
from metarl.rollouts.rollout import collect
from metarl.training.failure import Failure
from metarl.training.replay import Replay

# Iterations over which the share of skipped updates is taken: a run that breaks late must stop as early as one that
# never worked.
WINDOW = 20
NARROWEST = 0.15  # of the width of each range, where a curriculum begins


def curriculum_width(iteration: int, length: int) -> float:
    """How much of each semantic range is trained on, see `TaskDistribution.sample`: grows evenly to 1 in `length`
    iterations, as ranges grow in automatic domain randomisation (Akkaya et al. 2019, arXiv 1910.07113), by a schedule.
    """
    return min(1.0, NARROWEST + (1.0 - NARROWEST) * iteration / length) if length else 1.0


def shares(phases: Sequence[AlgorithmSettings], ranks: Ranks) -> dict[int, range]:
    """The simulations of this process among all: by how many these are, for each such number that a phase has.

    Whole tasks of every phase go to one process.

    Raises:
        ConfigError: if a process would have none.
    """
    grains: dict[int, int] = {}
    for phase in phases:
        size = phase.tasks * phase.episodes
        grains[size] = math.lcm(grains.get(size, 1), phase.episodes)
    for size, grain in grains.items():
        if size // grain < ranks.size:
            most = f"{size} simulations, {grain} at least for each process"
            raise ConfigError(f"{ranks.size} processes cannot share {most}: start fewer, or set a larger algo.tasks")
    own = {size: ranks.share(size // grain) for size, grain in grains.items()}
    return {size: range(part.start * grains[size], part.stop * grains[size]) for size, part in own.items()}


class Trainer:
    """A meta-training run in memory; `state` and `load` make it resumable exactly.

    Args:
        settings: of the run.
        device: of policy, adaptation and meta-gradient. The physics runs on the CPU.
        ranks: the processes that share the tasks; each draws the random numbers of all, and keeps those of its own.

    Raises:
        ConfigError: if there are more processes than tasks.
    """

    def __init__(self, settings: TrainSettings, device: torch.device, ranks: Ranks = ALONE) -> None:
        seed, phases, self.ranks = settings.seed, settings.phases(), ranks
        self.generators = {
            name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("actions", "minibatches")
        }
        threads = settings.threads or (cores() if ranks.size > 1 else 0)
        self.environments: dict[int, Environment] = {}  # by the simulations that all processes have together
        for size, own in sorted(shares([phase.settings for phase in phases], ranks).items()):
            env = build_environment(settings.env, len(own), stream_seed(seed, "environment"), threads)
            env.part = Part(own.start, size)
            self.environments[size] = env
        env = self.environments[min(self.environments)]
        env.distribution.generator.manual_seed(stream_seed(seed, "tasks"))
        self.distribution = env.distribution
        torch.manual_seed(stream_seed(seed, "initialisation"))
        self.policy: Policy = build_policy(settings.agent, env, settings.algo.longest_trial(), device)
        learners = build_learners(phases, self.policy, self.generators["minibatches"])
        for learner in learners:
            learner.ranks = ranks
        self.phases = list(zip(phases, learners, strict=True))
        self.replay = Replay(max(phase.settings.tasks for phase in phases))
        self.iteration = 0
        self.env_steps = 0
        self.updates = 0.0
        self.skipped_updates = 0.0
        self.recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # updates and those skipped, by iteration
        self.all_failed = 0  # iterations, up to the present one, in which every episode failed
        self.failure: Failure | None = None  # the latest
        self.troubles: list[str] = []  # of the last iteration, in words

    @property
    def learner(self) -> Learner:
        """The learner of the algorithm itself, whatever phase training is in."""
        return self.phases[-1][1]

    def phase(self) -> tuple[Phase, Learner]:
        """The phase that the next iteration belongs to."""
        return next(each for each in self.phases if each[0].until is None or self.iteration < each[0].until)

    def steps_at(self, iteration: int) -> int:
        """The environment steps that will be counted when an iteration to come begins."""
        steps, here = self.env_steps, self.iteration
        for phase, learner in self.phases:
            settings, end = phase.settings, min(iteration, phase.until or iteration)
            simulations = settings.tasks * settings.episodes
            env = self.environments[simulations]
            each = learner.rounds * simulations * settings.trial_episodes * env.horizon * env.action_repeat
            steps += max(end - here, 0) * each
            here = max(here, end)
        return steps

    def ready_learner(self) -> Learner:
        """The learner of the next iteration, once its learning rate and the policy's attention are set."""
        _, learner = self.phase()
        learner.set_learning_rate(self._within_phase())
        self.policy.set_attention(learner.attention)
        return learner

    def width(self) -> float:
        """How much of each semantic range the next iteration trains on: 1 where no curriculum narrows it."""
        return curriculum_width(self._within_phase(), self.phase()[1].settings.curriculum)

    def _within_phase(self) -> int:
        """The iterations of the present phase that are done."""
        earlier = [phase.until for phase, _ in self.phases if phase.until is not None and phase.until <= self.iteration]
        return self.iteration - max(earlier, default=0)

    def iterate(self) -> dict[str, float]:
        """One meta-iteration; returns its metrics."""
        learner = self.ready_learner()
        settings = learner.settings
        env = self.environments[settings.tasks * settings.episodes]
        tasks = self.distribution.sample(settings.tasks, width=self.width())
        if settings.replay:
            tasks = self.replay.mix(tasks, settings.replay, self.distribution.generator)
        env.set_tasks(self._own(tasks, env))
        rounds, seconds = self._rollouts(env, learner)
        update_start = time.perf_counter()
        batches = [batch for _, batch in rounds]
        targets = _valid([(batch.target, batch.valid) for batch in batches])
        self.policy.critic.rescale(targets, self.ranks.moments)
        start = snapshot(learner)
        metrics = self._update(learner, batches)
        tokens = _valid([(episodes.tokens, episodes.valid) for episodes, _ in rounds])
        seen = self.policy.normaliser.update(tokens, self.ranks.moments)
        failures = self._count([episodes for episodes, _ in rounds], env)
        if metrics["skipped_updates"] or not seen:
            names, whole = self._names(env), self._of_all(batches)
            if metrics["skipped_updates"]:
                message = search_update(learner, start, whole).text(names)
                self.failure = Failure(message, self.iteration, names, start, whole)
                self.troubles.append(message)
            if not seen:
                self.troubles.append(search_data(learner, whole).text(names))
        self.iteration += 1
        self.updates += metrics["updates"]
        self.skipped_updates += metrics["skipped_updates"]
        self.recent.append((metrics["updates"], metrics["skipped_updates"]))
        before, after = rounds[0][0], rounds[-1][0]
        if settings.replay:
            failed = _failed([episodes for episodes, _ in rounds])
            self.replay.note(tasks, self.ranks.whole(failed[:, None])[:, 0])
        outcome = _outcome(before, "before") | _outcome(after, "after")
        terms = {f"term_{term}": float(value.mean()) for term, value in after.terms.items()}
        means = self._means(outcome | terms, len(after.returns))
        return (
            {"iteration": float(self.iteration), "env_steps": float(self.env_steps)}
            | {name: means[name] for name in outcome}
            | metrics
            | {name: means[name] for name in terms}
            | {
                "physics_failures": float(failures),
                "rollout_seconds": seconds,
                "update_seconds": time.perf_counter() - update_start,
            }
        )

    def _own(self, tasks: Tasks, env: Environment) -> Tasks:
        """This process' part of tasks."""
        each = env.part.whole // len(tasks)
        start = env.part.first // each
        return tasks.select(slice(start, start + env.num_simulations // each))

    def _of_all(self, batches: Sequence[Batch]) -> list[Batch]:
        """The data of the tasks of all processes."""
        return [self.ranks.whole(batch) for batch in batches]

    def _names(self, env: Environment) -> list[str]:
        """The tasks of all processes in words, for messages."""
        assert env.tasks is not None
        each = env.num_simulations // len(env.tasks)
        own = [env.task_of(each * m) for m in range(len(env.tasks))]
        return [name for names in self.ranks.told(own) for name in names]

    def _update(self, learner: Learner, batches: Sequence[Batch]) -> dict[str, float]:
        """Let a learner update on the data of this process' tasks; one that knows of no others, on those of all."""
        if learner.shares_tasks:
            metrics = learner.update(batches)
        else:
            with learner.alone():
                metrics = learner.update(self._of_all(batches))
        self.policy.keep_in_range()
        if lacking := {"updates", "skipped_updates"} - metrics.keys():
            raise TrainingError(f"{type(learner).__name__}.update: its metrics lack {', '.join(sorted(lacking))}")
        return metrics

    def _count(self, rounds: Sequence[Episodes], env: Environment) -> int:
        """Count the steps and the failed episodes of all processes, and note the failures; returns their number."""
        here = [(episodes.steps, episodes.failures, episodes.returns.numel()) for episodes in rounds]
        counts = self.ranks.total(torch.tensor(here, dtype=torch.float64).sum(0))
        steps, failures, played = (int(count) for count in counts.tolist())
        self.env_steps += steps * env.action_repeat
        self.all_failed = self.all_failed + 1 if failures == played else 0
        self.troubles = []
        if failures:
            told = self.ranks.told([episodes.failure for episodes in rounds if episodes.failure])
            self.troubles = [failure for failures in told for failure in failures]
            # A simulation that failed was reset, with numbers that only its own process drew.
            env.generator.set_state(self.ranks.from_first(env.generator.get_state()))
        return failures

    def _means(self, values: Mapping[str, float], tasks: int) -> dict[str, float]:
        """Means over this process' tasks, so many of them, to those over all."""
        numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        return {name: float(mean) for name, mean in self.ranks.mean(numbers, tasks).items()}

    def _rollouts(self, env: Environment, learner: Learner) -> tuple[list[tuple[Episodes, Batch]], float]:
        """Rounds of episodes with an inner step between them, and the seconds they took."""
        start = time.perf_counter()
        settings, generator = learner.settings, self.generators["actions"]
        rounds: list[tuple[Episodes, Batch]] = []
        for adapted in inner_loop(learner.adapt, lambda _: rounds[-1][1], learner.rounds - 1):
            episodes = collect(
                env,
                self.policy,
                adapted,
                generator=generator,
                trial_episodes=settings.trial_episodes,
                observation_offset=settings.observation_offset,
            )
            rounds.append((episodes, learner.prepare(episodes)))
        return rounds, time.perf_counter() - start

    def skipped_share(self) -> float:
        """The share of the outer updates of the last `WINDOW` iterations that were skipped: something was not finite.

        A run that continues after an interruption begins to count anew.
        """
        return sum(skipped for _, skipped in self.recent) / max(sum(updates for updates, _ in self.recent), 1.0)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the rest of the run depends on: copies of named tensors, and plain numbers."""
        tensors = {f"policy.{name}": value.detach() for name, value in self.policy.state_dict().items()}
        for index, (_, learner) in enumerate(self.phases):
            tensors |= {f"learner.{index}.{name}": value for name, value in learner.state().items()}
        for name, generator in self._all_generators().items():
            tensors[f"generator.{name}"] = generator.get_state()
        tensors |= {f"replay.{name}": value for name, value in self.replay.failed.items()}
        numbers = {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "skipped_updates": self.skipped_updates,
        }
        return {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}, numbers

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continue from a `state`.

        Raises:
            CheckpointError: if it belongs to another configuration.
        """
        with fitting("the checkpoint does not fit the run's configuration"):
            load_policy(self.policy, tensors)
            for index, (_, learner) in enumerate(self.phases):
                learner.load(part(tensors, f"learner.{index}."))
            for name, generator in self._all_generators().items():
                generator.set_state(tensors[f"generator.{name}"])
            self.replay.failed = part(tensors, "replay.")
            self.iteration, self.env_steps = int(numbers["iteration"]), int(numbers["env_steps"])
            self.updates, self.skipped_updates = float(numbers["updates"]), float(numbers["skipped_updates"])

    def take_policy(self, tensors: Mapping[str, Tensor], env_steps: int) -> None:
        """Start from the policy, with its normaliser, in another run's state; its environment steps count as ours.

        Raises:
            CheckpointError: if the policy does not fit.
        """
        with fitting("its policy does not fit this configuration"):
            load_policy(self.policy, tensors)
        self.env_steps = env_steps

    def _all_generators(self) -> dict[str, torch.Generator]:
        environments = {f"environment.{size}": env.generator for size, env in self.environments.items()}
        return self.generators | environments | {"tasks": self.distribution.generator}


def _valid(rounds: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The entries at the valid steps (n, ...) of all rounds of values (M, E, T, ...) and whether these are valid.

    How many these are an accelerator has to be asked, and that is waited for: once, and not in each round.
    """
    values, valid = zip(*rounds, strict=True)
    return torch.cat([value.flatten(0, 2) for value in values])[torch.cat([each.flatten() for each in valid]) > 0]


def _failed(rounds: Sequence[Episodes]) -> Tensor:
    """The tasks (M,) bool in which the policy failed at last; where the physics did, it is not to blame."""
    solved = rounds[-1].success_at_end[..., -1].float().mean(1)
    broken = torch.stack([episodes.broken.flatten(1).any(1) for episodes in rounds]).any(0)
    return (solved < 0.5) & ~broken


def _outcome(episodes: Episodes, when: str) -> dict[str, float]:
    """Before adaptation that is in the first episode of the trials, afterwards in the last."""
    episode = 0 if when == "before" else -1
    return {
        f"success_{when}": float(episodes.success_at_end[..., episode].float().mean()),
        f"success_any_step_{when}": float(episodes.success_any_step[..., episode].float().mean()),
        f"return_{when}": float(episodes.returns[..., episode].mean()),
    }
