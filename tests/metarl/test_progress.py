"""The live display of a training."""

import io
import re

import pytest
from rich.console import Console

from metarl.training.progress import Collecting, Progress, clock


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


@pytest.mark.parametrize("terminal", [False, True])
def test_an_adaptation_shows_each_of_its_episodes(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=20, force_terminal=terminal, color_system=None, markup=False)
    with Collecting(2, console) as shown:
        for _ in range(2):
            shown.show(1, 2, -1.25)
            shown.show(2, 2, 3.5)
            if shown.live:
                shown.live.refresh()
    if terminal:
        text = re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "\n", out.getvalue())
        assert re.search(r"2 of 2 +2 of 2 +3.5 +0:00 ", text) and re.search(r"1 of 2 +2 of 2 +3.5", text)
        assert "episode" in text and "left" in text
    else:
        lines = out.getvalue().splitlines()
        assert len(lines) == 4 and lines[2] == "step 2 of 2, episode 1 of 2: feedback -1.25"


METRICS = {
    "iteration": 12_345.0,
    "env_steps": 1.234e9,
    "success_before": 0.1,
    "success_after": 0.25,
    "return_after": -98.76,
}
EXPECTED = {"in_context", "12345", "1234.00M", "123,456", "0.100", "0.250", "-98.76", "1:23:20"}


def drawn(width: int) -> tuple[list[str], list[str]]:
    """The names and the numbers that the display shows on a terminal of this width."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=20, force_terminal=True, color_system=None, legacy_windows=False)
    with Progress(console) as progress:
        progress.show("in_context", METRICS, 0.5, 5_000.0, 123_456.0)
    lines = [
        line.rstrip() for line in re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "\n", out.getvalue()).splitlines() if line.strip()
    ]
    assert all(len(line) <= width for line in lines)
    assert "\N{HORIZONTAL ELLIPSIS}" not in out.getvalue()
    header = next(number for number, line in enumerate(lines) if "iteration" in line)
    assert len(set(lines[header:])) == 2, lines  # a name and a number for each column, and nothing is wrapped
    return re.split(r"  +", lines[header].strip()), lines[header + 1].split()


@pytest.mark.parametrize("width", [200, 132, 100, 80, 60, 40])
def test_the_display_shows_whole_numbers_on_a_terminal_of_any_width(width: int) -> None:
    names, cells = drawn(width)
    bar = [cell for cell in cells if cell not in EXPECTED]
    assert {"iteration", "after", "left"} <= set(names)
    assert all(
        re.fullmatch(
            "[\N{BOX DRAWINGS HEAVY HORIZONTAL}\N{BOX DRAWINGS HEAVY LEFT}\N{BOX DRAWINGS HEAVY RIGHT}]+", cell
        )
        for cell in bar
    )
    assert len(cells) - len(bar) == len(names)


def test_a_wide_terminal_shows_all_of_them() -> None:
    names, cells = drawn(132)
    assert len(names) == 8 and set(cells) >= EXPECTED
    assert len(drawn(80)[0]) > len(drawn(60)[0]) > 3
