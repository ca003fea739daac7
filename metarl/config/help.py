"""What `--help` prints: every setting with its value and the sentence of its definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

from agents.settings import Settings
from metarl.config.parsing import leaves, show

WIDTH = 110  # at most
ABSENT = object()


def text(
    command: str, introduction: str, kind: type[Settings], plain: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> str:
    """The help of a command.

    Args:
        introduction: what it does, with examples.
        plain: the values that its command line would use.
        groups: the choices of each group that is chosen by a name.
    """
    width = max(min(WIDTH, get_terminal_size((WIDTH, 24)).columns), 40)
    column = min(44, width // 2)
    lines = introduction.strip().splitlines()
    if groups:
        lines += ["", "Groups, chosen by name"]
        for name, choices in groups.items():
            first, *more = wrap(f"{name}: {', '.join(choices)}", width, break_on_hyphens=False)
            lines += [first, *(f"  {line}" for line in more)]
    lines += ["", "Keys, with the values that this command line would use (null: none)"]
    told: set[str] = set()
    for key, field in leaves(kind):
        value = _value(plain, key, field.default)
        if value is not ABSENT:
            description = field.description or ""
            lines += _indented(f"  {key}={show(value)}", column, width, "" if description in told else description)
            told.add(description)
    own = {**plain.get("env", {})}.keys() - {key.partition(".")[2] for key, _ in leaves(kind)} - {"entry"}
    lines += [f"  env.{name}={show(plain['env'][name])}" for name in sorted(own)]  # of somebody's own environment
    lines += [
        "",
        "Options",
        "  -m               one run for each combination of values given as a,b,c",
        "  --cfg job        show the configuration and do nothing",
        "  --hydra-help     the options of Hydra, which reads this command line",
        f'  Tab completion for bash: eval "$(python -m metarl.{command} --shell-completion install=bash)"',
    ]
    return "\n".join(lines)


def _value(plain: Mapping[str, Any], key: str, default: Any) -> Any:
    """What a setting is; if it is not set: its default, unless that is None."""
    here: Any = plain
    for name in key.split("."):
        if not isinstance(here, Mapping) or name not in here:
            return ABSENT if default is None else default
        here = here[name]
    return here


def _indented(left: str, column: int, width: int, right: str) -> list[str]:
    """Text beside a label, in as many lines as it needs."""
    first, *more = wrap(right, width - column) or [""]
    if len(left) >= column:
        return [left, *(" " * column + line for line in (first, *more) if line)]
    return [f"{left:{column}}{first}".rstrip(), *(" " * column + line for line in more)]
