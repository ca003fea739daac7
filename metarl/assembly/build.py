"""Build environments, policies and learners from settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.mlp import MLPPolicy
from agents.policy import Critic, Policy
from agents.settings import PolicySettings
from agents.transformer import TransformerPolicy
from envs.core.environment import Environment
from envs.entry import load_entry
from envs.registry import make
from metarl.algorithms.adaptation import part
from metarl.algorithms.in_context import InContext
from metarl.algorithms.learner import Learner
from metarl.algorithms.maml import MAML
from metarl.algorithms.reptile import Reptile
from metarl.config.algorithms import AlgorithmSettings, Phase
from metarl.config.settings import EnvironmentSettings
from metarl.errors import CheckpointError, ConfigError

Base = TypeVar("Base")
LEARNERS: dict[str, type[Learner]] = {
    "maml": MAML,
    "fomaml": MAML,
    "reptile": Reptile,
    "in_context": InContext,
    "multitask": InContext,
}
POLICIES: dict[str, type[Policy]] = {"transformer": TransformerPolicy, "mlp": MLPPolicy}
# Independent random streams are derived from one seed by adding one of these.
STREAMS = {
    "tasks": 0,
    "environment": 1,
    "actions": 2,
    "minibatches": 3,
    "initialisation": 4,
    "evaluation": 5,
    "agent": 6,
    "adaptation": 7,
}


RESERVED = {
    "seed": "an environment's seed follows from that of the run: give seed= in its place",
    "threads": "the run says how many there are: give threads= in its place",
    "num_simulations": "there are as many as a rollout has episodes: give algo.tasks= or algo.episodes= in its place",
    "tasks_override": "give env.tasks in its place",
}


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of the named random streams of a run."""
    return (seed * 1_000_003 + 7_368_787 * (STREAMS[stream] + 1)) % 2**63


def build_environment(settings: EnvironmentSettings, simulations: int, seed: int, threads: int) -> Environment:
    """The environment that settings name, with their task ranges.

    Raises:
        ConfigError: for an option that is not the environment's to take.
        EnvsError: if it does not exist, or does not take an option.
    """
    options = {name: value for name, value in settings.options().items() if name != "tasks"}
    for name in RESERVED.keys() & options.keys():
        raise ConfigError(f"env.{name}={options[name]}: {RESERVED[name]}")
    entry = settings.entry or settings.name
    return make(entry, simulations, seed=seed, threads=threads, tasks_override=dict(settings.tasks), **options)


def build_policy(settings: PolicySettings, env: Environment, trial_episodes: int, device: torch.device) -> Policy:
    """The policy that settings name, for an environment's sizes.

    The weights are drawn from torch's global generator: seed it before.

    Raises:
        ConfigError: if a class of somebody's own is not a policy, or does not take its settings.
        PolicyError: if it cannot be built with them.
    """
    context = getattr(settings, "context", "trial" if settings.remembers() else "none")
    length = env.horizon * (trial_episodes if context == "trial" else 1)
    kind = POLICIES[settings.name] if settings.entry is None else _own("agent", settings.entry, Policy)
    sizes = (env.observation_size, env.action_size)
    options: dict[str, Any] = settings.options() | {"max_length": length}
    if getattr(settings, "critic_sees_task", False):
        options["privileged_size"] = env.privileged_size
    if settings.entry is not None:
        _check_arguments(f"agent={settings.entry}", kind, *sizes, **options)
    policy = kind(*sizes, **options).to(device)
    if not isinstance(getattr(policy, "critic", None), Critic):
        raise ConfigError(f"agent={settings.entry}: must set self.critic to an agents.policy.Critic")
    return policy


def load_policy(policy: Policy, tensors: Mapping[str, Tensor]) -> None:
    """Fill a policy from a checkpoint's tensors.

    Raises:
        RuntimeError: if names or shapes differ.
        CheckpointError: if a value is not finite.
    """
    own = part(tensors, "policy.")
    # Such a policy fails every episode, and failed episodes can have a better return than played ones.
    if broken := [name for name, value in own.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(f"the checkpoint's policy is not finite: {broken[0]}")
    policy.load_state_dict(own)


def build_learners(phases: list[Phase], policy: Policy, generator: torch.Generator) -> list[Learner]:
    """The learner of each phase of a run, all on the same policy.

    Raises:
        ConfigError: if a class of somebody's own is not a learner.
    """

    def build(settings: AlgorithmSettings) -> Learner:
        kind = LEARNERS[settings.name] if settings.entry is None else _own("algo", settings.entry, Learner)
        if settings.entry is not None:
            _check_arguments(f"algo={settings.entry}", kind, policy, settings, generator)
        return kind(policy, settings, generator)

    return [build(phase.settings) for phase in phases]


def _own(group: str, entry: str, base: type[Base]) -> type[Base]:
    """The class of an algorithm or a policy of somebody's own."""
    found = load_entry(entry)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{group}={entry}: is not a subclass of {base.__module__}.{base.__name__}")
    if inspect.isabstract(found):
        raise ConfigError(f"{group}={entry}: lacks the methods {', '.join(sorted(found.__abstractmethods__))}")
    return found


def _check_arguments(what: str, kind: type, *arguments: object, **options: object) -> None:
    """Say in one line which argument a class does not take, or asks for besides."""
    try:
        inspect.signature(kind).bind(*arguments, **options)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}") from None
