"""Build environments, policies and learners from settings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from agents.mlp import MLPPolicy
from agents.policy import Policy
from agents.settings import Chosen, PolicySettings
from agents.transformer import TransformerPolicy
from envs.core.environment import Environment
from envs.entry import load_entry
from envs.registry import make
from metarl.algorithms.in_context import InContext
from metarl.algorithms.learner import Learner
from metarl.algorithms.maml import MAML
from metarl.algorithms.reptile import Reptile
from metarl.config.settings import EnvironmentSettings, Phase
from metarl.errors import CheckpointError, ConfigError

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
}


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of the named random streams of a run."""
    return (seed * 1_000_003 + 7_368_787 * (STREAMS[stream] + 1)) % 2**63


def build_environment(settings: EnvironmentSettings, simulations: int, seed: int, threads: int) -> Environment:
    """The environment that settings name, with their task ranges.

    Raises:
        EnvsError: if it does not exist, or does not take an option.
    """
    options = {name: value for name, value in settings.options().items() if name != "tasks" and value is not None}
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
    kind = _class_of(settings, "agent", POLICIES, Policy)
    try:
        return kind(env.observation_size, env.action_size, max_length=length, **settings.options()).to(device)
    except TypeError as error:
        if settings.entry is None or "unexpected keyword" not in str(error):
            raise
        raise ConfigError(f"agent={settings.entry}: {str(error).split('() ')[-1]}") from None


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


def build_learners(phases: list[Phase], policy: Policy, generator: torch.Generator) -> list[Learner]:
    """The learner of each phase of a run, all on the same policy.

    Raises:
        ConfigError: if a class of somebody's own is not a learner.
    """
    return [_class_of(phase.settings, "algo", LEARNERS, Learner)(policy, phase.settings, generator) for phase in phases]


def _class_of(settings: Chosen, group: str, known: dict[str, type], base: type) -> type:
    if settings.entry is None:
        return known[settings.name]
    found = load_entry(settings.entry)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{group}={settings.entry}: is not a subclass of {base.__module__}.{base.__name__}")
    return found
