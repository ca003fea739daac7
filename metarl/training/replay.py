"""Tasks that the policy failed in come again: prioritized level replay (Jiang et al. 2021, arXiv 2010.03934)."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.core.tasks import Tasks


class Replay:
    """The tasks in which the policy failed last; the latest `capacity` of them.

    A task is scored by failure alone, and taken out when it is drawn: it comes back if the policy fails again. So a
    share of the tasks goes where learning has not been yet, and the fewer they are, the smaller is that share. A task
    that nobody can solve comes back again and again; one whose physics failed does not.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.failed: dict[str, Tensor] = {}  # parameter -> (n, d)

    def __len__(self) -> int:
        return len(next(iter(self.failed.values()), ()))

    def mix(self, fresh: Tasks, share: float, generator: torch.Generator) -> Tasks:
        """The tasks, the last of them replaced by failed ones: `share` of all, as far as there are so many."""
        count = min(int(share * len(fresh)), len(self))
        if not count:
            return fresh
        order = torch.randperm(len(self), generator=generator)
        again = {name: value[order[:count]] for name, value in self.failed.items()}
        kept = order[count:].sort().values  # the oldest stay first
        self.failed = {name: value[kept] for name, value in self.failed.items()}
        return Tasks({name: torch.cat([value[:-count], again[name]]) for name, value in fresh.values.items()})

    def note(self, tasks: Tasks, failed: Tensor) -> None:
        """Take in those of M tasks in which the policy failed, (M,) bool."""
        found = tasks.select(failed.nonzero()[:, 0]).values
        held = {name: torch.cat([self.failed[name], value]) if self.failed else value for name, value in found.items()}
        self.failed = {name: value[-self.capacity :] for name, value in held.items()}
