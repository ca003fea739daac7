"""Episodes of a Gymnasium vector environment, which presents one task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.policy import Output, Policy
from envs.core.environment import Step
from metarl.rollouts.acting import Actor, Choose, Parameters
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import Moment, play, summarise


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
    """At least `episodes` episodes of H = `horizon` steps with sampled actions, as Episodes with M = 1.

    Success is unknown (False). When all are over, their environment rests until the next reset.
    """
    simulations, actor = VectorSimulations(env, horizon), Actor(policy, adapted, 1)

    def choose(output: Output) -> Tensor:
        return sample(output, generator)

    rounds = [_one_each(simulations, actor, choose) for _ in range(-(-episodes // env.num_envs))]
    beside = [tree_map(lambda *parts: torch.cat(parts), *moments) for moments in zip(*rounds, strict=True)]
    return summarise(beside, 1, horizon, policy.device)


def sample(output: Output, generator: torch.Generator | None = None) -> Tensor:
    """Actions (N, A) drawn by `generator`; None: by torch's own, on the output's device."""
    device = output.mean.device
    noise = torch.randn(output.mean.shape, generator=generator, device=generator.device if generator else device)
    return output.mean + noise.to(device) * torch.exp(output.log_std)


def _one_each(simulations: VectorSimulations, actor: Actor, choose: Choose) -> list[Moment]:
    """One episode in each simulation; moments after the end of all are 0."""
    moments: list[Moment] = []
    for moment in play(simulations, actor, choose):
        moments.append(moment)
        if bool(moment.over.all()):
            break
    return moments + [tree_map(torch.zeros_like, moments[-1])] * (simulations.horizon - len(moments))


def _float32(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
