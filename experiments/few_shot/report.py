"""Results as they come: rows of a Markdown table, a JSON file that holds every finished row, and progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track as bar

from metarl.errors import ConfigError, RunFolderError
from metarl.evaluation.statistics import Interval
from metarl.run_folder import atomic_write
from metarl.training.progress import LINE_EVERY, clock


@dataclass(frozen=True)
class Row:
    """A contender's line in a table: its measures, each with a 95% interval over held-out tasks."""

    table: str  # title, with the protocol and the measure
    learner: str
    family: str
    cells: Mapping[str, Interval]
    seconds: float = 0.0  # of meta-training
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what it was trained with
    digits: int = 3

    def record(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        cells = {name: {"mean": cell.mean, "ci95": [cell.low, cell.high]} for name, cell in self.cells.items()}
        return {
            "table": self.table,
            "learner": self.learner,
            "family": self.family,
            "results": cells,
            "seconds": round(self.seconds, 1),
            "recipe": dict(self.recipe),
        }

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> Row:
        """The row of a record."""
        cells = {name: Interval(cell["mean"], *cell["ci95"]) for name, cell in record["results"].items()}
        table, learner, family = (record[key] for key in ("table", "learner", "family"))
        return Row(table, learner, family, cells, record["seconds"], record["recipe"])


def markdown(rows: Sequence[Row]) -> str:
    """One table for each title, in order; a measure that a contender does not have stays empty."""
    texts = []
    for title in dict.fromkeys(row.table for row in rows):
        mine = [row for row in rows if row.table == title]
        names = list(dict.fromkeys(name for row in mine for name in row.cells))
        lines = [["learner", "family", *names, "training"], ["---"] * (len(names) + 3)]
        for row in mine:
            cells = [_cell(row.cells.get(name), row.digits) for name in names]
            lines.append([row.learner, row.family, *cells, f"{row.seconds:.0f} s" if row.seconds else ""])
        texts.append(f"{title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(texts)


def _cell(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return ""
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def stored_tables(path: Path, problems: Sequence[str]) -> str:
    """The tables of the problems that are finished in a file of results; empty if there is no such file.

    Raises:
        ConfigError: if the file is something else.
    """
    try:
        stored = json.loads(path.read_bytes())["problems"]
        finished = [stored[name] for name in problems if name in stored and stored[name]["complete"]]
        return markdown([Row.of_record(record) for problem in finished for record in problem["rows"]])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} holds no results of python -m experiments.few_shot: move it away") from None


class Results:
    """The results in a JSON file, problem by problem; those of other problems stay as they are.

    Args:
        path: the file; None keeps nothing.

    Raises:
        RunFolderError: if the file cannot be written, or holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.save({})  # to find before the training whether it can be written

    def save(self, problems: Mapping[str, Any]) -> None:
        """Write the file with the new content of some problems."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Read again each time: another command may have finished another problem.
            stored = json.loads(self.path.read_text())["problems"] if self.path.exists() else {}
            content = json.dumps({"problems": {**stored, **problems}}, indent=1) + "\n"
        except OSError as error:
            raise RunFolderError(f"{self.path}: {error.strerror}: choose another --out") from None
        except (ValueError, KeyError, TypeError):
            raise RunFolderError(f"{self.path} holds no results of this command: choose another --out") from None
        atomic_write(self.path, content.encode())


def track(console: Console, title: str, iterations: int) -> Iterator[int]:
    """0 .. iterations - 1, with a bar on a terminal, or a line now and then."""
    if console.is_terminal:
        yield from bar(range(iterations), title, console=console, transient=True)
        return
    started = printed = time.monotonic()
    for number in range(iterations):
        yield number
        now = time.monotonic()
        if now - printed > LINE_EVERY:
            printed = now
            left = (now - started) * (iterations - number - 1) / (number + 1)
            console.print(f"{title}: {number + 1} of {iterations} iterations, {clock(left)} left", soft_wrap=True)
