"""What stops a run early."""

from __future__ import annotations

import signal

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
