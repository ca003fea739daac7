"""The live display of a training run, or of an adaptation: one line that updates itself on a terminal, a line now and
then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

LINE_EVERY = 10.0  # seconds, where there is no terminal
GAP = 2  # characters between two columns
BAR = (8, 24)  # characters of the bar, at least and at most
DROPPED = ("steps/s", "return", "phase", "env steps", "success before")  # where the terminal is narrow, in this order

Display = TypeVar("Display", bound="_Display")


class _Display:
    """A line that updates itself while it is entered, if the console is a terminal; `transient`: it vanishes then."""

    def __init__(self, console: Console, transient: bool = False) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, transient=transient) if console.is_terminal else None

    def __enter__(self: Display) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self.live:
            self.live.stop()


class Progress(_Display):
    """Shows iteration, environment steps, steps/s, success before and after adaptation, and the time left."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console or Console(stderr=False, highlight=False, markup=False))
        self.printed = 0.0
        self.recent: list[dict[str, float]] = []

    def show(self, phase: str, metrics: dict[str, float], fraction: float, seconds: float, speed: float) -> None:
        """Report an iteration.

        Args:
            phase: name of the algorithm that is training. metrics: of the iteration, as in metrics.csv.
            fraction: of the budget that is used. seconds: since the start. speed: environment steps per second.
        """
        self.recent = [*self.recent[-9:], metrics]
        left = max(seconds * (1.0 - fraction) / fraction, 0.0) if fraction > 0 else 0.0
        mean = {key: sum(m[key] for m in self.recent) / len(self.recent) for key in ("success_before", "success_after")}
        cells = {
            "phase": phase,
            "iteration": f"{metrics['iteration']:.0f}",
            "env steps": f"{metrics['env_steps'] / 1e6:.2f}M",
            "steps/s": f"{speed:,.0f}",
            "success before": f"{mean['success_before']:.3f}",
            "after": f"{mean['success_after']:.3f}",
            "return": f"{metrics['return_after']:.2f}",
            "left": clock(left),
        }
        if self.live:
            self.live.update(_row(cells, fraction, self.console.width))
        elif time.monotonic() - self.printed > LINE_EVERY or fraction >= 1.0:
            self.printed = time.monotonic()
            self.console.print("  ".join(f"{name} {value}" for name, value in cells.items()), soft_wrap=True)


class Collecting(_Display):
    """Shows the episodes that an adaptation collects: on a terminal as a bar, elsewhere each in a line.

    Args:
        steps: inner steps, before each of which episodes are collected.
    """

    def __init__(self, steps: int, console: Console) -> None:
        super().__init__(console, transient=True)
        self.steps, self.step = steps, 0
        self.began = time.monotonic()

    def show(self, number: int, count: int, feedback: float) -> None:
        """Report an episode that has ended: its number from 1 and how many there are before this step, its feedback."""
        self.step += number == 1
        fraction = ((self.step - 1) * count + number) / (self.steps * count)
        if self.live:
            left = clock((time.monotonic() - self.began) * (1.0 - fraction) / fraction)
            cells = {"step": f"{self.step} of {self.steps}", "episode": f"{number} of {count}"}
            self.live.update(_row(cells | {"feedback": f"{feedback:.3g}", "left": left}, fraction, self.console.width))
        else:
            self.console.print(
                f"step {self.step} of {self.steps}, episode {number} of {count}: feedback {feedback:.3g}"
            )


def _row(cells: dict[str, str], fraction: float, width: int) -> Table:
    """The cells under their names, and a bar; on a narrow terminal fewer of them, but none that is cut."""
    shown = dict(cells)
    for name in DROPPED:
        if _length(shown) > width:
            shown.pop(name, None)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    bar = min(width - _length(shown) - GAP, BAR[1])
    if bar < BAR[0]:
        table.add_row(*shown.values())
        return table
    table.add_column("")
    table.add_row(*shown.values(), ProgressBar(total=1.0, completed=min(fraction, 1.0), width=bar))
    return table


def _length(cells: dict[str, str]) -> int:
    return sum(max(len(name), len(cell)) for name, cell in cells.items()) + GAP * (len(cells) - 1)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_table(console: Console, title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text, the first of which is the header; no line is wrapped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    console.print("\n".join(["", title, *lines]), markup=False, soft_wrap=True)
