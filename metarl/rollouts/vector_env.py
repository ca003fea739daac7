"""Episodes of a Gymnasium vector environment, which presents one task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.policy import Policy
from envs.core.environment import Step
from metarl.errors import CollectionStopped, MetaRLError, NotFiniteError
from metarl.rollouts.acting import Actor, Choose, Parameters, sample
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.presented import OneTask
from metarl.rollouts.recorded import recording_of
from metarl.rollouts.rollout import Transition, play, summarise

Watch = Callable[[int, int, float], None]  # number of an episode from 1, how many there will be, its feedback in sum


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
            MetaRLError: if the environment shows that it is not one task. NotFiniteError: if a number is not finite.
        """
        observation, info = self.env.reset()
        self._one_task.check(info)
        self._over, self._last = torch.zeros_like(self._over), None
        return self._finite("observation", _float32(observation), self._over)

    def step(self, action: Tensor) -> Step:
        """Raises NotFiniteError for what is not finite in an episode that goes on: no action is chosen by it."""
        if self._last is None or not bool(self._over.all()):
            self._reset_what_ended()
            observation, reward, terminated, truncated, info = self.env.step(action.clamp(-1.0, 1.0).numpy())
            over = torch.as_tensor(np.asarray(terminated) | np.asarray(truncated))
            unknown = torch.zeros(self.num_simulations, dtype=torch.bool)
            failed = torch.as_tensor(np.asarray(info.get("failed", unknown), bool))  # an environment may say so
            felt = self._finite("feedback", _float32(feedback_of(info, np.asarray(reward))), self._over | failed)
            self._over = self._over | over | failed
            seen = self._finite("observation", _float32(observation), self._over)
            self._last = Step(seen, felt, {}, unknown, over, failed, felt)
        return self._last

    def _reset_what_ended(self) -> None:
        """Where the environment never does: it cannot be stepped with some of its episodes over."""
        by_hand = self.env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
        if by_hand and self._last is not None and bool(self._last.terminated.any()):
            self.env.reset(options={"reset_mask": self._last.terminated.numpy()})

    def _finite(self, name: str, value: Tensor, over: Tensor) -> Tensor:
        """The value (N, ...), which has to be finite unless an episode is `over`, (N,); there it is 0 if it is not."""
        bad = ~torch.isfinite(value.flatten(1) if value.dim() > 1 else value[:, None]).all(-1)
        if bool((bad & ~over).any()):
            raise NotFiniteError(f"the {name} is not finite in environment {int((bad & ~over).nonzero()[0, 0])}")
        return value.masked_fill(bad.view(-1, *[1] * (value.dim() - 1)), 0.0)

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
    watch: Watch | None = None,
) -> Episodes:
    """At least `episodes` exploring episodes of H steps: Episodes with M = 1.

    Their reward is the feedback: at deployment nothing else exists. All environments begin together, and rest as soon
    as the episodes of all are over. They do not tell success: it is False.

    Args:
        adapted: parameters with a leading M = 1; None: the policy's own.
        trial_episodes: R episodes that share one context.
        fed_the_reward: whether the policy's feedback in training was the reward.
        generator: of the action noise (CPU).
        watch: called where an episode has ended.

    Raises:
        MetaRLError: if the environment shows that it is not one task.
        NotFiniteError: if its first observation or feedback is not finite.
        CollectionStopped: with the episodes that had ended, after an exception of the environment, a number that is not
            finite, or Ctrl-C.
    """
    actor, choose = Actor(policy, adapted, 1), partial(sample, generator=generator)
    count = -(-episodes // (simulations.num_simulations * trial_episodes))
    trials: list[list[Transition]] = []
    done = itertools.count(1)
    try:
        for _ in range(count):
            trials.append([])
            for transition in _trial(simulations, actor, choose, trial_episodes):
                trials[-1].append(transition)
                if watch is not None:
                    for felt in _ended(trials[-1], simulations.horizon):
                        watch(next(done), count * simulations.num_simulations * trial_episodes, felt)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, MetaRLError) and not isinstance(error, NotFiniteError):
            raise
        recording = recording_of(trials, policy.layout, simulations.horizon)
        steps, reason = int(sum(step.valid.sum() for trial in trials for step in trial)), type(error).__name__
        what = f"collecting was stopped after {steps} steps by {reason}: {error}".removesuffix(": ")
        remedy = "; adapt(episodes=error.recording) learns from the episodes that had ended" if recording else ""
        raise CollectionStopped(f"{what}{remedy}", recording) from error
    length = trial_episodes * simulations.horizon
    full = [trial + [tree_map(torch.zeros_like, trial[-1])] * (length - len(trial)) for trial in trials]
    beside = [tree_map(lambda *parts: torch.cat(parts), *transitions) for transitions in zip(*full, strict=True)]
    return summarise(beside, 1, simulations.horizon, policy.device, fed_the_reward)


def _trial(simulations: VectorSimulations, actor: Actor, choose: Choose, episodes: int) -> Iterator[Transition]:
    """One trial in each simulation, up to the end of all in its last episode."""
    for t, transition in enumerate(play(simulations, actor, choose, episodes), 1):
        yield transition
        if t > (episodes - 1) * simulations.horizon and bool(transition.over.all()):
            return


def _ended(trial: Sequence[Transition], horizon: int) -> Iterator[float]:
    """The feedback, in sum, of each episode that has ended in the last step of a trial."""
    episode = trial[(len(trial) - 1) // horizon * horizon :]
    now = torch.ones_like(episode[-1].over) if len(episode) == horizon else episode[-1].over
    before = episode[-2].over if len(episode) > 1 else torch.zeros_like(now)
    if bool((now & ~before).any()):
        yield from torch.stack([transition.feedback for transition in episode]).sum(0)[now & ~before].tolist()


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
