"""Acting one step at a time for somebody else, who says when episodes begin: what is remembered between the calls."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metarl.errors import MetaRLError
from metarl.rollouts.acting import Actor, Choose, Memory


class Group(NamedTuple):
    """Rows of a batch that have come equally far."""

    rows: np.ndarray  # (g,) int64, their places in the batch, ascending
    memory: Memory
    episodes: int  # that have begun in this memory


Recall = tuple[Group, ...]  # of all rows; as it was, whatever comes after


def remember_nothing(actor: Actor, count: int) -> Recall:
    """What `count` rows remember before their first step."""
    return (Group(np.arange(count), actor.start(count), 0),)


def act(
    actor: Actor,
    recall: Recall,
    observation: np.ndarray,
    feedback: np.ndarray | None,
    begins: np.ndarray,
    trial_episodes: int,
    choose: Choose,
) -> tuple[np.ndarray, Recall]:
    """Clipped actions (n, A) on observations (n, D), and what is remembered after them.

    Args:
        recall: as `remember_nothing` or any earlier call returned it; it stays as it is.
        observation, feedback: float32; (n,) on the previous actions, None: not known.
        begins: (n,) bool, where an episode begins.
        trial_episodes: that a policy whose context is a trial remembers together.

    Raises:
        MetaRLError: if a policy that sees its feedback is not told it, or has come to the end of its context.
    """
    actions = np.zeros((len(observation), actor.policy.action_size), np.float32)
    after: list[Group] = []
    for group in recall:
        starting = begins[group.rows]
        for first, chosen in ((False, ~starting), (True, starting)):
            if not chosen.any():
                continue
            rows = group.rows[chosen]
            memory, episodes = _memory(actor, group, chosen, first, trial_episodes)
            _check_position(actor, memory, trial_episodes)
            felt = np.zeros(len(rows), np.float32) if memory.position == 0 else _felt(actor, feedback, rows)
            seen = torch.from_numpy(observation[rows])
            _, memory = actor.decide(memory, seen, torch.from_numpy(felt), first, choose)
            actions[rows] = memory.action.numpy()
            after.append(Group(rows, memory, episodes))
    return actions, tuple(after)


def _memory(actor: Actor, group: Group, chosen: np.ndarray, first: bool, trial_episodes: int) -> tuple[Memory, int]:
    """A copy of the memory of those chosen in a group (g,), or a fresh one; and the episodes that it then has begun."""
    goes_on = actor.policy.context == "trial" and 0 < group.episodes < trial_episodes
    if first and not goes_on:
        return actor.start(int(chosen.sum())), 1
    memory, episodes = group.memory, group.episodes + first
    with torch.inference_mode():
        if chosen.all():
            return memory._replace(state=tree_map_only(Tensor, torch.clone, memory.state)), episodes
        index = torch.from_numpy(chosen.nonzero()[0])
        state = tree_map_only(Tensor, lambda leaf: leaf[index.to(leaf.device)], memory.state)
        return Memory(state, memory.position, memory.action[index]), episodes


def _felt(actor: Actor, feedback: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """The feedback of rows (g,)."""
    if feedback is not None:
        return feedback[rows]
    if actor.policy.context == "none":
        return np.zeros(len(rows), np.float32)
    raise MetaRLError(
        "this policy reads its task off its rewards: give predict the reward of the last action, reward=..., or what "
        "it was fed instead, feedback=info['feedback']; "
        "for Stable-Baselines3: ears = agent.listening(); evaluate_policy(ears, env, callback=ears.hear)"
    )


def _check_position(actor: Actor, memory: Memory, trial_episodes: int) -> None:
    policy = actor.policy
    if policy.context in ("episode", "trial") and int(memory.position) >= policy.max_length:
        several = policy.context == "trial" and trial_episodes > 1
        what = f"a trial of {trial_episodes} episodes" if several else "an episode"
        remedy = "state=None begins a new one" if several else "begin a new one by episode_start=True or state=None"
        raise MetaRLError(
            f"step {memory.position + 1} is beyond the policy's context of {policy.max_length} steps, {what}: {remedy}"
        )
