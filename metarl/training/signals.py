"""What stops a run early."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds in which one SIGTERM may come several times: the kernel may tell a process of its launcher's end again, as the
# launcher's threads end one by one.
ECHO = 1.0


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM; the second one interrupts at once, if it is not an echo of a SIGTERM."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
        elif number != signal.SIGTERM or time.monotonic() - self.since > ECHO:
            raise KeyboardInterrupt


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


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is heard as Ctrl-C is."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that what is there can be kept."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
