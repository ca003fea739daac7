"""A policy of its own for one robot: what has adapted takes the place of what was trained."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from agents.policy import Critic, Policy

Module = TypeVar("Module", bound=nn.Module)


class NoCritic(Critic):
    """Stands where nobody asks for values: they are any numbers."""

    def forward(self, features: Tensor) -> Tensor:
        return features[..., 0]


def twin(module: Module, instead: Mapping[int, object] | None = None) -> Module:
    """Another module with the same tensors.

    Args:
        instead: what takes the place of a part of the module, by the part's `id`.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, {**shared, **(instead or {})})


def folded(policy: Policy, adapted: Mapping[str, Tensor] | None, critic: bool = True) -> Policy:
    """A policy with the adapted parameters (1, ...) of one task in the place of its own; the others are shared.

    Args:
        critic: False: its values are any numbers.
    """
    own = dict(policy.named_parameters())
    moved = {id(own[n]): nn.Parameter(value[0], requires_grad=False) for n, value in (adapted or {}).items()}
    return twin(policy, moved if critic else {**moved, id(policy.critic): NoCritic()})


def swift(module: Module) -> Module:
    """The same module, whose Python takes less time: for one that nobody else has, and that stays as it is.

    `nn.Module` looks for hooks in every call, and for parameters in dictionaries of its own; with a small network on
    one observation that takes as long as the arithmetic. What has hooks, or its own way to be called, keeps it.
    """
    for part in module.modules():
        part.__dict__.update({**part._parameters, **part._buffers, **part._modules})
        if type(part).__call__ is nn.Module.__call__ and not (part._forward_hooks or part._forward_pre_hooks):
            part.__class__ = _direct(type(part))
    return module


@functools.cache
def _direct(kind: type[Any]) -> type[Any]:
    """A kind of module whose call is its `forward`."""
    return type(kind.__name__, (kind,), {"__call__": kind.forward})
