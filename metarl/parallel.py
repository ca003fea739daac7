"""Tasks side by side on a CPU: threads that each take whole tasks.

The operations of one small task are too short to be split between torch's own threads, which wait for each other after
every one of them. Torch releases Python's lock inside its operations, so whole tasks do run at the same time.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Result = TypeVar("Result")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def twin(module: Module) -> Module:
    """Another module with the same tensors, for another thread: `functional_call` writes into a module as it runs."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def run_all(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all functions; several run at once, each in a thread of its own with one torch thread."""
    if len(functions) == 1:
        return [functions[0]()]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(functions), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [future.result() for future in [pool.submit(function) for function in functions]]
    finally:
        torch.set_num_threads(before)  # what a thread sets also holds for threads to come
