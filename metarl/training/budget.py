"""When a run stops, and what stops it early."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True)
class Budget:
    """A run ends at whichever of the given limits it meets first."""

    iterations: int | None = None
    env_steps: int | None = None
    minutes: float | None = None

    def fraction(self, iterations: int, env_steps: int, seconds: float) -> float:
        """How much of the budget is used: 1.0 or more when the run is over."""
        used = [
            spent / limit
            for spent, limit in (
                (iterations, self.iterations),
                (env_steps, self.env_steps),
                (seconds / 60.0, self.minutes),
            )
            if limit is not None
        ]
        return max(used)


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM; the second one interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Let the iteration under way end before a signal takes effect, so that the checkpoint is whole."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
