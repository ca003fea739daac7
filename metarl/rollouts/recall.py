"""Acting one step at a time for somebody else, who says when episodes begin: what is remembered between the calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from agents.policy import Policy
from metarl.errors import MetaRLError
from metarl.rollouts.acting import ActingStep, Choose, Memory, blank, goes_on, with_room
from metarl.rollouts.transfer import upload


@dataclass
class Written:
    """How far a policy's memory is written: up to this position."""

    position: int


class Group(NamedTuple):
    """Rows of a batch that have come equally far.

    What follows shares the tensors of the memory, if the policy writes on in them: what a policy has written before a
    position stays, and what is beyond it it does not read. Only who goes on from a place beyond which others have
    written already needs tensors of his own.
    """

    rows: np.ndarray  # (g,) int64, their places in the batch, ascending
    memory: Memory
    episodes: int  # that have begun in this memory
    written: Written  # of the memory's tensors, shared by all that share these


Recall = tuple[Group, ...]  # of all rows; as it was, whatever comes after


def group_of(rows: np.ndarray, memory: Memory, episodes: int) -> Group:
    """Rows with a memory whose tensors nobody else has."""
    return Group(rows, memory, episodes, Written(int(memory.position)))


def remember_nothing(policy: Policy, count: int) -> Recall:
    """What `count` rows remember before their first step."""
    return (group_of(np.arange(count), blank(policy, count), 0),)


def forget(policy: Policy, recall: Recall, rows: np.ndarray) -> Recall:
    """What is remembered where a new task begins in some rows (n,) bool: nothing there, elsewhere what was."""
    parts = [part for group in recall for part in _parts(group, rows)]
    return tuple(group_of(group.rows, blank(policy, len(group.rows)), 0) if gone else group for gone, group in parts)


def act(
    step: ActingStep,
    recall: Recall,
    observation: np.ndarray,
    feedback: np.ndarray | None,
    begins: np.ndarray,
    horizon: int,
    choose: Choose,
) -> tuple[np.ndarray, Recall]:
    """Clipped actions (n, A) on observations (n, D), and what is remembered after them.

    Args:
        recall: as `remember_nothing` or any earlier call returned it; it stays as it is.
        observation, feedback: float32; (n,) on the previous actions, None: not known.
        begins: (n,) bool, where an episode begins.
        horizon: control steps of an episode, for which a policy whose context is a trial makes room.

    Raises:
        MetaRLError: if a policy that sees its feedback is not told it, or has come to the end of its context.
    """
    policy = step.policy
    actions = np.zeros((len(observation), policy.action_size), np.float32)
    after: list[Group] = []
    parts = [part for whole in recall for part in _parts(whole, begins)]
    with torch.inference_mode():  # has less overhead than `no_grad`
        for first, group in parts:
            rows, memory, episodes, written = _begun(policy, group, horizon) if first else _own(group)
            _check_position(policy, memory)
            felt = np.zeros(len(rows), np.float32) if memory.position == 0 else _felt(policy, feedback, rows)
            seen = torch.from_numpy(observation[rows])
            action, state = step(
                seen, memory.action, torch.from_numpy(felt), first, memory.state, memory.position, choose
            )
            memory = Memory(state, memory.position + 1, action.cpu())
            written.position = memory.position
            actions[rows] = memory.action.numpy()
            after.append(Group(rows, memory, episodes, written))
    return actions, tuple(after)


def look_back(
    policy: Policy, before: Recall | None, after: Recall, observation: np.ndarray, feedback: np.ndarray, first: bool
) -> np.ndarray:
    """How much a step of `act`, on rows that have come equally far, looked at each step that it remembers.

    Args:
        before, after: what was remembered around it.
        observation, feedback: (n, D) and (n,), which it was given.
        first: whether an episode began.

    Returns:
        (n, layers, heads, t), see `Policy.attention_weights`.
    """
    (group,) = after
    position = int(group.memory.position) - 1
    action, felt = torch.zeros(len(observation), policy.action_size), torch.zeros(len(observation))
    if before is not None and not (first and policy.context != "trial"):  # something was remembered
        action = before[0].memory.action
    if position > 0:
        felt = torch.from_numpy(feedback)
    token = policy.layout.join(torch.from_numpy(observation), action, felt, first)
    (token,) = upload([token], policy.device)
    with torch.inference_mode():
        return policy.attention_weights(token, group.memory.state, position).cpu().numpy()


def _parts(group: Group, begins: np.ndarray) -> Iterator[tuple[bool, Group]]:
    """Those in a group whose episode or task goes on, and those who begin one."""
    starting = begins[group.rows]
    count = np.count_nonzero(starting)
    if count in (0, len(starting)):
        yield bool(count), group
        return
    for first, chosen in ((False, ~starting), (True, starting)):
        index = torch.from_numpy(chosen.nonzero()[0])
        state = tree_map_only(Tensor, lambda leaf: leaf[index.to(leaf.device)], group.memory.state)  # noqa: B023
        memory = Memory(state, group.memory.position, group.memory.action[index])
        yield first, group_of(group.rows[chosen], memory, group.episodes)


def _begun(policy: Policy, group: Group, horizon: int) -> Group:
    """A group at the beginning of an episode: its trial goes on, or nothing is remembered."""
    if goes_on(policy, horizon) and group.episodes:
        memory = with_room(policy, group.memory, horizon)
        return _own(group._replace(memory=memory))._replace(episodes=group.episodes + 1)
    return group_of(group.rows, blank(policy, len(group.rows)), 1)


def _own(group: Group) -> Group:
    """A group that may be written to at its position."""
    if group.written.position == group.memory.position:
        return group
    memory = group.memory._replace(state=tree_map_only(Tensor, torch.clone, group.memory.state))
    return group_of(group.rows, memory, group.episodes)


def _felt(policy: Policy, feedback: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """The feedback of rows (g,)."""
    if feedback is not None:
        return feedback[rows]
    if policy.context == "none":
        return np.zeros(len(rows), np.float32)
    raise MetaRLError(
        "this policy reads its task off its rewards: give predict the reward of the last action, reward=..., or what "
        "it was fed instead, feedback=info['feedback']; "
        "for Stable-Baselines3: robot = agent.controller(); evaluate_policy(robot, env, callback=robot.hear)"
    )


def _check_position(policy: Policy, memory: Memory) -> None:
    if policy.context in ("episode", "trial") and int(memory.position) >= policy.max_length:
        raise MetaRLError(
            f"step {memory.position + 1} is beyond the policy's context of {policy.max_length} steps: say where an "
            "episode begins by episode_start=True, or a new task by state=None"
        )
