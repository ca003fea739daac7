"""What goes from the CPU to the device that computes, in few transfers: an accelerator pays for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_cpu(device: torch.device) -> bool:
    """Whether the CPU itself computes: every other device is an accelerator, whoever made it."""
    return device.type == "cpu"


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors of one kind of numbers on the device, in a single transfer; for the CPU they are what was given.

    Nobody waits for it: what the device does next comes after it, and it reads pinned memory by itself.
    """
    if on_cpu(device):
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    flat = flat if device.type == "mps" else flat.pin_memory()  # Apple's GPU shares its memory with the CPU
    parts = flat.to(device, non_blocking=True).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
