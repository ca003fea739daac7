"""One meta-iteration: sample tasks, collect, adapt, collect, update; and the state from which training goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment
from metarl.algorithms.adaptation import part
from metarl.algorithms.learner import Learner
from metarl.algorithms.nan_search import search_data, search_update, snapshot
from metarl.algorithms.rounds import inner_loop
from metarl.assembly.build import build_environment, build_learners, build_policy, load_policy, stream_seed
from metarl.assembly.device import fitting
from metarl.config.settings import Phase, TrainSettings
from metarl.errors import TrainingError
from metarl.rollouts.episodes import Batch, Episodes
from metarl.rollouts.rollout import collect
from metarl.training.failure import Failure

# Iterations over which the share of skipped updates is taken: a run that breaks late must stop as early as one that
# never worked.
WINDOW = 20
FIRST_SHARE = 0.05  # of a curriculum


def curriculum_share(iteration: int, length: int) -> float:
    """The share of drawn tasks that are trained on, see `TaskDistribution.sample`: grows evenly to 1 in `length`
    iterations, as ranges grow in automatic domain randomisation (Akkaya et al. 2019, arXiv 1910.07113), by a schedule.
    """
    return min(1.0, FIRST_SHARE + (1.0 - FIRST_SHARE) * iteration / length) if length else 1.0


class Trainer:
    """A meta-training run in memory; `state` and `load` make it resumable exactly.

    Args:
        settings: of the run.
        device: of policy, adaptation and meta-gradient. The physics runs on the CPU.
    """

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        seed, phases = settings.seed, settings.phases()
        self.generators = {
            name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("actions", "minibatches")
        }
        sizes = {phase.settings.tasks * phase.settings.episodes for phase in phases}
        self.environments = {
            size: build_environment(settings.env, size, stream_seed(seed, "environment"), settings.threads)
            for size in sorted(sizes)
        }
        env = self.environments[min(sizes)]
        env.distribution.generator.manual_seed(stream_seed(seed, "tasks"))
        self.distribution = env.distribution
        torch.manual_seed(stream_seed(seed, "initialisation"))
        self.policy: Policy = build_policy(settings.agent, env, settings.algo.longest_trial(), device)
        learners = build_learners(phases, self.policy, self.generators["minibatches"])
        self.phases = list(zip(phases, learners, strict=True))
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
            each = learner.rounds * simulations * settings.trial_episodes * self.environments[simulations].horizon
            steps += max(end - here, 0) * each
            here = max(here, end)
        return steps

    def ready_learner(self) -> Learner:
        """The learner of the next iteration, once its learning rate and the policy's attention are set."""
        _, learner = self.phase()
        learner.set_learning_rate(self._within_phase())
        self.policy.set_attention(learner.attention)
        return learner

    def _within_phase(self) -> int:
        """The iterations of the present phase that are done."""
        earlier = [phase.until for phase, _ in self.phases if phase.until is not None and phase.until <= self.iteration]
        return self.iteration - max(earlier, default=0)

    def iterate(self) -> dict[str, float]:
        """One meta-iteration; returns its metrics."""
        learner = self.ready_learner()
        settings = learner.settings
        env = self.environments[settings.tasks * settings.episodes]
        share = curriculum_share(self._within_phase(), settings.curriculum)
        env.set_tasks(self.distribution.sample(settings.tasks, share=share))
        rounds, seconds = self._rollouts(env, learner)
        update_start = time.perf_counter()
        batches = [batch for _, batch in rounds]
        self.policy.critic.rescale(_valid([(batch.target, batch.valid) for batch in batches]))
        start = snapshot(learner)
        metrics = learner.update(batches)
        if lacking := {"updates", "skipped_updates"} - metrics.keys():
            raise TrainingError(f"{type(learner).__name__}.update: its metrics lack {', '.join(sorted(lacking))}")
        self.troubles = [episodes.failure for episodes, _ in rounds if episodes.failure]
        if metrics["skipped_updates"]:
            message = search_update(learner, start, batches).text(_names(env))
            self.failure = Failure(message, self.iteration, _names(env), start, batches)
            self.troubles.append(self.failure.message)
        tokens = _valid([(episodes.tokens, episodes.valid) for episodes, _ in rounds])
        if not self.policy.normaliser.update(tokens):
            self.troubles.append(search_data(learner, batches).text(_names(env)))
        self.iteration += 1
        self.env_steps += sum(episodes.steps for episodes, _ in rounds)
        self.updates += metrics["updates"]
        self.skipped_updates += metrics["skipped_updates"]
        self.recent.append((metrics["updates"], metrics["skipped_updates"]))
        failures = sum(episodes.failures for episodes, _ in rounds)
        whole = failures == sum(episodes.returns.numel() for episodes, _ in rounds)
        self.all_failed = self.all_failed + 1 if whole else 0
        before, after = rounds[0][0], rounds[-1][0]
        return (
            {"iteration": float(self.iteration), "env_steps": float(self.env_steps)}
            | _outcome(before, "before")
            | _outcome(after, "after")
            | metrics
            | {f"term_{term}": float(value.mean()) for term, value in after.terms.items()}
            | {
                "physics_failures": float(failures),
                "rollout_seconds": seconds,
                "update_seconds": time.perf_counter() - update_start,
            }
        )

    def _rollouts(self, env: Environment, learner: Learner) -> tuple[list[tuple[Episodes, Batch]], float]:
        """Rounds of episodes with an inner step between them, and the seconds they took."""
        start = time.perf_counter()
        generator, trial = self.generators["actions"], learner.settings.trial_episodes
        rounds: list[tuple[Episodes, Batch]] = []
        for adapted in inner_loop(learner.adapt, lambda _: rounds[-1][1], learner.rounds - 1):
            episodes = collect(env, self.policy, adapted, generator=generator, trial_episodes=trial)
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


def _names(env: Environment) -> list[str]:
    """All tasks of an environment in words, for messages."""
    assert env.tasks is not None
    return [f"task {index} {env.tasks.describe(index)}" for index in range(len(env.tasks))]


def _valid(rounds: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The entries at the valid steps (n, ...) of all rounds of values (M, E, T, ...) and whether these are valid.

    How many these are an accelerator has to be asked, and that is waited for: once, and not in each round.
    """
    values, valid = zip(*rounds, strict=True)
    return torch.cat([value.flatten(0, 2) for value in values])[torch.cat([each.flatten() for each in valid]) > 0]


def _outcome(episodes: Episodes, when: str) -> dict[str, float]:
    """Before adaptation that is in the first episode of the trials, afterwards in the last."""
    episode = 0 if when == "before" else -1
    return {
        f"success_{when}": float(episodes.success_at_end[..., episode].float().mean()),
        f"success_any_step_{when}": float(episodes.success_any_step[..., episode].float().mean()),
        f"return_{when}": float(episodes.returns[..., episode].mean()),
    }
