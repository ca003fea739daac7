"""metrics.csv and, beside it, TensorBoard's events or what a tracker keeps (see `tracking`).

One row for each meta-iteration. Its columns, and the curves of those, are

    iteration, env_steps                 so far; env_steps counts the control steps of all simulations, also of a warm
                                         start, and of the run that this one began from
    success_before, success_after        share of the training episodes with success at their end: before the inner
                                         steps, and after the last of them (the same where there are none); in trials
                                         of several episodes that of the first episode before, of the last one after
    success_any_step_before, ..._after   with success at any step
    return_before, return_after          mean undiscounted return of an episode
    term_<name>                          mean sum of a reward term over an episode, after
    loss                                 mean outer loss; in its place, Reptile: step_length, how far its start moved
    updates, skipped_updates             outer updates of the iteration, and those among them that were not finite
    inner_rate                           mean of the inner rates, which MAML learns
    std                                  mean standard deviation of the actions
    physics_failures                     episodes whose physics failed
    rollout_seconds, update_seconds      of the iteration
    seconds                              of training so far, without the time between an end and a resume
    steps_per_second                     environment steps since the start or the last resume, per second

An algorithm of somebody's own adds what its `update` returns.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.errors import RunFolderError
from metarl.run_folder.events import EventFile
from metarl.run_folder.files import append_whole, atomic_write, one_line, read_limited
from metarl.run_folder.tracking import Tracker, check_installed

KEY = "iteration"
LIMIT = 2**32  # bytes of a table; a million iterations have about a tenth of it


class MetricsLog:
    """Appends one row per meta-iteration to metrics.csv and to a logger.

    Nothing waits in memory: when `append` returns, the operating system has the row, and it survives a kill.

    The columns are those of the first row. A later row that lacks one leaves it empty; one that brings a new one has
    the file rewritten with it.

    Args:
        folder: of the run; holds metrics.csv and tensorboard/.
        after: the iteration to continue after, 0 in a new run; what the files hold beyond it is dropped.
        logger: what else gets the rows: `tensorboard`, one of `tracking.TRACKERS`, or None.
        config: what the run is, for a tracker.

    Raises:
        ConfigError: if the tracker is not installed.
        RunFolderError: if metrics.csv cannot be read or written, or has no column `iteration`.
    """

    def __init__(
        self, folder: Path, after: int, logger: str | None = "tensorboard", config: Mapping[str, Any] | None = None
    ) -> None:
        self.path = folder / "metrics.csv"
        self._folder, self._logger, self._config = folder, logger, config or {}
        check_installed(logger or "")
        self._scalars: EventFile | Tracker | None = None  # made for the first row after a start or a `truncate`
        self._columns: list[str] = []
        self.truncate(after)

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add a row and hand it to the operating system at once.

        Args:
            row: numbers by name; `iteration` is one of them.

        Raises:
            RunFolderError: if it cannot be written; the file then ends with the row before.
        """
        if KEY not in row:
            raise RunFolderError(f"a row of metrics needs '{KEY}'; it has: {', '.join(row)}")
        new = [name for name in row if name not in self._columns]
        if new:
            columns = self._columns + ([KEY] if KEY in new else []) + [name for name in new if name != KEY]
            rows = [old + [""] * len(new) for old in read_table(self.path)[1]]
            atomic_write(self.path, table_bytes([columns, *rows, _cells(columns, row)]))
            self._columns = columns
        else:
            append_whole(self.path, table_bytes([_cells(self._columns, row)]))
        self._add_scalars(row)

    def truncate(self, iteration: int) -> None:
        """Drop every row after an iteration, and a last row that a crash cut short; TensorBoard will hide its own.

        Raises:
            RunFolderError: if metrics.csv is not a table with a column `iteration`.
        """
        self._close()
        self._purge = iteration + 1
        columns, rows = read_table(self.path)
        self._columns = columns
        if not columns:
            return
        if KEY not in columns:
            raise RunFolderError(f"{self.path} has no column '{KEY}': restore it, or move it away to start a new one")
        position = columns.index(KEY)
        kept = [row for row in rows if (number := _number(row[position])) is not None and number <= iteration]
        atomic_write(self.path, table_bytes([columns, *kept]))

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        """A tracker may still have rows in memory; else nothing is open between two rows."""
        self._close()

    def _close(self) -> None:
        if isinstance(self._scalars, Tracker):
            self._scalars.close()
        self._scalars = None

    def _add_scalars(self, row: Mapping[str, float | int]) -> None:
        if self._logger is None:
            return
        if self._scalars is None:
            self._scalars = (
                EventFile(self._folder / "tensorboard", self._purge)
                if self._logger == "tensorboard"
                else Tracker(self._logger, self._folder, self._config)
            )
        self._scalars.append(int(row[KEY]), {name: float(value) for name, value in row.items() if name != KEY})


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and complete rows of a CSV file; two empty lists if there is no file.

    A last line without its end, and rows of another length than the header's, were cut short by a crash, and omitted.

    Raises:
        RunFolderError: if it cannot be read.
    """
    try:
        text = read_limited(path, LIMIT).decode("utf-8", errors="replace")
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, csv.Error) as error:
        raise RunFolderError(f"cannot read {path}: {one_line(error)}") from None
    header = lines[0] if lines else []
    return header, [row for row in lines[1:] if len(row) == len(header)]


def table_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV text. Numbers keep every digit: reading them gives the same floats."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def numbers(header: Sequence[str], row: Sequence[str]) -> dict[str, float]:
    """A row's numbers by name; empty cells are omitted."""
    found = ((name, _number(cell)) for name, cell in zip(header, row, strict=True))
    return {name: number for name, number in found if number is not None}


def _cells(columns: Sequence[str], row: Mapping[str, float | int]) -> list[str]:
    return [repr(float(row[name])).removesuffix(".0") if name in row else "" for name in columns]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
