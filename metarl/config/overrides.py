"""Settings as they stand on the command line: short forms written out, and mistakes explained in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException

from agents.settings import ENTRY
from metarl.config.algorithms import ALGORITHMS
from metarl.config.parsing import former_names, show
from metarl.config.settings import Budget
from metarl.errors import ConfigError, nearest

KINDS = {"env": "environment", "algo": "algorithm", "agent": "policy", "recipe": "recipe"}
LAUNCHERS = "pip install hydra-joblib-launcher (joblib), for clusters hydra-submitit-launcher or hydra-ray-launcher"
MISSING_LAUNCHER = re.compile(r"Could not find 'hydra/launcher/(\w+)'")
OWN = ("env", "algo", "agent")  # groups in which a package.module:Class may be chosen
WITH_SETTINGS = ("algo", "agent")  # where that class defines its settings; an environment of one's own is "custom"
# Keys that older command lines use, with those of today.
FORMER = {f"algo.{old}": f"algo.{new}" for kind in ALGORITHMS.values() for old, new in former_names(kind).items()}


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra understands them.

    Raises:
        ConfigError: names the first that cannot be parsed.
    """
    parser = OverridesParser.create()
    parsed = []
    for override in overrides:
        try:
            parsed.append(parser.parse_override(override))
        except HydraException as error:
            raise ConfigError(_not_understood(override, error)) from None
    return parsed


def write_out(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """The overrides in Hydra's own words.

    An environment given as module:class becomes env=custom with that entry. What is set in a group of somebody's own,
    and task ranges, may be new keys, and nothing else may; a setting's former name becomes today's; one limit of the
    budget replaces the recipe's. Doing it twice changes nothing.

    Raises:
        ConfigError: for an override that cannot be parsed or should not be, or several values without a sweep.
    """
    parsed = parse(overrides)
    for override in parsed:
        _check_form(override, sweep)
    lines = [line for override in parsed for line in _own(override)]
    own = {group for group, _ in own_entries(lines)} | ({"env"} if "env=custom" in lines else set())
    if "algo" not in own:  # a user's algorithm may use these names for settings of its own
        lines = [_renamed(line) for line in lines]
    new = tuple(f"{group}." for group in own) + ("env.tasks.", "env.tasks=")
    lines = [_added(line, new) for line in lines]
    given = {key_of(line) for line in lines}
    limits = [f"budget.{name}" for name in Budget.model_fields]
    return lines + [f"{limit}=null" for limit in limits if given.intersection(limits) and limit not in given]


def environment_by_key(lines: Sequence[str]) -> list[str]:
    """The lines for a command without groups: the environment's name is a key, and its options may be new keys."""
    chosen = [line for line in lines if line != "env=custom"]
    named = [f"env.name={line.partition('=')[2]}" if key_of(line) == "env" else line for line in chosen]
    return [f"++{line.lstrip('+')}" if key_of(line).startswith("env.") else line for line in named]


def own_entries(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Group and `package.module:Class` of every algorithm and every policy of somebody's own."""
    chosen = [(override.key_or_group, override) for override in parse(overrides)]
    named = [(group, name) for group, override in chosen if group in WITH_SETTINGS for name in _names(override)]
    return [(group, name) for group, name in named if ENTRY.fullmatch(name)]


def is_own(choice: str) -> bool:
    """Whether a choice of a group is somebody's own, and so is not to be listed."""
    return choice == "custom" or ":" in choice


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep, as Hydra's own sweeper divides them."""
    return BasicSweeper.split_arguments(parse(overrides), None)[0]


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def unknown_choice(override: Override, groups: dict[str, list[str]]) -> str | None:
    """A line about a group's choice that does not exist, or None if there is no such mistake."""
    group, value = override.key_or_group, override.value()
    if group not in groups or override.type == OverrideType.DEL or not isinstance(value, str) or value in groups[group]:
        return None
    valid = [choice for choice in groups[group] if not is_own(choice)]
    return f"{group}={value}: unknown {KINDS.get(group, group)}; {nearest(value, valid)}"


def unknown_key(override: Override, config: dict[str, Any]) -> str | None:
    """A line about a key that `config` lacks, or None if the override changes one that is there, or adds one."""
    key = override.key_or_group
    if override.type in (OverrideType.ADD, OverrideType.FORCE_ADD):
        return None
    here: Any = config
    for depth, name in enumerate(key.split(".")):
        if not isinstance(here, dict) or name not in here:
            above = ".".join(key.split(".")[:depth])
            return f"{override.input_line}: unknown key; {_nearest_key(key, above, here, config)}"
        here = here[name]
    return None


def hydra_text(error: Exception) -> str:
    """An error's message, in one line, without addresses of manuals and folders."""
    text = str(error).partition("Config search path")[0]
    if missing := MISSING_LAUNCHER.search(text):
        return f"hydra/launcher={missing[1]}: not installed; {LAUNCHERS}"
    lines = [line.strip().rstrip(".:") for line in text.splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("See http", "full_key", "object_type")))


def _check_form(override: Override, sweep: bool) -> None:
    line, key = override.input_line or "", override.key_or_group
    several = override.is_sweep_override()
    if override.type == OverrideType.DEL and not key.startswith("hydra"):
        raise ConfigError(f"{line}: a setting cannot be removed; where it may be empty, write {key}=null")
    if several and not sweep:
        listed = f"{key}=[{line.partition('=')[2]}]"
        raise ConfigError(f"{line}: several values are a sweep, which needs -m; a list is written {listed}")
    if key in KINDS and not several and not isinstance(override.value(), str | dict):
        raise ConfigError(f"{line}: choose the {KINDS[key]} by its name; --help lists them")


def _own(override: Override) -> list[str]:
    line, group = override.input_line or "", override.key_or_group
    entries = _names(override) if group in OWN else []
    own = [":" in entry for entry in entries]
    if not any(own):
        return [line]
    wrong = [entry for entry in entries if ":" in entry and not ENTRY.fullmatch(entry)]
    if wrong or (group == "env" and not all(own)):
        forms = "package.module:Class" + (", or gymnasium:Name-v0" if group == "env" else "")
        kind = "an environment" if group == "env" else f"{'an' if group == 'algo' else 'a'} {KINDS[group]}"
        mixed = ", and not mixed with others" if group == "env" else ""
        raise ConfigError(f"{line}: {kind} of your own is written {forms}{mixed}")
    return ["env=custom", f"env.entry={','.join(entries)}"] if group == "env" else [line]


def _names(override: Override) -> list[str]:
    """The choices that an override names: one, or several in a sweep."""
    value = override.value()
    several = value.list if isinstance(value, ChoiceSweep) else [value]
    texts = [getattr(each, "text", each) for each in several]  # of what is in quotes
    return [text for text in texts if isinstance(text, str)]


def _renamed(line: str) -> str:
    """The line with today's names of its setting, and of those in a group that is given whole."""
    key, value = key_of(line), parse([line])[0].value()
    if isinstance(value, dict) and _today(value, key) != value:
        plus = line[: len(line) - len(line.lstrip("+"))]
        return f"{plus}{FORMER.get(key, key)}={show(_today(value, key))}"
    return line.replace(key, FORMER[key], 1) if key in FORMER else line


def _today(group: dict[Any, Any], above: str) -> dict[Any, Any]:
    """A group of settings, the names in it replaced by those of today."""
    result = {}
    for name, value in group.items():
        key = f"{above}.{name}"
        new = FORMER.get(key, key).rpartition(".")[2] if key in FORMER else name
        result[new] = _today(value, key) if isinstance(value, dict) else value
    return result


def _added(line: str, new: tuple[str, ...]) -> str:
    """The line with as many plus signs as Hydra needs: a new key where there may be one, a change elsewhere."""
    plain = line.lstrip("+")
    if plain.startswith(new):
        return f"++{plain}"
    # A key outside of what is one's own that is not there is a mistake, which Hydra should see.
    return plain if "." in key_of(line) and not plain.startswith(("env.", "hydra")) else line


def _nearest_key(key: str, above: str, here: Any, config: dict[str, Any]) -> str:
    keys = _flatten(config)
    same_name = [other for other in keys if other.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = sorted(here) if isinstance(here, dict) else []
    beside = [f"{above}.{name}" for name in get_close_matches(key.rpartition(".")[2], siblings, 1)] if above else []
    close = beside or (same_name if len(same_name) == 1 else get_close_matches(key, keys, 1))
    if not close and not above:
        close = get_close_matches(key.partition(".")[0], siblings, 1)
    valid = f"(valid{f' in {above}' if above else ''}: {', '.join(siblings) or 'nothing'})"
    return f"did you mean '{close[0]}'? {valid}" if close else valid


def _flatten(config: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += _flatten(value, f"{prefix}{name}.")
    return keys


def _not_understood(override: str, error: Exception) -> str:
    if "=" not in override:
        return f"{override}: not understood; settings are written key=value, as in env=reach"
    reason = hydra_text(error).partition(" expecting ")[0]
    return f"{override}: not understood ({reason}); put values with special characters in quotes"
