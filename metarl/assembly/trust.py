"""Runs that somebody else may have made: their configuration is checked like a command line before it is used.

A run holds no code. It only names its environment, its algorithm and its policy, and a name can be a trap:
`subprocess:run` is one, and so is a module that lies in the run's folder. The rule: what a run names must be importable
from the user's own Python path without the run's folder; and it must be a class of the right kind, or, as environment,
a function that says that it returns one.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator, Mapping
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

import gymnasium

from envs.core.environment import Environment
from envs.entry import ID, load_entry
from envs.errors import UnknownEnvironmentError
from metarl.config.memory import check_training
from metarl.config.parsing import check_budget, missing, modernised, parse, train_settings
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError, RunFolderError
from metarl.run_folder import RunFolder

RECORD = ("format", "format_version", "versions", "git_commit", "git_dirty", "resumed")
GROUPS = {"env": "an environment", "algo": "an algorithm", "agent": "a policy"}


def stored_settings(folder: RunFolder) -> TrainSettings:
    """The settings of a run, with values of the right types and sizes, and an environment that may be made.

    Raises:
        RunFolderError: if they are unreadable, or one is missing, unknown or not allowed.
        UnknownEnvironmentError: for an environment, an algorithm or a policy that a run may not name.
    """
    plain = {key: value for key, value in folder.read_config().items() if key not in RECORD}
    try:
        return checked_settings(plain, folder.path)
    except ConfigError as error:
        raise RunFolderError(f"{folder.path / 'config.yaml'}: {error}") from None


def checked_settings(plain: Mapping[Any, Any], run: Path) -> TrainSettings:
    """The settings in a configuration that was found in a folder, of a run or of a dump.

    Raises:
        ConfigError: if one is missing, unknown or not allowed.
        UnknownEnvironmentError: for an environment, an algorithm or a policy that a run may not name.
    """
    _check_keys(plain, "")
    for group, what in GROUPS.items():
        for place in _places(plain.get(group)):
            check_outside(place, run, what)
    kind = train_settings(plain)
    plain = modernised(kind, plain)
    if key := missing(kind, plain):
        raise ConfigError(f"{key}: is missing")
    settings = parse(kind, plain)
    check_budget(settings.budget)
    check_training(settings)
    return settings


def _places(group: object) -> Iterator[str]:
    """Everything that a group, or a group in it, chooses by a name."""
    if isinstance(group, Mapping):
        yield from (str(group[key]) for key in ("entry", "name") if group.get(key) is not None)
        for value in group.values():
            yield from _places(value)


def check_outside(place: str, run: Path, what: str = GROUPS["env"]) -> None:
    """Refuse what stands in the run's own folder, before anything of it is imported.

    Args:
        place: the name of an environment, an algorithm or a policy, or its `package.module:Class`.
        run: the folder. what: which of the three it is, in words.

    Raises:
        UnknownEnvironmentError: with where it was found.
    """
    if ":" not in place:
        return
    first, _, rest = place.partition(":")
    module = rest.rpartition(":")[0] if first == ID else first
    for found in _locations(module):
        if found.resolve().is_relative_to(run.resolve()) or found.absolute().is_relative_to(run.absolute()):
            raise UnknownEnvironmentError(
                f"{place}: the run names {what} in its own folder, {found}: no code is taken from a run; "
                "if you trust it, copy it to a folder of your own"
            )


def check_factory(place: str) -> None:
    """Refuse a function that does not say it makes an environment: a run could name any other as well.

    Raises:
        UnknownEnvironmentError: with what to write.
    """
    if ":" not in place or place.startswith(f"{ID}:"):
        return
    found = load_entry(place)
    if isinstance(found, type):
        return  # of another kind it is refused where it is used
    try:
        promised = typing.get_type_hints(found).get("return")
    except Exception:  # what a foreign annotation raises is anybody's guess
        promised = None
    promised = typing.get_origin(promised) or promised
    if not (isinstance(promised, type) and issubclass(promised, Environment | gymnasium.Env)):
        name = place.rpartition(":")[2]
        raise UnknownEnvironmentError(
            f"{place}: a function must say that it makes an environment: write def {name}(...) -> gymnasium.Env, "
            "or the class that it returns"
        )


def _locations(module: str) -> list[Path]:
    """The files that importing a module would read, found without running any of them."""
    files: list[Path] = []
    folders = [Path(entry) for entry in sys.path]
    for part in filter(None, module.split(".")):
        names = [f"{part}/__init__{suffix}" for suffix in all_suffixes()] + [part + suffix for suffix in all_suffixes()]
        found = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
        if found is None:  # a package without a file, in as many folders as have it
            folders = [folder / part for folder in folders if (folder / part).is_dir()]
            continue
        files.append(found)
        folders = [found.parent] if found.stem == "__init__" else []
    return files


def _check_keys(group: Mapping[Any, Any], prefix: str) -> None:
    for key, value in group.items():
        if not isinstance(key, str):
            raise ConfigError(f"{prefix}{key!r}: a setting's name must be a text")
        if isinstance(value, Mapping):
            _check_keys(value, f"{prefix}{key}.")
