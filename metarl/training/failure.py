"""What is kept of an update that was skipped because something was not finite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.rollouts.episodes import Batch


@dataclass(frozen=True)
class Failure:
    """A skipped update, and all that it takes to compute it again with the run's configuration."""

    message: str  # what was not finite
    iteration: int  # of the run, from 0
    tasks: Sequence[str]  # in words
    start: Mapping[str, Tensor]  # a `nan_search.snapshot` of the learner before the update
    rounds: Sequence[Batch]  # the data of the update

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors and plain data, from which `read` makes the same again."""
        tensors = {f"start.{name}": value for name, value in self.start.items()}
        for number, batch in enumerate(self.rounds):
            tensors |= {f"round{number}.{name}": value for name, value in batch._asdict().items()}
        return tensors, {"iteration": self.iteration + 1, "message": self.message, "tasks": list(self.tasks)}

    @staticmethod
    def read(tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device) -> Failure:
        """A failure from its `dump`.

        Raises:
            KeyError, TypeError: if it is another thing.
        """
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            parts[group][rest] = value.to(device)
        start = parts.pop("start")
        # Older dumps are of policies that were fed the reward.
        data = (parts[f"round{number}"] for number in range(len(parts)))
        rounds = [Batch(**{"inner_advantage": batch["advantage"]} | batch) for batch in data]
        return Failure(state["message"], state["iteration"] - 1, state["tasks"], start, rounds)
