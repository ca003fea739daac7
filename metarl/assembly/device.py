"""Which device computes, how much memory it has, and what is its own fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metarl.errors import CheckpointError, ConfigError, DeviceError

FAULTS = (torch.OutOfMemoryError, torch.AcceleratorError)  # RuntimeErrors that say nothing about what was computed


def resolve_device(name: str) -> torch.device:
    """The device that a setting names; `auto` is the GPU if there is one.

    Raises:
        ConfigError: if it names none.
        DeviceError: if the machine does not have it.
    """
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"device={name}: must be auto, cpu, cuda or cuda:<number>")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return torch.device("cuda" if found else "cpu")
    if found <= int(index or 0):
        there = "CUDA is not available here" if not found else f"there are {found} CUDA devices, counted from 0"
        raise DeviceError(f"device={name}: {there}; choose device=cpu or device=auto")
    return torch.device(name)


def gpu_memory(device: torch.device) -> int | None:
    """Bytes of memory that a GPU has, used or not; None for a CPU."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


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
