"""Episodes of a Gymnasium vector environment, which presents one task."""

from __future__ import annotations

from collections.abc import Mapping
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
from metarl.rollouts.presented import OneTask
from metarl.rollouts.rollout import Transition, play, summarise


class VectorSimulations:
    """A vector environment as `play` takes it; an episode that is truncated is over too.

    Once the episodes of all are over they rest until the next reset: to step them would begin episodes that nobody
    sees.

    Args:
        env: with actions in [-1, 1]; each of its N environments presents the same task.
        horizon: H.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], horizon: int) -> None:
        self.env, self.num_simulations, self.horizon = env, env.num_envs, horizon
        self._one_task = OneTask(env)
        self._over = torch.zeros(self.num_simulations, dtype=torch.bool)
        self._last: Step | None = None

    def reset(self) -> Tensor:
        """Start an episode in all; the observation (N, D).

        Raises:
            MetaRLError: if the environment shows that it is not one task.
        """
        observation, info = self.env.reset()
        self._one_task.check(info)
        self._over = torch.zeros_like(self._over)
        return _float32(observation)

    def step(self, action: Tensor) -> Step:
        if self._last is None or not bool(self._over.all()):
            observation, reward, terminated, truncated, info = self.env.step(action.clamp(-1.0, 1.0).numpy())
            felt = _float32(feedback_of(info, np.asarray(reward)))
            over = torch.as_tensor(np.asarray(terminated) | np.asarray(truncated))
            unknown = torch.zeros(self.num_simulations, dtype=torch.bool)
            self._over = self._over | over
            self._last = Step(_float32(observation), felt, {}, unknown, over, unknown, felt)
        return self._last

    def privileged(self) -> None:
        """Nobody knows the task."""


@torch.no_grad()
def explore(
    simulations: VectorSimulations,
    policy: Policy,
    adapted: Parameters | None = None,
    *,
    episodes: int,
    trial_episodes: int = 1,
    fed_the_reward: bool = True,
    generator: torch.Generator,
) -> Episodes:
    """At least `episodes` exploring episodes of H steps: Episodes with M = 1.

    Their reward is the feedback: at deployment nothing else exists. All environments begin together, and rest as soon
    as the episodes of all are over. They do not tell success: it is False.

    Args:
        adapted: parameters with a leading M = 1; None: the policy's own.
        trial_episodes: R episodes that share one context.
        fed_the_reward: whether the policy's feedback in training was the reward.
        generator: of the action noise (CPU).

    Raises:
        MetaRLError: if the environment shows that it is not one task.
    """
    actor, choose = Actor(policy, adapted, 1), partial(sample, generator=generator)
    count = -(-episodes // (simulations.num_simulations * trial_episodes))
    trials = [_trial(simulations, actor, choose, trial_episodes) for _ in range(count)]
    beside = [tree_map(lambda *parts: torch.cat(parts), *transitions) for transitions in zip(*trials, strict=True)]
    return summarise(beside, 1, simulations.horizon, policy.device, fed_the_reward)


def _trial(simulations: VectorSimulations, actor: Actor, choose: Choose, episodes: int) -> list[Transition]:
    """One trial in each simulation; transitions after the end of all in its last episode are 0."""
    horizon = simulations.horizon
    transitions: list[Transition] = []
    for transition in play(simulations, actor, choose, episodes):
        transitions.append(transition)
        if len(transitions) > (episodes - 1) * horizon and bool(transition.over.all()):
            break
    return transitions + [tree_map(torch.zeros_like, transitions[-1])] * (episodes * horizon - len(transitions))


def feedback_of(info: Mapping[str, Any], reward: np.ndarray) -> np.ndarray:
    """What each of N environments lets its robot sense (N,): `info["feedback"]` where it is told, else the reward (N,).

    Args:
        info: of a vector environment's step.
    """
    felt = np.array(reward, np.float32)
    # The info of an episode that ended is in `final_info`: what stands beside it may be the next one's.
    for told in (info, info.get("final_info")):
        if isinstance(told, Mapping) and "feedback" in told:
            known = np.asarray(told.get("_feedback", np.ones(len(felt), bool)), bool)
            felt[known] = np.asarray(told["feedback"], np.float32)[known]
    return felt


def _float32(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
