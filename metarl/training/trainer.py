"""The meta-training loop: sample tasks, collect, adapt, collect, update; log, checkpoint, stop at the budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment
from metarl.algorithms.learner import Learner, Settings
from metarl.algorithms.nan_search import find_culprit, find_data_culprit
from metarl.algorithms.rounds import inner_loop
from metarl.assembly.build import (
    ALGORITHMS,
    build_environment,
    build_policy,
    build_settings,
    stream_seed,
)
from metarl.config.settings import longest_trial
from metarl.errors import CheckpointError
from metarl.rollouts.episodes import Batch, Episodes
from metarl.rollouts.rollout import collect

# Iterations over which the share of skipped updates is taken: a run that breaks late must stop as early as one that
# never worked.
WINDOW = 20


class Failure(NamedTuple):
    """An update that was skipped: what was not finite, and all that it takes to compute it again."""

    message: str
    tensors: dict[str, Tensor]  # policy.*, log_rate.* and round.<number>.<field of Batch>
    state: dict[str, Any]  # plain data


class Trainer:
    """A meta-training run in memory; `state` and `load` make it resumable exactly.

    Args:
        config: the resolved configuration with `env`, `agent`, `algo`, `seed` and `threads`.
        device: of policy, adaptation and meta-gradient. The physics runs on the CPU.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        seed = config["seed"]
        algo = config["algo"]
        self.generators = {
            name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("actions", "minibatches")
        }
        warm: dict[str, Any] = algo.get("warm_start") or {}
        phases: list[tuple[str, Settings, int | None]] = [(algo["name"], build_settings(algo), None)]
        if warm.get("iterations"):
            phases.insert(0, (warm["settings"]["name"], build_settings(warm["settings"]), warm["iterations"]))
        sizes = {settings.tasks * settings.episodes for _, settings, _ in phases}
        self.environments = {
            size: build_environment(config["env"], size, stream_seed(seed, "environment"), config["threads"])
            for size in sorted(sizes)
        }
        env = self.environments[min(sizes)]
        env.distribution.generator.manual_seed(stream_seed(seed, "tasks"))
        self.distribution = env.distribution
        torch.manual_seed(stream_seed(seed, "initialisation"))
        self.policy: Policy = build_policy(config["agent"], env, longest_trial(algo), device)
        self.phases: list[tuple[str, Learner, int | None]] = [
            (name, ALGORITHMS[name](self.policy, settings, self.generators["minibatches"]), until)
            for name, settings, until in phases
        ]
        self.iteration = 0
        self.env_steps = 0
        self.updates = 0.0
        self.skipped_updates = 0.0
        self.recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # updates and those skipped, by iteration
        self.failure: Failure | None = None  # the latest
        self.troubles: list[str] = []  # of the last iteration, in words

    @property
    def learner(self) -> Learner:
        """The learner of the algorithm itself, whatever phase training is in."""
        return self.phases[-1][1]

    def phase(self) -> tuple[str, Learner]:
        """The phase that the next iteration belongs to."""
        for name, learner, until in self.phases:
            if until is None or self.iteration < until:
                return name, learner
        raise AssertionError("the last phase has no end")

    def iterate(self) -> dict[str, float]:
        """One meta-iteration; returns its metrics."""
        name, learner = self.phase()
        earlier = [until for *_, until in self.phases if until is not None and until <= self.iteration]
        learner.begin(self.iteration - max(earlier, default=0))
        settings = learner.settings
        env = self.environments[settings.tasks * settings.episodes]
        env.set_tasks(self.distribution.sample(settings.tasks))
        self.policy.set_attention(learner.attention)
        rounds, seconds = self._rollouts(env, learner)
        update_start = time.perf_counter()
        batches = [batch for _, batch in rounds]
        self.policy.critic.rescale(torch.cat([batch.target[batch.valid > 0] for batch in batches]))
        metrics = learner.update(batches)
        self.troubles = [episodes.failure for episodes, _ in rounds if episodes.failure]
        if metrics["skipped_updates"] and learner.skipped is not None:
            self.failure = self._failure(env, learner, batches)
            self.troubles.append(self.failure.message)
        tokens = torch.cat([episodes.tokens[episodes.valid > 0] for episodes, _ in rounds])
        if not self.policy.normaliser.update(tokens):
            self.troubles.append(find_data_culprit(learner, batches).text(_names(env)))
        self.iteration += 1
        self.env_steps += sum(episodes.steps for episodes, _ in rounds)
        self.updates += metrics["updates"]
        self.skipped_updates += metrics["skipped_updates"]
        self.recent.append((metrics["updates"], metrics["skipped_updates"]))
        before, after = rounds[0][0], rounds[-1][0]
        return (
            {"iteration": float(self.iteration), "env_steps": float(self.env_steps)}
            | _outcome(before, "before")
            | _outcome(after, "after")
            | metrics
            | {f"term_{term}": float(value.mean()) for term, value in after.terms.items()}
            | {
                "physics_failures": float(sum(episodes.failures for episodes, _ in rounds)),
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

    def _failure(self, env: Environment, learner: Learner, rounds: Sequence[Batch]) -> Failure:
        """The learner's latest skipped update, with the first thing in it that was not finite."""
        skipped, learner.skipped = learner.skipped, None
        assert skipped is not None
        names = _names(env)
        message = find_culprit(learner, skipped.policy, skipped.log_rates, rounds, skipped.index).text(names)
        tensors = {f"policy.{name}": value for name, value in skipped.policy.items()}
        tensors |= {f"log_rate.{name}": value for name, value in skipped.log_rates.items()}
        for number, batch in enumerate(rounds):
            tensors |= {f"round.{number}.{name}": value for name, value in batch._asdict().items()}
        state = {
            "iteration": self.iteration + 1,
            "message": message,
            "phase": [other for _, other, _ in self.phases].index(learner),
            "rounds": len(rounds),
            "index": None if skipped.index is None else skipped.index.tolist(),
            "tasks": names,
        }
        return Failure(message, tensors, state)

    def skipped_share(self) -> float:
        """The share of the outer updates of the last `WINDOW` iterations that were skipped: something was not finite.

        A run that continues after an interruption begins to count anew.
        """
        return sum(skipped for _, skipped in self.recent) / max(sum(updates for updates, _ in self.recent), 1.0)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the rest of the run depends on: copies of named tensors, and plain numbers."""
        tensors = {f"policy.{name}": value.detach() for name, value in self.policy.state_dict().items()}
        for index, (_, learner, _) in enumerate(self.phases):
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
        try:
            load_policy(self.policy, tensors)
            for index, (_, learner, _) in enumerate(self.phases):
                prefix = f"learner.{index}."
                learner.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            for name, generator in self._all_generators().items():
                generator.set_state(tensors[f"generator.{name}"])
            self.iteration, self.env_steps = int(numbers["iteration"]), int(numbers["env_steps"])
            self.updates, self.skipped_updates = float(numbers["updates"]), float(numbers["skipped_updates"])
        except (LookupError, RuntimeError, TypeError, ValueError, OverflowError) as error:
            text = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint does not fit the run's configuration: {text}") from None

    def begin(self, tensors: Mapping[str, Tensor], env_steps: int) -> None:
        """Start from the policy, with its normaliser, in another run's state; its environment steps count as ours.

        Raises:
            CheckpointError: if the policy does not fit.
        """
        try:
            load_policy(self.policy, tensors)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise CheckpointError(f"its policy does not fit this configuration: {text}") from None
        self.env_steps = env_steps

    def _all_generators(self) -> dict[str, torch.Generator]:
        environments = {f"environment.{size}": env.generator for size, env in self.environments.items()}
        return self.generators | environments | {"tasks": self.distribution.generator}


def load_policy(policy: Policy, tensors: Mapping[str, Tensor]) -> None:
    """Fill a policy from a checkpoint's tensors.

    Raises:
        RuntimeError: if names or shapes differ.
        CheckpointError: if a value is not finite.
    """
    own = {k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")}
    # Such a policy fails every episode, and failed episodes can have a better return than played ones.
    if broken := [name for name, value in own.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(f"the checkpoint's policy is not finite: {broken[0]}")
    policy.load_state_dict(own)


def _names(env: Environment) -> list[str]:
    """All tasks of an environment in words, for messages."""
    assert env.tasks is not None
    return [f"task {index} {env.tasks.describe(index)}" for index in range(len(env.tasks))]


def _outcome(episodes: Episodes, when: str) -> dict[str, float]:
    return {
        f"success_{when}": float(episodes.success_at_end.float().mean()),
        f"success_any_step_{when}": float(episodes.success_any_step.float().mean()),
        f"return_{when}": float(episodes.returns.mean()),
    }
