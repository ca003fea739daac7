"""Command lines of `key=value`, like those of `metarl.train`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence

from metarl.config.command_line import exit_status
from metarl.errors import ConfigError, nearest


def given(arguments: Sequence[str], keys: Collection[str]) -> dict[str, str]:
    """The values by key; the last one counts.

    Raises:
        ConfigError: for an argument with another key, or without a value.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in keys:
            raise ConfigError(f"{argument}: unknown argument; {nearest(key, keys)}")
        found[key] = value
    return found


def flag(values: dict[str, str], key: str, otherwise: bool = False) -> bool:
    """true or false.

    Raises:
        ConfigError: for anything else.
    """
    value = values.get(key, str(otherwise).lower())
    if value not in ("true", "false"):
        raise ConfigError(f"{key}={value}: must be true or false")
    return value == "true"


def numbers(values: dict[str, str], key: str, otherwise: Sequence[int]) -> tuple[int, ...]:
    """Different integers from 0, between commas.

    Raises:
        ConfigError: for anything else.
    """
    parts = values[key].split(",") if values.get(key) else [str(number) for number in otherwise]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{key}={values[key]}: must be integers from 0, as in {key}=0,1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))


def command(arguments: Sequence[str] | None, words: str | None, work: Callable[[list[str]], None], bare: bool) -> int:
    """Run a command and return its exit status: 0, that of its error, or 2 if it needs arguments and has none.

    Args:
        arguments: None: those of this process. words: what `--help` prints.
        work: what to do with the arguments. bare: whether the command works without any.
    """
    own = sys.argv[1:] if arguments is None else list(arguments)
    missing = not own and not bare
    if missing or {"-h", "--help"} & set(own):
        print(words)
        return 2 if missing else 0
    return exit_status(lambda: work(own))
