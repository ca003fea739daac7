"""Which device computes, how much memory it has, and what is its own fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from metarl.config.settings import DEVICES
from metarl.errors import CheckpointError, ConfigError, DeviceError
from metarl.launched import local_rank, local_world_size

FAULTS = (torch.OutOfMemoryError, torch.AcceleratorError)  # RuntimeErrors that say nothing about what was computed
CPU = torch.device("cpu")
# Accelerators, by the name that torch gives them, on which `python -m experiments.bench gpu` has trained faster than on
# the CPU beside them: what `auto` takes. The physics stays on the CPU and the networks are small, so an accelerator has
# to prove itself. None has been measured yet.
FASTER: frozenset[str] = frozenset()


def resolve_device(name: str) -> torch.device:
    """The device that a setting names, in the words of torch; `auto` is the CPU unless an accelerator is known to be
    faster.

    Of several processes on a machine each takes an accelerator of its own.

    Raises:
        ConfigError: if it names none, or the same one for several processes.
        DeviceError: if the machine does not have it.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return _own(found) if found is not None and device_name(found) in FASTER else CPU
    kind, colon, index = name.partition(":")
    module = _module(kind)
    if module is None or (colon and (kind == CPU.type or not index.isdecimal())):
        raise ConfigError(f"device={name}: must be {DEVICES}")
    if kind == CPU.type:
        return CPU
    if colon and local_world_size() > 1:
        raise ConfigError(
            f"device={name}: all {local_world_size()} processes on this machine would share it; choose device={kind}, "
            "of which each takes its own, or device=cpu"
        )
    found = module.device_count() if module.is_available() else 0
    own = _own(torch.device(kind))
    # Not by torch: a number that is too large it takes for none, or cannot read.
    if found <= (int(index) if colon else own.index or 0):
        there = f"of {kind} there are {found}, counted from 0" if found else f"there is no {kind} here"
        raise DeviceError(f"device={name if colon else own}: {there}; choose device=cpu or device=auto")
    return torch.device(name) if colon else own


def _own(device: torch.device) -> torch.device:
    """The accelerator of this process, if there are several of each."""
    return torch.device(device.type, local_rank()) if local_world_size() > 1 else device


def _module(kind: str) -> Any:
    """What torch has for a kind of device; None: nothing."""
    try:
        return torch.get_device_module(torch.device(kind))
    except RuntimeError:
        return None


def device_name(device: torch.device) -> str:
    """What torch calls the very device, such as `NVIDIA H100 80GB HBM3`; else its kind."""
    tell = getattr(_module(device.type), "get_device_name", None)
    return tell(device) if tell else device.type


def gpu_memory(device: torch.device) -> int | None:
    """Bytes of memory that an accelerator has of its own, used or not; None for a CPU and what shares its memory."""
    tell = getattr(_module(device.type), "mem_get_info", None)
    return tell(device)[1] if tell else None


@contextmanager
def enough_memory() -> Iterator[None]:
    """A GPU whose memory is used up says so in one line.

    Raises:
        DeviceError: with the remedies.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        text = " ".join(str(error).split()).partition(". ")[0]
        remedy = "choose device=cpu, fewer tasks or episodes at once, or a smaller policy"
        raise DeviceError(f"the device has not enough memory: {text}; {remedy}") from None


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Loading what has other names, sizes or kinds of numbers says in one line that `what`.

    Raises:
        CheckpointError: with the mismatch.
    """
    try:
        yield
    except FAULTS:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{what}: {' '.join(str(error).split())}") from None
