"""Episodes that were recorded: adapting on them as if they were played now, and what is left of a collection that was
interrupted.

A recording is a sequence of episodes of one task, or a Minari dataset (its `iterate_episodes`). An episode is a mapping
or an object such as Minari's `EpisodeData`, with arrays:

    observations   (t, D), before each action; what is after the last one may stand there too: (t + 1, D)
    actions        (t, A), best as the policy drew them, before they were clipped
    feedback       (t,), after each action; or `infos["feedback"]`; or `rewards`, of a policy that was fed the reward
    trial          optional, a number: consecutive episodes with the same one share the policy's memory
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.policy import Output, Policy
from agents.token import TokenLayout
from envs.core.environment import Step
from metarl.errors import MetaRLError
from metarl.rollouts.acting import Actor, Parameters
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import Transition, play, summarise


class Recorded(NamedTuple):
    """One episode of t control steps."""

    observations: np.ndarray  # (t, D)
    actions: np.ndarray  # (t, A)
    feedback: np.ndarray  # (t,)


@torch.no_grad()
def replay(
    recording: object,
    policy: Policy,
    adapted: Parameters | None,
    *,
    horizon: int,
    trial_episodes: int = 1,
    fed_the_reward: bool = True,
) -> Episodes:
    """The recorded episodes with what the policy thinks of them (probabilities, values), M = 1, on its device.

    Args:
        adapted: parameters (1, ...); None: the policy's own.
        horizon: H, which no episode may exceed.
        trial_episodes: R episodes that share one memory; the recording's own `trial` says which, else they follow each
            other.

    Raises:
        MetaRLError: if it is not a recording, does not fit the policy, or holds a number that is not finite.
    """
    trials = _trials(recording, policy, horizon, trial_episodes, fed_the_reward)
    past = _Past(trials, horizon, trial_episodes)
    transitions = list(play(past, Actor(policy, adapted, 1), past.choose, trial_episodes))
    return summarise(transitions, 1, horizon, policy.device, fed_the_reward)


def recording_of(trials: Sequence[Sequence[Transition]], layout: TokenLayout, horizon: int) -> list[dict[str, Any]]:
    """The episodes that ended in trials that were played, the last one perhaps in part: transitions of N sequences.

    An episode that was still running is left out. Nobody knows what its last actions would have led to, and learning
    would take its end for theirs.
    """
    recording: list[dict[str, Any]] = []
    count = 0
    for transitions in filter(None, trials):
        tokens, actions, feedback, valid, over = (
            torch.stack([getattr(transition, name).cpu() for transition in transitions], 1)
            for name in ("token", "action", "feedback", "valid", "over")
        )
        for row in range(len(tokens)):
            for start in range(0, len(transitions), horizon):
                there = valid[row, start : start + horizon].bool()
                parts = (layout.observation(tokens), actions, feedback)
                values = [part[row, start : start + horizon][there].numpy() for part in parts]
                ended = len(there) == horizon or bool(over[row, -1])
                if ended and there.any():
                    recording.append(Recorded(*values)._asdict() | {"trial": count})
            count += 1
    return recording


class _Past:
    """Recorded trials side by side, as `play` takes simulations: what is done in them is what was done."""

    def __init__(self, trials: Sequence[Sequence[Recorded]], horizon: int, trial_episodes: int) -> None:
        self.num_simulations, self.horizon = len(trials), horizon
        first = trials[0][0]
        shape = (trial_episodes, horizon, len(trials))
        self._observations = torch.zeros(*shape, first.observations.shape[1])
        self._actions, self._feedback = torch.zeros(*shape, first.actions.shape[1]), torch.zeros(*shape)
        self._lengths = torch.zeros(trial_episodes, len(trials), dtype=torch.int64)  # 0: was not played
        for column, trial in enumerate(trials):
            for row, episode in enumerate(trial):
                length = self._lengths[row, column] = len(episode.actions)
                for whole, part in zip((self._observations, self._actions, self._feedback), episode, strict=True):
                    whole[row, :length, column] = torch.from_numpy(part)
        self._episode, self._t = -1, 0

    def reset(self) -> Tensor:
        self._episode, self._t = self._episode + 1, 0
        return self._observations[self._episode, 0]

    def choose(self, output: Output) -> Tensor:
        """What was done."""
        return self._actions[self._episode, self._t].to(output.mean.device)

    def step(self, action: Tensor) -> Step:
        feedback, length = self._feedback[self._episode, self._t], self._lengths[self._episode]
        self._t += 1
        seen = self._observations[self._episode, min(self._t, self.horizon - 1)]
        unknown = torch.zeros(self.num_simulations, dtype=torch.bool)
        return Step(seen, feedback, {}, unknown, self._t >= length, self._t > length, feedback)

    def privileged(self) -> None:
        """Nobody knows the task."""


def _trials(
    recording: Any, policy: Policy, horizon: int, trial_episodes: int, fed_the_reward: bool
) -> list[list[Recorded]]:
    """The episodes of each trial."""
    listed = recording.iterate_episodes() if hasattr(recording, "iterate_episodes") else recording
    if isinstance(listed, Mapping | str) or not isinstance(listed, Iterable):
        raise MetaRLError(f"a recording is a list of episodes or a Minari dataset, not a {type(recording).__name__}")
    trials: list[list[Recorded]] = []
    for _, members in groupby(enumerate(listed), lambda told: _trial(*told)):
        episodes = [_episode(episode, number, policy, horizon, fed_the_reward) for number, episode in members]
        trials += [episodes[start : start + trial_episodes] for start in range(0, len(episodes), trial_episodes)]
    if not trials:
        raise MetaRLError("the recording has no episodes")
    return trials


def _get(episode: object, name: str) -> Any:
    return episode.get(name) if isinstance(episode, Mapping) else getattr(episode, name, None)


def _trial(number: int, episode: object) -> Any:
    """The number of an episode's trial; None: the recording does not say it."""
    trial = _get(episode, "trial")
    if np.ndim(trial):
        raise MetaRLError(
            f"episode {number} of the recording has a trial of shape {np.shape(trial)}, expected a number"
        )
    return trial


def _episode(episode: object, number: int, policy: Policy, horizon: int, fed_the_reward: bool) -> Recorded:
    infos = _get(episode, "infos")
    found = {
        "observations": _get(episode, "observations"),
        "actions": _get(episode, "actions"),
        "feedback": next(
            (told for told in (_get(episode, "feedback"), _get(infos, "feedback")) if told is not None), None
        ),
    }
    if found["feedback"] is None and fed_the_reward:
        found["feedback"] = _get(episode, "rewards")
    lacking = [name for name, value in found.items() if value is None]
    if len(lacking) == len(found):
        needs = "has no observations, actions and feedback by these names"
        raise MetaRLError(f"episode {number} of the recording, a {type(episode).__name__}, {needs}")
    if lacking:
        meant = lacking == ["feedback"] and _get(episode, "rewards") is not None
        why = ": its rewards are not what this policy was fed" if meant else ""
        raise MetaRLError(f"episode {number} of the recording has no {lacking[0]}{why}")
    try:
        seen, actions, feedback = (np.asarray(value, np.float32) for value in found.values())
    except (TypeError, ValueError) as error:
        raise MetaRLError(f"episode {number} of the recording is not made of arrays: {error}") from None
    length = len(actions) if actions.ndim else 0
    # Minari tells the observation after the last action too, and what `info` was at the reset.
    seen, feedback = (
        value[cut] if value.shape[:1] == (length + 1,) else value
        for value, cut in ((seen, slice(-1)), (feedback, slice(1, None)))
    )
    sizes = ((length, policy.observation_size), (length, policy.action_size), (length,))
    for (name, _), value, size in zip(found.items(), (seen, actions, feedback), sizes, strict=True):
        if value.shape != size:
            raise MetaRLError(f"episode {number} of the recording has {name} of shape {value.shape}, expected {size}")
        if not np.isfinite(value).all():
            raise MetaRLError(f"episode {number} of the recording: {name} is not finite")
    if not 0 < length <= horizon:
        raise MetaRLError(f"episode {number} of the recording has {length} steps, the policy was trained on {horizon}")
    return Recorded(seen, actions, feedback)
