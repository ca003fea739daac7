"""Which device computes."""

from __future__ import annotations

import torch

from metarl.errors import ConfigError, DeviceError


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
