"""What a policy has that has adapted, beyond one that was trained: as a checkpoint, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from agents.policy import Policy
from metarl.algorithms.adaptation import Parameters, all_finite, part
from metarl.algorithms.learner import Learner
from metarl.errors import CheckpointError, MetaRLError
from metarl.rollouts.acting import Memory
from metarl.rollouts.recall import Recall, group_of
from metarl.run_folder import ADAPTED

PARAMETERS, MEMORY = "adapted.", "memory."


@dataclass(frozen=True)
class Kept:
    """What has adapted, and on what."""

    parameters: Parameters | None = None  # with a leading 1; None: as trained
    history: tuple[dict[str, Any], ...] = ()  # one entry for each call of `Agent.adapt`, plain data
    memory: Recall | None = None  # of one robot
    origin: str = ""  # the run that was trained

    def told(self) -> str:
        """What it was adapted on, in words."""
        times = [f"{each['env']} ({each['episodes']} episodes, {each['steps']} steps)" for each in self.history]
        return ", then ".join(times) or "nothing but what it remembers"


def to_checkpoint(kept: Kept) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state in which a checkpoint holds it.

    Raises:
        MetaRLError: if the memory is not that of one robot, or is more than tensors.
    """
    tensors = {f"{PARAMETERS}{name}": value for name, value in (kept.parameters or {}).items()}
    state: dict[str, Any] = {ADAPTED: {"run": kept.origin, "history": list(kept.history)}}
    if kept.memory is None:
        return tensors, state
    if len(kept.memory) != 1 or len(kept.memory[0].rows) != 1:
        raise MetaRLError("only the memory of one robot can be kept: give the state that predict returned for one")
    memory, episodes = kept.memory[0].memory, kept.memory[0].episodes
    leaves, _ = tree_flatten(memory.state)
    if others := [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]:
        raise MetaRLError(f"the policy's memory holds a {others[0]}, and only tensors can be kept")
    tensors |= {f"{MEMORY}{index}": leaf for index, leaf in enumerate(leaves)} | {f"{MEMORY}action": memory.action}
    return tensors, state | {"memory": {"position": int(memory.position), "episodes": episodes}}


def from_checkpoint(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], policy: Policy, learner: Learner, path: object
) -> Kept | None:
    """What a checkpoint holds of an adaptation of this policy; None: it was only trained.

    Raises:
        CheckpointError: if it does not fit, or is not finite.
    """
    if ADAPTED not in state:
        return None
    parameters = part(tensors, PARAMETERS)
    if parameters:
        wanted = {name: learner.parameters[name] for name in learner.rate_parameters}
        _check(parameters, {name: value.detach()[None] for name, value in wanted.items()}, path)
        parameters = {name: value.to(policy.device) for name, value in parameters.items()}
    try:
        history, origin = tuple(map(_entry, state[ADAPTED]["history"])), str(state[ADAPTED]["run"])
        memory = _memory(part(tensors, MEMORY), state["memory"], policy, path) if "memory" in state else None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: what is said of its adaptation is damaged: {error!r}") from None
    return Kept(parameters or None, history, memory, origin)


def _entry(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**told, "env": str(told["env"]), "episodes": int(told["episodes"]), "steps": int(told["steps"])}


def _memory(found: Mapping[str, Tensor], told: Mapping[str, Any], policy: Policy, path: object) -> Recall:
    leaves, structure = tree_flatten(policy.initial_state(1))
    wanted = {str(index): leaf for index, leaf in enumerate(leaves)}
    _check(found, wanted | {"action": torch.zeros(1, policy.action_size)}, path)
    position, episodes = int(told["position"]), int(told["episodes"])
    if position < 0 or episodes < 0:
        raise ValueError(f"position {position}, episodes {episodes}")
    state = tree_unflatten([found[name].to(leaf.device) for name, leaf in wanted.items()], structure)
    return (group_of(np.arange(1), Memory(state, position, found["action"]), episodes),)


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: object) -> None:
    if different := sorted(found.keys() ^ wanted.keys()):
        raise CheckpointError(f"{path}: what has adapted does not fit the policy: {different[0]} is one of them only")
    for name, value in wanted.items():
        if found[name].shape != value.shape or found[name].dtype != value.dtype:
            shapes = f"{tuple(found[name].shape)}, expected {tuple(value.shape)}"
            raise CheckpointError(f"{path}: what has adapted does not fit the policy: {name} is {shapes}")
    if not all_finite(found):
        raise CheckpointError(f"{path}: what has adapted is not finite")
