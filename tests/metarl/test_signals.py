"""What stops a run early."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from metarl.training import signals
from metarl.training.signals import graceful_stop


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_only_who_asks_twice_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    with graceful_stop() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        # When a launcher is killed, the kernel may tell of its end more than once.
        clock.now += 0.5
        signal.raise_signal(signal.SIGTERM)
        clock.now += 1.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with graceful_stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


FAILS = """
import signal
from metarl.distributed import _end_unless_failing
signal.signal(signal.SIGTERM, _end_unless_failing)
try:
    try:
        raise RuntimeError("the other one is gone")
    finally:
        signal.raise_signal(signal.SIGTERM)
except RuntimeError as error:
    print(error, flush=True)
signal.raise_signal(signal.SIGTERM)
print("it went on")
"""


def test_a_process_that_fails_comes_to_say_why_before_it_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("the other one is gone\n", -signal.SIGTERM), done.stderr
