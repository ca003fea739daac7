"""What the documentation of an environment says of its numbers, for whoever has the numbers without the code.

The first table of a docstring whose header begins with `index` tells of the observation. A row without an index goes on
with the meaning of the row above:

    | index | meaning   | unit |
    |-------|-----------|------|
    | 0-2   | the hand  | m    |
    | 3     | its speed | m/s  |

A paragraph that begins with `Action (A = 2): ` tells of the action.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

from envs.core.environment import Environment, MujocoEnvironment

ACTION = re.compile(r"^Action \(A = \d+\): (.*?)(?:\n\n|\Z)", re.DOTALL | re.MULTILINE)
INDEX = re.compile(r"(\d+)(?:-(\d+))?")
ELSEWHERE = "as in "  # begins what stands for the same of a class that is inherited


class Entry(NamedTuple):
    """Consecutive numbers of an observation, from index `first` to index `last`, with their unit or units."""

    first: int
    last: int
    meaning: str
    unit: str


def documentation(env: Environment) -> str:
    """The docstring of an environment's class, and those of what it inherits and is documented by."""
    return "\n\n".join(_docstrings(env))


def entries(env: Environment) -> list[Entry]:
    """What the numbers of an environment's observation mean, in order; what no table tells is left out.

    Rows of a class come before those of what it inherits, which count where they do not overlap with any of them.
    """
    found: dict[int, Entry] = {}
    covered: set[int] = set()
    for text in _docstrings(env):
        own = [row for row in _rows(text) if not row.meaning.startswith(ELSEWHERE) and row.last < env.observation_size]
        own = [row for row in own if covered.isdisjoint(range(row.first, row.last + 1))]
        found |= {row.first: row for row in own}
        covered.update(index for row in own for index in range(row.first, row.last + 1))
    return [found[first] for first in sorted(found)]


def action(env: Environment) -> str:
    """What the numbers of an environment's action mean, in order; empty where nothing tells it.

    Where a class goes on from what it inherits, the latter comes behind.
    """
    told: list[str] = []
    for match in filter(None, map(ACTION.search, _docstrings(env))):
        told.append(" ".join(match[1].split()))
        if not told[-1].startswith(ELSEWHERE):
            break
    return " ".join(told)


def _rows(text: str) -> list[Entry]:
    """The rows of the observation's table in a docstring."""
    rows: list[Entry] = []
    for index, meaning, unit in _cells(text):
        if match := INDEX.fullmatch(index):
            rows.append(Entry(int(match[1]), int(match[2] or match[1]), meaning, unit))
        elif not index and rows:
            rows[-1] = rows[-1]._replace(meaning=f"{rows[-1].meaning} {meaning}")
    return rows


def _cells(text: str) -> Iterator[list[str]]:
    """The first three cells of every line of that table."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.replace(" ", "").startswith("|index|"):
            break
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")[1:4]]
        if len(cells) < 3:
            return
        yield cells


def _docstrings(env: Environment) -> list[str]:
    classes = [type(env), *([env.documented_by] if env.documented_by else [])]
    kinds = [kind for each in classes for kind in each.__mro__[: each.__mro__.index(Environment)]]
    return [inspect.cleandoc(kind.__doc__) for kind in kinds if kind.__doc__ and kind is not MujocoEnvironment]
