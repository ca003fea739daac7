"""What PyTorch's launcher says of this process: `torchrun` starts several and tells each by its environment.

Without it there is one process. Nothing here imports torch: `--help` must be quick.
"""

from __future__ import annotations

import os

PARENT = os.getppid()  # who started this process: the launcher, if there is one
LAUNCHER = "TORCHELASTIC_RUN_ID"  # the launcher always sets it; a stray WORLD_SIZE means nothing
MEETING = "--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT"  # where machines find each other: it does not tell us


def world_size() -> int:
    """The processes of the run, on all machines."""
    return _told("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among them, from 0."""
    return _told("RANK", 0)


def local_world_size() -> int:
    """The processes of the run on this machine."""
    return _told("LOCAL_WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process among those."""
    return _told("LOCAL_RANK", 0)


def python() -> str:
    """What a command line of this project begins with, to start as many processes: `python`, or `torchrun ...`.

    On several machines it is the same on each, with the address of one of them in the place of HOST:PORT.
    """
    if world_size() == 1:
        return "python"
    machines, each = world_size() // local_world_size(), f"--nproc-per-node={local_world_size()}"
    return f"torchrun --nnodes={machines} {each} {MEETING}" if machines > 1 else f"torchrun {each}"


def _told(name: str, alone: int) -> int:
    return int(os.environ.get(name, alone)) if LAUNCHER in os.environ else alone
