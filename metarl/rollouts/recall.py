"""Acting one step at a time for somebody else, who says when episodes begin: what is remembered between the calls."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metarl.errors import MetaRLError
from metarl.rollouts.acting import Actor, Choose, Memory


class Group(NamedTuple):
    """Rows of a batch that have come equally far."""

    rows: Tensor  # (g,) int64, their places in the batch
    memory: Memory
    episodes: int  # that have begun in this memory


Recall = tuple[Group, ...]  # of all rows; as it was, whatever comes after


def remember_nothing(actor: Actor, count: int) -> Recall:
    """What `count` rows remember before their first step."""
    return (Group(torch.arange(count), actor.start(count), 0),)


def act(
    actor: Actor,
    recall: Recall,
    observation: Tensor,
    reward: Tensor | None,
    begins: Tensor,
    trial_episodes: int,
    choose: Choose,
) -> tuple[Tensor, Recall]:
    """Clipped actions (n, A) on observations (n, D), and what is remembered after them.

    Args:
        recall: as `remember_nothing` or any earlier call returned it; it stays as it is.
        reward: (n,) of the previous actions; None: not known.
        begins: (n,) bool, where an episode begins.
        trial_episodes: that a policy whose context is a trial remembers together.

    Raises:
        MetaRLError: if a policy with context is not told its reward, or has come to the end of its context.
    """
    actions = torch.zeros(len(observation), actor.policy.action_size)
    after: list[Group] = []
    for group in recall:
        for first in (False, True):
            chosen = begins[group.rows] == first
            if not bool(chosen.any()):
                continue
            rows = group.rows[chosen]
            memory, episodes = _memory(actor, group, chosen, first, trial_episodes)
            earned = torch.zeros(len(rows)) if memory.position == 0 else _earned(actor, reward, rows)
            _check_position(actor, memory, trial_episodes)
            _, memory = actor.decide(memory, observation[rows], earned, first, choose)
            actions[rows] = memory.action
            after.append(Group(rows, memory, episodes))
    return actions, tuple(after)


def _memory(actor: Actor, group: Group, chosen: Tensor, first: bool, trial_episodes: int) -> tuple[Memory, int]:
    """A copy of the memory of those chosen in a group (g,), or a fresh one; and the episodes that it then has begun."""
    in_trial = actor.policy.context == "trial" and group.episodes < trial_episodes
    if first and not (in_trial and group.episodes):
        return actor.start(int(chosen.sum())), 1
    whole = bool(chosen.all())

    def copy(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.clone() if whole else leaf[chosen.to(leaf.device)]

    with torch.inference_mode():
        state, action = tree_map(copy, (group.memory.state, group.memory.action))
    return Memory(state, group.memory.position, action), group.episodes + first


def _earned(actor: Actor, reward: Tensor | None, rows: Tensor) -> Tensor:
    if reward is not None:
        return reward[rows]
    if actor.policy.context == "none":
        return torch.zeros(len(rows))
    raise MetaRLError(
        "this policy reads its task off its rewards: give predict the reward of the last action, reward=...; "
        "Stable-Baselines3's evaluate_policy takes agent.listening()"
    )


def _check_position(actor: Actor, memory: Memory, trial_episodes: int) -> None:
    policy = actor.policy
    if policy.context != "none" and int(memory.position) >= policy.max_length:
        several = policy.context == "trial" and trial_episodes > 1
        what = f"a trial of {trial_episodes} episodes" if several else "an episode"
        remedy = "state=None begins a new one" if several else "begin a new one by episode_start=True or state=None"
        raise MetaRLError(
            f"step {memory.position + 1} is beyond the policy's context of {policy.max_length} steps, {what}: {remedy}"
        )
