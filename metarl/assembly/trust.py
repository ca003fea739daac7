"""Runs that somebody else may have made: their configuration is checked like a command line before it is used.

A run holds no code. It only names an environment, an algorithm and a policy, and a name can be a trap: a module that
lies in the run's folder or beside it, `antigravity` of the standard library, which does something when it is imported,
or `subprocess:run`. The rule: no module is imported because a run names it, except this project's own and those that
the user trusts. It must lie outside of the run's folder. An environment must be a class of environments, or a function
that says that it returns one.

The user's word is `trust=module` beside the run, or to have trained with `env=module:Class` in this process.
"""

from __future__ import annotations

import shlex
import sys
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

import gymnasium

from envs.core.environment import Environment
from envs.entry import ID, load_entry
from envs.errors import UnknownEnvironmentError
from metarl.config.memory import check_training
from metarl.config.parsing import check_budget, modernised, parse, train_settings
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError, RunFolderError
from metarl.layout import beside
from metarl.run_folder import RunFolder

RECORD = ("format", "format_version", "versions", "git_commit", "git_dirty", "resumed")
# What a run must say; anything else that it lacks means its default.
NEEDED = (
    *("env.name", "agent.name", "algo.name", "algo.tasks", "algo.episodes", "algo.trial_episodes"),
    *("seed", "device", "threads", "torch_threads", "checkpoint.every", "checkpoint.keep"),
    *("budget.iterations", "budget.env_steps", "budget.minutes"),
    *("evaluate.tasks", "evaluate.episodes_per_step", "evaluate.steps", "evaluate.split", "evaluate.deterministic"),
)
GROUPS = {"env": "an environment", "algo": "an algorithm", "agent": "a policy"}
OWN = ("envs", "agents", "metarl", "experiments")
_named: set[str] = set()  # modules that commands of this process named: those of the user's own trainings


def stored_settings(folder: RunFolder, trust: Collection[str] = ()) -> TrainSettings:
    """The settings of a run, with values of the right types and sizes, and an environment that may be made.

    Args:
        trust: modules that the user trusts, by their first names.

    Raises:
        RunFolderError: if they are unreadable, or one is missing, unknown or not allowed.
        UnknownEnvironmentError: for an environment, an algorithm or a policy that a run may not name.
    """
    # Ignore a stored trust=: only the user may give it.
    plain = {key: value for key, value in folder.read_config().items() if key not in (*RECORD, "trust")}
    try:
        return checked_settings(plain, folder.path, trust)
    except ConfigError as error:
        raise RunFolderError(f"{folder.path / 'config.yaml'}: {error}") from None


def checked_settings(plain: Mapping[Any, Any], run: Path, trust: Collection[str] = ()) -> TrainSettings:
    """The settings in a configuration that was found in a folder, of a run or of a dump.

    Args:
        trust: modules that the user trusts, by their first names.

    Raises:
        ConfigError: if one is missing, unknown or not allowed.
        UnknownEnvironmentError: for an environment, an algorithm or a policy that a run may not name.
    """
    _check_keys(plain, "")
    check_named(plain, run, trust)
    kind = train_settings(plain)
    plain = modernised(kind, plain)
    for key in NEEDED:
        group, _, leaf = key.rpartition(".")
        if leaf not in (plain.get(group) or {} if group else plain):
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


def remember(settings: TrainSettings) -> None:
    """Note that the user trains with these settings: what they name is trusted from now on, in this process."""
    _named.update(modules(settings))


def modules(settings: TrainSettings) -> list[str]:
    """The modules outside of this project that settings name, by their first names: what a user must trust."""
    plain = settings.plain()
    places = (place for group in GROUPS for place in _places(plain[group]))
    return sorted({first for place in places if (first := _foreign(place))})


def words(*settings: TrainSettings) -> str:
    """What a command on runs with these settings needs at its end, such as " trust=my_robots"."""
    foreign = sorted({module for each in settings for module in modules(each)})
    return f" {shlex.quote(_trusting(foreign))}" if foreign else ""


def _trusting(foreign: Sequence[str]) -> str:
    """What trusts some modules, as a command line says it."""
    return f"trust={foreign[0]}" if len(foreign) == 1 else f"trust=[{','.join(foreign)}]"


def check_named(plain: Mapping[str, Any], run: Path, trust: Collection[str] = ()) -> None:
    """Refuse what a stored configuration names if the user has not said to trust it; nothing of it is imported.

    Args:
        run: the folder in which the configuration was found. trust: modules that the user trusts.

    Raises:
        UnknownEnvironmentError: with what to say.
    """
    named = {_foreign(place) for group in GROUPS for place in _places(plain.get(group))}
    every = _trusting(sorted({module for module in named if module} | set(trust)))
    for group, what in GROUPS.items():
        for place in _places(plain.get(group)):
            check_outside(place, run, what)
            first = _foreign(place)
            if first is None or first in {*trust, *_named}:
                continue
            found = next(iter(_locations(_module(place))), None)
            lies = f", which lies in {found.parent}" if found else ""
            raise UnknownEnvironmentError(
                f"{group}={place}: the run names code from outside of metarl, in the module {first}{lies}: "
                f"if you trust it, say so with {shlex.quote(every)}"
            )


def check_outside(place: str, run: Path, what: str = GROUPS["env"]) -> None:
    """Refuse what stands in the run's own folder, before anything of it is imported.

    Args:
        place: the name of an environment, an algorithm or a policy, or its `package.module:Class`.
        run: the folder. what: which of the three it is, in words.

    Raises:
        UnknownEnvironmentError: with where it was found.
    """
    for found in _locations(_module(place)):
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
        return  # other classes are refused where they are used
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


def _module(place: str) -> str:
    """The module that a place is in; empty for a name, and for an environment that is registered already."""
    first, colon, rest = place.partition(":")
    if first == ID:
        return rest.rpartition(":")[0] or _registered(rest)
    return first if colon else ""


def _registered(name: str) -> str:
    """The module that making an environment registered with Gymnasium imports; empty for Gymnasium's own."""
    versions = [spec for spec in gymnasium.registry.values() if name in (spec.id, spec.id.rpartition("-v")[0])]
    newest = max(versions, key=lambda spec: spec.version or 0, default=None)
    place = newest.entry_point if newest else None
    module = place.partition(":")[0] if isinstance(place, str) else ""  # a function is there already
    return "" if module.partition(".")[0] == ID else module


def _foreign(place: str) -> str | None:
    """The first name of the module that a place is in; None for a name, and for a module of this project."""
    first = _module(place).partition(".")[0]
    return None if not first or (first in OWN and beside(first)) else first


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
