"""What a setting may be: one table of rules, and the checks that concern several settings.

Task parameters, and the settings that an environment of a user's own has, are checked where they are used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from metarl.config.overrides import ENTRY
from metarl.errors import ConfigError, nearest

Config = dict[str, Any]


class Rule(NamedTuple):
    """`convert` returns the value in its proper type, or raises ValueError when it is none that `allowed` describes."""

    allowed: str
    convert: Callable[[Any], object]


def integer(low: int, high: int | None = None, step: int = 1) -> Rule:
    """An integer in a closed range, a multiple of `step`; 4e6 counts as one."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValueError
        if value < low or (high is not None and value > high) or value % step:
            raise ValueError
        return int(value)

    kind = "an even integer" if step == 2 else "an integer"
    return Rule(f"{kind}, {low} or more" if high is None else f"{kind} from {low} to {high}", convert)


def number(low: float, high: float = math.inf, above: bool = False) -> Rule:
    """A finite number from `low`, or above it, up to `high`."""

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError
        if value < low or value > high or (above and value == low):
            raise ValueError
        return float(value)

    start = f"above {low:g}" if above else f"from {low:g}"
    return Rule(f"a number {start}" + ("" if high == math.inf else f" up to {high:g}"), convert)


def choice(*names: str) -> Rule:
    """One of the names."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError
        return value

    return Rule("one of " + ", ".join(names), convert)


def instance(kind: type, allowed: str) -> Rule:
    """A value of a type."""

    def convert(value: Any) -> object:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return Rule(allowed, convert)


def list_of(rule: Rule) -> Rule:
    """A list with at least one entry, all of which obey the rule."""

    def convert(value: Any) -> list[object]:
        if not isinstance(value, list) or not value:
            raise ValueError
        return [rule.convert(entry) for entry in value]

    return Rule(f"a list [a, b, ...]; each entry {rule.allowed}", convert)


def optional(rule: Rule) -> Rule:
    """What the rule allows, or null."""
    return Rule(f"{rule.allowed}, or null", lambda value: None if value is None else rule.convert(value))


def matching(pattern: str, allowed: str) -> Rule:
    """A text that matches the whole pattern."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Rule(allowed, convert)


def named(allowed: str) -> Rule:
    """A text that is not empty; a number counts as one, for folders such as 2024."""

    def convert(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            raise ValueError
        return str(value)

    return Rule(allowed, convert)


count = integer(1)
natural = integer(0)
steps = integer(0, 1000)
threads = integer(0, 1024)
LISTED = 100_000  # tasks of a published list, which is drawn whole
listed = integer(1, LISTED)
positive = number(0.0, above=True)
weight = number(0.0)
boolean = instance(bool, "true or false")
text = named("a name")
folder = named("a folder")
seed = integer(0, 2**32 - 1)
device = matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<number>")
split = choice("test", "ood", "train")
checkpoint = choice("last", "best")

ALGORITHM: dict[str, Rule] = {
    "name": choice("maml", "fomaml", "reptile", "in_context", "multitask"),
    "tasks": count,
    "episodes": count,
    "trial_episodes": count,
    "discount": number(0.0, 1.0, above=True),
    "trace": number(0.0, 1.0),
    "baseline": choice("critic", "linear"),
    "inner.steps": steps,
    "inner.rate": positive,
    "inner.later_rate": positive,
    "inner.learn_rates": boolean,
    "inner.rate_multiplier": weight,
    "inner.adapt": choice("all", "head", "body"),
    "inner.clip": optional(positive),
    "inner.first_order": boolean,
    "inner.unadapted_weight": weight,
    "inner.chunk": natural,
    "inner.workers": threads,
    "inner.compile": boolean,
    "outer.learning_rate": positive,
    "outer.half_life": optional(positive),
    "outer.epochs": count,
    "outer.minibatches": count,
    "outer.clip": positive,
    "outer.value": weight,
    "outer.entropy": weight,
    "outer.gradient_clip": positive,
    "outer.interpolation": number(0.0, 1.0, above=True),
}
TRAIN: dict[str, Rule] = {
    "env.name": text,
    "env.entry": matching(ENTRY.pattern, "package.module:Class, given as env=package.module:Class"),
    "env.horizon": count,
    "env.goal_visible": boolean,
    "env.object_visible": boolean,
    "env.closing": weight,
    "env.tasks": instance(dict, "a group of ranges, such as env.tasks.goal=[0,1]"),
    **{f"algo.{key}": rule for key, rule in ALGORITHM.items()},
    "algo.warm_start.iterations": natural,
    "algo.warm_start.run": optional(folder),
    **{f"algo.warm_start.settings.{key}": rule for key, rule in ALGORITHM.items()},
    "agent.name": choice("transformer", "mlp"),
    "agent.width": count,
    "agent.layers": count,
    "agent.heads": count,
    "agent.context": choice("auto", "none", "episode", "trial"),
    "agent.hidden": list_of(count),
    "agent.activation": choice("relu", "tanh"),
    "agent.initial_std": positive,
    "seed": seed,
    "device": device,
    "threads": threads,
    "torch_threads": integer(1, 1024),
    "run_dir": optional(folder),
    "resume": optional(folder),
    "budget.iterations": optional(count),
    "budget.env_steps": optional(count),
    "budget.minutes": optional(positive),
    "checkpoint.every": count,
    "checkpoint.keep": count,
    "evaluate.tasks": listed,
    "evaluate.episodes_per_step": count,
    "evaluate.steps": optional(steps),
    "evaluate.split": split,
    "evaluate.deterministic": boolean,
}
EVALUATE: dict[str, Rule] = {
    "run": named("the folder of a trained run, such as runs/reach-maml-0"),
    "split": split,
    "checkpoint": checkpoint,
    "tasks": listed,
    "episodes": optional(count),
    "steps": optional(steps),
    "seed": seed,
    "device": device,
    "threads": threads,
    "deterministic": boolean,
}
RENDER: dict[str, Rule] = {
    "run": named("the folder of a trained run, such as runs/reach-maml-0"),
    "split": split,
    "checkpoint": checkpoint,
    "task": natural,
    "out": optional(named("a file name")),
    "width": integer(16, 4096, step=2),
    "height": integer(16, 4096, step=2),
    "fps": optional(number(0.0, 240.0, above=True)),
    "seed": seed,
    "device": device,
}
REPRODUCE: dict[str, Rule] = {
    "dump": named("the folder of a dump, such as runs/reach-maml-0/dumps/iteration-000020"),
    "device": device,
}
TABLES = {"train": TRAIN, "evaluate": EVALUATE, "render": RENDER, "reproduce": REPRODUCE}


def apply_rules(config: Config, table: Mapping[str, Rule]) -> Config:
    """A copy of `config` whose values have the types that the table names.

    A rule whose setting is not there is left out. An environment may have settings of its own, without a rule.

    Raises:
        ConfigError: names the first setting that does not exist or whose value is not allowed, and what is.
    """
    result = _copy(config)
    for key, rule in table.items():
        *path, leaf = key.split(".")
        group: Any = result
        for depth, name in enumerate(path, 1):
            group = group.get(name, {})
            if not isinstance(group, dict):
                here = ".".join(path[:depth])
                inside = _inside(f"{here}.", table)
                raise ConfigError(
                    f"{here}={show(group)}: is a group of settings ({', '.join(inside)}), set one of them"
                )
        if leaf in group:
            try:
                group[leaf] = rule.convert(group[leaf])
            except (ValueError, OverflowError):
                raise ConfigError(f"{key}={show(group[leaf])}: must be {rule.allowed}") from None
    for key in leaves(config, stop=table):
        if key not in table and not key.startswith("env."):
            group, _, leaf = key.rpartition(".")
            raise ConfigError(f"{key}: unknown key; {nearest(leaf, _inside(f'{group}.' if group else '', table))}")
    return result


def check_budget(budget: Config) -> None:
    """Training needs one limit.

    Raises:
        ConfigError: if there is none, or several.
    """
    limits = {key: value for key, value in budget.items() if value is not None}
    if len(limits) != 1:
        given = ", ".join(f"{key}={value:g}" for key, value in limits.items()) or "none of them"
        raise ConfigError(f"budget: must have exactly one of {', '.join(budget)} (given: {given})")


def check_memory(algo: str, agent: Config) -> None:
    """In-context learning needs a policy that remembers, and multi-task training one that does not.

    Raises:
        ConfigError: if it is the other way round.
    """
    memory = agent.get("context", "none")
    if algo == "in_context" and memory == "none":
        remedy = "choose agent=transformer agent.context=auto, or algo=multitask"
        raise ConfigError(
            f"algo=in_context: needs a policy that remembers, which agent={agent['name']} here does not; {remedy}"
        )
    if algo == "multitask" and memory != "none":
        remedy = "choose agent.context=none, or algo=in_context"
        raise ConfigError(f"agent.context={memory}: algo=multitask is for a policy that does not remember; {remedy}")


def longest_trial(algo: Mapping[str, Any]) -> int:
    """The episodes that the policy may have to remember: of the algorithm itself, or of what it begins with."""
    phases, warm = [algo], algo.get("warm_start") or {}
    if warm.get("iterations") or warm.get("run"):
        phases.append(warm["settings"])
    return max(phase.get("trial_episodes", 1) for phase in phases)


def leaves(config: Mapping[str, Any], stop: Container[str] = (), prefix: str = "") -> list[str]:
    """The dotted keys of all settings; groups named in `stop` count as one setting."""
    keys: list[str] = []
    for name, value in config.items():
        key = f"{prefix}{name}"
        keys += leaves(value, stop, f"{key}.") if isinstance(value, dict) and key not in stop else [key]
    return keys


def show(value: object) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(show(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{show(entry)}' for key, entry in value.items())}}}"
    return str(value) or "''"


def _inside(prefix: str, table: Mapping[str, Rule]) -> list[str]:
    """The names that follow a prefix in the table's keys."""
    return sorted({key.removeprefix(prefix).split(".")[0] for key in table if key.startswith(prefix)})


def _copy(value: Any) -> Any:
    return {key: _copy(entry) for key, entry in value.items()} if isinstance(value, dict) else value
