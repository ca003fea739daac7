"""The meta-training loop: sample tasks, collect, adapt, collect, update; log, checkpoint, stop at the budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agents.policy import Policy
from envs.environment import Environment
from metarl.adaptation import Parameters
from metarl.assembly import (
    ALGORITHMS,
    build_environment,
    build_policy,
    build_settings,
    stream_seed,
)
from metarl.episodes import Batch, Episodes
from metarl.errors import CheckpointError
from metarl.learner import Learner, Settings
from metarl.rollout import collect


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
        trial = max(settings.trial_episodes for _, settings, _ in phases)
        sizes = {settings.tasks * settings.episodes for _, settings, _ in phases}
        self.environments = {
            size: build_environment(config["env"], size, stream_seed(seed, "environment"), config["threads"])
            for size in sorted(sizes)
        }
        env = self.environments[min(sizes)]
        env.distribution.generator.manual_seed(stream_seed(seed, "tasks"))
        self.distribution = env.distribution
        torch.manual_seed(stream_seed(seed, "initialisation"))
        self.policy: Policy = build_policy(config["agent"], env, trial, device)
        self.phases: list[tuple[str, Learner, int | None]] = [
            (name, ALGORITHMS[name](self.policy, settings, self.generators["minibatches"]), until)
            for name, settings, until in phases
        ]
        self.iteration = 0
        self.env_steps = 0
        self.updates = 0.0
        self.skipped_updates = 0.0

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
        settings = learner.settings
        env = self.environments[settings.tasks * settings.episodes]
        env.set_tasks(self.distribution.sample(settings.tasks))
        self.policy.set_attention(learner.attention)
        rounds, seconds = self._rollouts(env, learner)
        update_start = time.perf_counter()
        metrics = learner.update([batch for _, batch in rounds])
        tokens = torch.cat([episodes.tokens[episodes.valid > 0] for episodes, _ in rounds])
        self.policy.normaliser.update(tokens)
        self.iteration += 1
        self.env_steps += sum(episodes.steps for episodes, _ in rounds)
        self.updates += metrics["updates"]
        self.skipped_updates += metrics["skipped_updates"]
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
        rounds: list[tuple[Episodes, Batch]] = []
        adapted: Parameters | None = None
        for number in range(learner.rounds):
            episodes = collect(
                env,
                self.policy,
                adapted,
                generator=self.generators["actions"],
                trial_episodes=learner.settings.trial_episodes,
            )
            rounds.append((episodes, learner.prepare(episodes)))
            if number < learner.rounds - 1:
                adapted = learner.adapt(adapted, rounds[-1][1])
        return rounds, time.perf_counter() - start

    def skipped_share(self) -> float:
        """The share of outer updates that were skipped so far because a gradient was not finite."""
        return self.skipped_updates / max(self.updates, 1.0)

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

    def _all_generators(self) -> dict[str, torch.Generator]:
        environments = {f"environment.{size}": env.generator for size, env in self.environments.items()}
        return self.generators | environments | {"tasks": self.distribution.generator}


def load_policy(policy: Policy, tensors: Mapping[str, Tensor]) -> None:
    """Fill a policy from a checkpoint's tensors.

    Raises:
        RuntimeError: if names or shapes differ.
    """
    policy.load_state_dict({k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")})


def _outcome(episodes: Episodes, when: str) -> dict[str, float]:
    return {
        f"success_{when}": float(episodes.success_at_end.float().mean()),
        f"success_any_step_{when}": float(episodes.success_any_step.float().mean()),
        f"return_{when}": float(episodes.returns.mean()),
    }
