"""What the documentation of an environment says of its numbers, for whoever has the numbers without the code.

The table of the observation in the docstring of a class, and in those of what it inherits, is the one place:

    | index | meaning   | unit |
    |-------|-----------|------|
    | 0-2   | the hand  | m    |
    | 3     | its speed | m/s  |
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

from envs.core.environment import Environment, MujocoEnvironment

ROW = re.compile(r"^\s*\|\s*(\d+)(?:-(\d+))?\s*\|([^|]*)\|([^|]*)\|", re.MULTILINE)
ELSEWHERE = "as in "  # begins the meaning of a row that stands for rows of a class that is inherited


class Entry(NamedTuple):
    """Consecutive numbers of an observation, from index `first` to index `last`, with their unit or units."""

    first: int
    last: int
    meaning: str
    unit: str


def documentation(env: Environment) -> str:
    """The docstring of an environment's class, and those of what it inherits."""
    return "\n\n".join(_docstrings(env))


def entries(env: Environment) -> list[Entry]:
    """What the numbers of an environment's observation mean, in order; what no table tells is left out.

    Rows of a class come before those of what it inherits, which count where they do not overlap with any of them.
    """
    found: dict[int, Entry] = {}
    covered: set[int] = set()
    for text in _docstrings(env):
        rows = [Entry(int(a), int(b or a), meaning.strip(), unit.strip()) for a, b, meaning, unit in ROW.findall(text)]
        own = [row for row in rows if not row.meaning.startswith(ELSEWHERE) and row.last < env.observation_size]
        own = [row for row in own if covered.isdisjoint(range(row.first, row.last + 1))]
        found |= {row.first: row for row in own}
        covered.update(index for row in own for index in range(row.first, row.last + 1))
    return [found[first] for first in sorted(found)]


def _docstrings(env: Environment) -> list[str]:
    kinds = type(env).__mro__[: type(env).__mro__.index(Environment)]
    return [inspect.cleandoc(kind.__doc__) for kind in kinds if kind.__doc__ and kind is not MujocoEnvironment]
