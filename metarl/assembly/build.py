"""Build environments, policies and learners from a resolved configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from agents.mlp import MLPPolicy
from agents.policy import Policy
from agents.transformer import TransformerPolicy
from envs.core.environment import Environment
from envs.registry import make
from metarl.algorithms.in_context import InContext
from metarl.algorithms.learner import Build, Inner, Outer, Settings
from metarl.algorithms.maml import MAML
from metarl.algorithms.reptile import Reptile
from metarl.errors import ConfigError

ALGORITHMS: dict[str, Build] = {
    "maml": MAML,
    "fomaml": MAML,
    "reptile": Reptile,
    "in_context": InContext,
    "multitask": InContext,
}
POLICIES: dict[str, type[Policy]] = {"transformer": TransformerPolicy, "mlp": MLPPolicy}
# Independent random streams are derived from one seed by adding one of these.
STREAMS = {"tasks": 0, "environment": 1, "actions": 2, "minibatches": 3, "initialisation": 4, "evaluation": 5}


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of the named random streams of a run."""
    return (seed * 1_000_003 + 7_368_787 * (STREAMS[stream] + 1)) % 2**63


def build_environment(config: Mapping[str, Any], simulations: int, seed: int, threads: int) -> Environment:
    """The environment of `config` (its `env` part), with task ranges overridden as it says.

    An `entry` is the place of an environment of the user's own; the name is then only what its runs are called.
    """
    options = dict(config)
    name, entry, overrides = options.pop("name"), options.pop("entry", None), options.pop("tasks", None)
    return make(entry or name, simulations, seed=seed, threads=threads, tasks_override=dict(overrides or {}), **options)


def build_policy(config: Mapping[str, Any], env: Environment, trial_episodes: int, device: torch.device) -> Policy:
    """The policy of `config` (its `agent` part) for an environment's sizes.

    The weights are drawn from torch's global generator: seed it before.

    Raises:
        ConfigError: for a setting that does not exist.
    """
    options = dict(config)
    name = options.pop("name")
    episodes = trial_episodes if options.get("context") == "trial" else 1
    length = env.horizon * episodes
    try:
        return POLICIES[name](env.observation_size, env.action_size, max_length=length, **options).to(device)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ConfigError(f"agent: {str(error).split('() ')[-1]}") from None


def build_settings(config: Mapping[str, Any]) -> Settings:
    """Algorithm settings from the `algo` part of a configuration.

    Raises:
        ConfigError: for a setting that does not exist.
    """
    options = {key: value for key, value in config.items() if key not in ("name", "warm_start")}
    try:
        inner, outer = Inner(**options.pop("inner", {})), Outer(**options.pop("outer", {}))
        return Settings(inner=inner, outer=outer, **options)
    except TypeError as error:
        raise ConfigError(f"algo: {str(error).split('() ')[-1]}") from None
