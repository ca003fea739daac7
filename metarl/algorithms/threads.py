"""Threads that each take whole tasks, for a CPU.

The operations of one small task are too short to be split between torch's own threads, which wait for each other after
each operation. Torch releases Python's lock inside its operations, so whole tasks do run at the same time.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from envs.core.cores import usable_cores
from metarl.launched import local_world_size

Result = TypeVar("Result")


def cores() -> int:
    """The cores that this process may use, shared with the other processes of the run on its machine."""
    return max(usable_cores() // local_world_size(), 1)


def run_all(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all functions; several run at once, each in a thread of its own with one torch thread.

    None of them may call `run_all` itself: it would wait for the thread that it occupies.
    """
    if len(functions) == 1:
        return [functions[0]()]
    before = torch.get_num_threads()
    futures = [_pool(len(functions)).submit(function) for function in functions]
    try:
        return [future.result() for future in futures]
    finally:
        wait(futures)  # even after an error or Ctrl-C nobody may still write into the caller's tensors
        torch.set_num_threads(before)  # what a thread sets also holds for threads to come


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # The threads stay: memory of a thread that ends is not given back, and a long training grows by it.
    return ThreadPoolExecutor(threads, "metarl", _one_torch_thread)


def _one_torch_thread() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # fixes the number, which a thread otherwise asks for at its first operation


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
