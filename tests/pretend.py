"""A pretend accelerator: finds mistakes with devices, and counts what is waited for, where there is no accelerator.

A tensor of it says that it lies on `pretend:0`, holds its numbers on the CPU, and refuses to be mixed with tensors of
the CPU. Every transfer, and everything that would make the CPU wait for a real accelerator, is noted in a ledger with
the line of the project that asks for it. Kernels run on the CPU, so that it says nothing about speed.

It stands on PyTorch's backends in Python (`torch.utils.backend_registration`, experimental, seen with torch 2.13) and
on a dispatch mode, which sees what such a backend is not asked: tensors that are made on a device or moved to it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
DEVICE = torch.device("pretend:0")
ROOT = Path(__file__).parents[1]
OURS = tuple(str(ROOT / name) for name in ("agents", "envs", "experiments", "metarl"))
SILENT = "rollouts/transfer.py"
MOVES = ("aten::copy_", "aten::_to_copy")
INDEXING = ("aten::index", "aten::_index_put", "aten::_unsafe_index")
# Whose results are numbers of Python, or have a shape that depends on numbers: the CPU cannot go on without them.
WAITING = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique")


@dataclass
class Ledger:
    """What was asked of the accelerator, each by the line of the project that asked for it."""

    uploads: Counter[str] = field(default_factory=Counter)
    downloads: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)  # for anything but a download

    def clear(self) -> None:
        """Begin anew."""
        for kind in (self.uploads, self.downloads, self.waits):
            kind.clear()

    def numbers(self) -> tuple[int, int, int]:
        """How many uploads, downloads and other waits there were."""
        return self.uploads.total(), self.downloads.total(), self.waits.total()


_ledger = Ledger()
_refused: frozenset[torch.dtype] = frozenset()


class There(Tensor):
    """A tensor of the accelerator."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        if here.dtype in _refused:
            raise TypeError(f"{DEVICE} has no {here.dtype}")
        made = Tensor._make_wrapper_subclass(
            cls, here.size(), here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here})"

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()


class Pretence(TorchDispatchMode):
    """While it is active, what names or holds the accelerator happens there."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation.name().startswith("aten::_pin_memory"):
            return args[0].clone()
        if any(isinstance(leaf, There) or _is_there(leaf) for leaf in tree_leaves((args, kwargs))):
            return _run(operation, args, kwargs)
        return operation(*args, **kwargs)


@contextmanager
def accelerator(refused: Collection[torch.dtype] = ()) -> Iterator[Ledger]:
    """An accelerator that torch finds as `pretend:0`, with a fresh ledger; it does not know the `refused` numbers."""
    global _ledger, _refused
    _ledger, _refused = Ledger(), frozenset(refused)
    tensor = torch.tensor

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return tensor(*args, **kwargs).to(device)

    with pytest.MonkeyPatch.context() as patch, Pretence():
        patch.setattr(torch, "tensor", made)  # needs a kernel that no mode sees
        patch.setattr(torch, "inference_mode", torch.no_grad)  # goes past every mode
        yield _ledger


def _is_there(leaf: Any) -> bool:
    return isinstance(leaf, torch.device | str) and str(leaf).startswith(DEVICE.type)


def _note(kind: Counter[str]) -> None:
    """Count it for the line of the project that asks, which is the one that called `upload` and not the one inside."""
    frame = sys._getframe(1)
    while frame and (not frame.f_code.co_filename.startswith(OURS) or frame.f_code.co_filename.endswith(SILENT)):
        frame = frame.f_back
    kind[f"{frame.f_code.co_filename.removeprefix(f'{ROOT}/')}:{frame.f_lineno}" if frame else "elsewhere"] += 1


def _run(operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operation of the accelerator: the CPU's on what its tensors hold, and a ledger's entry for what it takes."""
    name = operation.name()
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    here = [tensor for tensor in tensors if not isinstance(tensor, There)]
    devices = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    lands = _is_there(devices[0]) if devices else bool(there)
    if name.startswith("aten::copy_"):
        lands = isinstance(args[0], There)
    if name.startswith(MOVES):
        if there and not lands:
            _note(_ledger.downloads)
        elif here and lands:
            _note(_ledger.uploads)
    elif there:
        indexing = name.startswith(INDEXING)
        masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
        if name.startswith(WAITING) or (indexing and masks):
            _note(_ledger.waits)
        for tensor in (tensor for tensor in here if tensor.dim() > 0):
            if not indexing:
                raise RuntimeError(f"{name}: tensors of {DEVICE} are mixed with one of the CPU, {tuple(tensor.shape)}")
            _note(_ledger.uploads)  # of an index

    def inside(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return leaf.here if isinstance(leaf, There) else leaf

    given = {id(inside(tensor)): tensor for tensor in tensors}
    result = operation(*tree_map(inside, args), **tree_map(inside, {**kwargs}))

    def outside(leaf: Tensor) -> Tensor:
        known = given.get(id(leaf))  # what was written in place
        return known if known is not None else There(leaf) if lands else leaf

    return tree_map_only(Tensor, outside, result)
