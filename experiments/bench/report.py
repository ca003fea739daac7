"""The table and the JSON file of a benchmark run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.bench.measure import Row

VERDICTS = {True: "met", False: "missed", None: ""}


def verdict(row: Row) -> bool | None:
    """Whether the target is met; None without one."""
    return None if row.target is None else row.target.met(row.value)


def write_json(
    path: Path, machine: dict[str, object], settings: dict[str, object], rows: Sequence[Row], missing: Sequence[str]
) -> None:
    """Everything that was measured, and on what."""
    content = {
        "machine": machine,
        "settings": settings,
        "rows": [asdict(row) | {"target": describe_target(row), "met": verdict(row)} for row in rows],
        "missing": list(missing),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def print_table(machine: dict[str, object], rows: Sequence[Row], missing: Sequence[str]) -> None:
    """One table for all groups; below it what could not be measured."""
    versions = machine["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    table = Table(title=f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, {listed}")
    for heading in ("group", "figure", "median", "min..max", "target", "", "detail"):
        table.add_column(heading, justify="right" if heading in ("median", "target") else "left")
    previous = None
    for row in rows:
        if row.group != previous and previous is not None:
            table.add_section()
        group, previous = row.group if row.group != previous else "", row.group
        span = f"{format_value(row.low)}..{format_value(row.high)}"
        table.add_row(
            group,
            row.name,
            f"{format_value(row.value)} {row.unit}",
            span,
            describe_target(row) or "",
            VERDICTS[verdict(row)],
            row.detail,
        )
    console = Console(markup=False)
    # A pipe or a log file has no width of its own: do not fold the table to 80 columns there.
    (console if console.is_terminal else Console(width=200, markup=False)).print(table)
    for line in missing:
        print(line)


def describe_target(row: Row) -> str | None:
    """The target in words, such as `>= 1.5`."""
    return f"{row.target.relation} {row.target.bound:g}" if row.target else None


def format_value(value: float) -> str:
    """Three significant digits; small numbers as powers of ten."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
