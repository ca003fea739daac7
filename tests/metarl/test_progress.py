"""The live display of a training."""

import io

import pytest
from rich.console import Console

from metarl.training.progress import Progress, clock


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61.0, "1:01"), (3_725.0, "1:02:05")])
def test_a_clock_reads_as_people_write_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("fraction", "left"), [(0.25, "5:00"), (1.0, "0:00"), (1.1, "0:00")])
def test_no_time_is_left_beyond_the_budget(fraction: float, left: str) -> None:
    out = io.StringIO()
    metrics = {"iteration": 1.0, "env_steps": 1e6, "success_before": 0.1, "success_after": 0.2, "return_after": 3.0}
    with Progress(Console(file=out, width=200)) as progress:
        progress.printed = -1e9
        progress.show("maml", metrics, fraction, 100.0, 1e4)
    assert f"left {left}" in out.getvalue()
