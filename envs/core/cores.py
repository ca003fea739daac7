"""How many cores there are for this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that this process may run on: those that a scheduler or `taskset` left it, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
