"""Which checkpoint is the best one so far, by what training itself measures."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from metarl.errors import CheckpointError

SMOOTHING = 0.9  # weight of the past: a mean over the last ten iterations or so
MEASURES = ("success_after", "return_after")


class Best:
    """Success after adaptation, smoothed exponentially; where that is equal to a hundredth, the return.

    Differences of less than a hundredth are noise, and where no episode succeeds yet, only the return tells.

    Args:
        state: what `state()` of an earlier one returned; None: a new search.

    Raises:
        CheckpointError: if the state is unusable.
    """

    def __init__(self, state: Any = None) -> None:
        state = {} if state is None else state
        try:
            self.smoothed = {name: float(state[name]) for name in MEASURES if name in state}
            self.score = tuple(float(value) for value in state.get("score", ()))
            self.iteration = None if state.get("iteration") is None else int(state["iteration"])
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"the checkpoint's record of the best one is unusable: {error}") from None

    def add(self, row: Mapping[str, float]) -> None:
        """Take in an iteration's metrics; values that are not finite are passed over."""
        for name in MEASURES:
            value = float(row[name])
            if math.isfinite(value):
                before = self.smoothed.get(name, value)
                self.smoothed[name] = SMOOTHING * before + (1.0 - SMOOTHING) * value

    def claim(self, iteration: int) -> bool:
        """Whether the checkpoint that is about to be saved is the best so far; if it is, remember it."""
        if any(name not in self.smoothed for name in MEASURES):
            return False
        success, earned = (self.smoothed[name] for name in MEASURES)
        score = (round(success, 2), earned)
        if self.iteration is not None and score <= self.score:
            return self.iteration == iteration  # saved a second time, it is as good as it was
        self.score, self.iteration = score, iteration
        return True

    def forget_unless(self, there: Collection[int]) -> None:
        """Start a new search if the best checkpoint is not among those that are there."""
        if self.iteration not in there:
            self.score, self.iteration = (), None

    def state(self) -> dict[str, Any]:
        """Plain data to continue from."""
        return self.smoothed | {"score": list(self.score), "iteration": self.iteration}
