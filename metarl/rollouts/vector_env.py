"""Episodes of a Gymnasium vector environment, which presents one task."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.policy import Policy
from envs.core.environment import Step
from metarl.rollouts.acting import Actor, Choose, Parameters, sample
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import Transition, play, summarise


class VectorSimulations:
    """A vector environment as `play` takes it; an episode that is truncated is over too."""

    def __init__(self, env: VectorEnv[Any, Any, Any], horizon: int) -> None:
        self.env, self.num_simulations, self.horizon = env, env.num_envs, horizon

    def reset(self) -> Tensor:
        return _float32(self.env.reset()[0])

    def step(self, action: Tensor) -> Step:
        observation, reward, terminated, truncated, _ = self.env.step(action.clamp(-1.0, 1.0).numpy())
        over = torch.as_tensor(np.asarray(terminated) | np.asarray(truncated))
        unknown = torch.zeros(self.num_simulations, dtype=torch.bool)
        return Step(_float32(observation), _float32(reward), {}, unknown, over, unknown)


@torch.no_grad()
def explore(
    env: VectorEnv[Any, Any, Any],
    policy: Policy,
    adapted: Parameters | None = None,
    *,
    horizon: int,
    episodes: int,
    generator: torch.Generator,
) -> Episodes:
    """At least `episodes` exploring episodes of H = `horizon` steps: Episodes with M = 1, on the policy's device.

    All environments begin together, and rest as soon as the episodes of all are over. They do not tell success: it is
    False.

    Args:
        env: with actions in [-1, 1]; each of its E environments presents the same task.
        adapted: parameters with a leading M = 1; None: the policy's own.
        generator: of the action noise (CPU).
    """
    simulations, actor = VectorSimulations(env, horizon), Actor(policy, adapted, 1)
    choose = partial(sample, generator=generator)
    rounds = [_one_each(simulations, actor, choose) for _ in range(-(-episodes // env.num_envs))]
    beside = [tree_map(lambda *parts: torch.cat(parts), *transitions) for transitions in zip(*rounds, strict=True)]
    return summarise(beside, 1, horizon, policy.device)


def _one_each(simulations: VectorSimulations, actor: Actor, choose: Choose) -> list[Transition]:
    """One episode in each simulation; transitions after the end of all are 0."""
    transitions: list[Transition] = []
    for transition in play(simulations, actor, choose):
        transitions.append(transition)
        if bool(transition.over.all()):
            break
    return transitions + [tree_map(torch.zeros_like, transitions[-1])] * (simulations.horizon - len(transitions))


def _float32(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
