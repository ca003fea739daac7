"""The border: plain data becomes settings, and a mistake in it one line."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from omegaconf import MISSING
from pydantic import SerializeAsAny, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from agents.settings import POLICIES, Chosen, PolicySettings, Settings
from metarl.config.algorithms import ALGORITHMS, AlgorithmSettings
from metarl.config.deployment import AdaptSettings, ExportSettings, ViewSettings
from metarl.config.settings import (
    Budget,
    EvaluateSettings,
    RenderSettings,
    ReportSettings,
    ReproduceSettings,
    TrainSettings,
)
from metarl.errors import ConfigError, nearest

HIDDEN = {"entry", "origin"}  # what the program fills in
Plain = dict[str, Any]
Parsed = TypeVar("Parsed", bound=Settings)

COMMANDS: dict[str, type[Settings]] = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "render": RenderSettings,
    "report": ReportSettings,
    "reproduce": ReproduceSettings,
    "adapt": AdaptSettings,
    "export": ExportSettings,
    "view": ViewSettings,
}
# What somebody's own must be a subclass of, and its settings.
OWN: dict[str, tuple[str, type[Chosen]]] = {
    "algo": ("metarl.algorithms.learner.Learner", AlgorithmSettings),
    "agent": ("agents.policy.Policy", PolicySettings),
}


def parse(kind: type[Parsed], plain: Mapping[str, Any]) -> Parsed:
    """Settings of a kind from plain data.

    Raises:
        ConfigError: names the first setting that does not exist or whose value is not allowed, and what is.
    """
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        # Report wrong values before unknown keys.
        first = min(details, key=lambda detail: detail["type"] == "extra_forbidden")
        raise ConfigError(_one_line(kind, plain, first)) from None


def train_settings(plain: Mapping[str, Any]) -> type[TrainSettings]:
    """What the settings of training are, given which algorithm and which policy it names.

    Raises:
        ConfigError: for an algorithm or a policy that does not exist, or has no settings.
    """
    return _train_settings(chosen("algo", plain, ALGORITHMS), chosen("agent", plain, POLICIES))


@functools.cache
def _train_settings(algo: type[AlgorithmSettings], agent: type[PolicySettings]) -> type[TrainSettings]:
    groups: Any = {"algo": (SerializeAsAny[algo], ...), "agent": (SerializeAsAny[agent], ...)}
    return create_model(TrainSettings.__name__, __base__=TrainSettings, **groups)


def chosen(group: str, plain: Mapping[str, Any], known: Mapping[str, type[Chosen]]) -> type[Any]:
    """The settings of the algorithm or the policy that a group names: one of ours, or of the class at its entry.

    Raises:
        ConfigError: if there is none.
    """
    given = plain.get(group)
    if not isinstance(given, Mapping):
        missing = "is missing" if given is None else "is a group of settings (name, ...), set one of them"
        raise ConfigError(f"{group}{'' if given is None else f'={show(given)}'}: {missing}")
    if given.get("entry") is not None:
        return own_settings(group, str(given["entry"]))
    if "name" not in given:
        raise ConfigError(f"{group}.name: is missing")
    if not isinstance(given["name"], str) or given["name"] not in known:
        raise ConfigError(f"{group}.name={show(given['name'])}: must be one of {', '.join(known)}")
    return known[given["name"]]


def own_settings(group: str, entry: str) -> type[Any]:
    """The `Settings` of an algorithm or a policy of somebody's own; importing its module runs that module.

    Raises:
        ConfigError: if it has none.
        EnvsError: if it is not there.
    """
    from envs.entry import load_entry  # it loads torch

    base, kind = OWN[group]
    settings = getattr(load_entry(entry), "Settings", None)
    if settings is None:
        raise ConfigError(f"{group}={entry}: is not a subclass of {base}")
    if not (isinstance(settings, type) and issubclass(settings, kind)):
        raise ConfigError(f"{group}={entry}: its Settings must be a subclass of {kind.__module__}.{kind.__name__}")
    return settings


def check_budget(budget: Budget) -> None:
    """Training needs one limit.

    Raises:
        ConfigError: if there is none, or several.
    """
    limits = {name: limit for name, limit in budget if limit is not None}
    if len(limits) != 1:
        given = ", ".join(f"{name}={limit:g}" for name, limit in limits.items()) or "none of them"
        names = ", ".join(Budget.model_fields)
        raise ConfigError(f"budget: must have exactly one of {names} (given: {given})")


def modernised(kind: type[Settings], plain: Mapping[str, Any]) -> Plain:
    """Plain data of a kind of settings, in which a setting has the name that it has today."""
    fields, result = kind.model_fields, dict(plain)
    for name, field in fields.items():
        former = _extra(field).get("formerly")
        if former in result and former not in fields and name not in result:
            result = {name if key == former else key: value for key, value in result.items()}
        if (group := group_of(field)) and isinstance(result.get(name), Mapping):
            result[name] = modernised(group, result[name])
    return result


def former_names(kind: type[Settings]) -> dict[str, str]:
    """The dotted names that settings of a kind had, with those of today."""
    renamed = {}
    for name, field in leaves(kind):
        if former := _extra(field).get("formerly"):
            renamed[f"{name.rpartition('.')[0]}.{former}".lstrip(".")] = name
    return renamed


def leaves(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The dotted name and the definition of every setting of a kind."""
    for name, field in kind.model_fields.items():
        if group := group_of(field):
            yield from leaves(group, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def group_of(field: FieldInfo) -> type[Settings] | None:
    """The kind of settings that a field holds, if it is a group: its default's, which says more than its type."""
    kind = type(field.default) if isinstance(field.default, Settings) else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def show(value: object) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(show(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{show(entry)}' for key, entry in value.items())}}}"
    return str(value) or "''"


def allowed(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "allowed" in schema:
        return schema["allowed"]
    if "anyOf" in schema:
        return ", or ".join(allowed(part) for part in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(map(show, schema['enum']))}"
    if "const" in schema:
        return show(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        return f"a list [a, b, ...]; each entry {allowed(schema.get('items', {}))}"
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": "true or false", "null": "null", "object": "a group of settings"}.get(str(kind), "a text")


def choices(schema: Mapping[str, Any]) -> list[str]:
    """The values that a JSON schema lists."""
    if "anyOf" in schema:
        return [value for part in schema["anyOf"] for value in choices(part)]
    return list(schema.get("enum", ["true", "false"] if schema.get("type") == "boolean" else []))


def _number(schema: Mapping[str, Any]) -> str:
    whole, even = schema["type"] == "integer", schema.get("multipleOf") == 2
    name = "an even integer" if even else "an integer" if whole else "a number"
    low, high, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if whole and low is not None:
        return f"{name}, {low} or more" if high is None else f"{name} from {low} to {high}"
    bounds = {"from": low, "above": above, "up to": high, "below": schema.get("exclusiveMaximum")}
    return " ".join([name, *(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)])


def _one_line(kind: type[Settings], plain: Any, detail: Any) -> str:
    path, field, here = [], None, plain
    for name in detail["loc"]:
        if not isinstance(name, str) or not isinstance(here, Mapping):
            break
        path.append(name)
        field, here = kind.model_fields.get(name), here.get(name)
        if field is None or not (group := group_of(field)):
            break
        kind = group
    key, names = ".".join(path), sorted(set(kind.model_fields) - HIDDEN)
    if detail["type"] == "missing" or here == MISSING:
        return f"{key}: is missing"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {nearest(path[-1], names)}"
    if field is None or group_of(field):
        return f"{key}={show(here)}: is a group of settings ({', '.join(names)}), set one of them"
    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    return f"{key}={show(here)}: must be {allowed(schema)}"


def _extra(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
