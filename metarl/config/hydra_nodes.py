"""The settings as Hydra sees them: every command and every choice of a group, made from the definitions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from agents.settings import POLICIES, Settings, name_of
from metarl.config.algorithms import ALGORITHMS
from metarl.config.parsing import COMMANDS, own_settings
from metarl.config.settings import TrainSettings

CONF = Path(__file__).parent / "conf"
ENVIRONMENTS, RECIPES = (yaml.safe_load((CONF / name).read_text()) for name in ("environments.yaml", "recipes.yaml"))
PREFERENCES = ("agent", "algo", "evaluate")  # what an environment says of other settings than its own
SAME_RECIPE = {"fomaml": "maml", "reptile": "maml"}
RECIPE_OF = {  # every pair that has one: its own, or that of maml
    f"{env}-{algo}": found
    for env in ENVIRONMENTS
    for algo in ALGORITHMS
    if (found := next((p for p in (f"{env}-{algo}", f"{env}-{SAME_RECIPE.get(algo)}") if p in RECIPES), None))
}
# Later entries win; the command line wins over all of them.
TRAIN = [
    "_self_",
    {"agent": "transformer"},  # an env or algo may prefer another one
    {"env": "reach"},  # may say how an evaluation measures
    {"algo": "maml"},
    {"optional recipe": "${env}-${algo}"},  # values that suit this pair
    "command",
]


def preferred_algorithm(overrides: Sequence[str]) -> list[str]:
    """The overrides, and the algorithm that suits the environment among them if they choose none."""
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    wanted = ENVIRONMENTS.get(given.get("env", ""), {}).get("algo")
    return [*overrides, *([f"algo={wanted}"] if wanted and "algo" not in given else [])]


def takes_environment(command: str) -> bool:
    """Whether it has an environment among its settings, and no groups that are chosen by name."""
    return command != "train" and "env" in COMMANDS[command].model_fields


def family_options(name: str) -> dict[str, Any]:
    """The options of a task family."""
    options = ENVIRONMENTS.get(name, {})
    return {key: value for key, value in options.items() if key not in PREFERENCES}


@functools.cache
def register() -> None:
    """Tell Hydra of all commands and choices; the second time nothing happens."""
    put = ConfigStore.instance().store
    for name, kind in COMMANDS.items():
        node = _defaults(kind) | ({"env": {"name": None, "entry": None}} if takes_environment(name) else {})
        put(name=name, node=_node(node, TRAIN if kind is TrainSettings else ["_self_", "command"]))
    for name, options in ENVIRONMENTS.items():
        family = {"name": name, "feedback": "reward", "action_repeat": 1, **family_options(name), "tasks": {}}
        node = _preferring(options.get("agent"), {"env": family, "evaluate": options.get("evaluate", {})})
        put(group="env", name=name, node=node, package="_global_")
    for name, algorithm in ALGORITHMS.items():
        agent = "transformer" if name == "in_context" else None  # the context has to be remembered
        put(group="algo", name=name, node=_preferring(agent, algorithm.model_validate({}).plain()))
    for name, policy in POLICIES.items():
        put(group="agent", name=name, node=policy.model_validate({}).plain())
    put(
        group="env",
        name="custom",
        node={"name": None, "entry": None, "feedback": None, "action_repeat": None, "tasks": {}},
    )
    put(group="recipe", name="none", node={}, package="_global_")
    for pair, found in RECIPE_OF.items():
        put(group="recipe", name=pair, node=recipe(found), package="_global_")


def register_own(group: str, entry: str) -> None:
    """Tell Hydra of an algorithm or a policy of somebody's own: it is chosen by its entry, as ours are by their names.

    Raises:
        ConfigError, EnvsError: if it is not there, or has no settings.
    """
    kind = own_settings(group, entry)
    node = dict.fromkeys(kind.model_fields, MISSING) | _defaults(kind) | {"name": name_of(entry), "entry": entry}
    ConfigStore.instance().store(group=group, name=entry, node=node)


def recipe(name: str) -> Any:
    """The values of a recipe, over those of the one that it begins with."""
    changes = dict(RECIPES[name])
    base = changes.pop("as", None)
    result = recipe(base) if base else OmegaConf.create()
    for key, value in changes.items():
        OmegaConf.update(result, key, value, force_add=True)
    return result


def _preferring(agent: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """A choice that changes which policy is the default."""
    values = {name: value for name, value in values.items() if name != "agent"}
    return _node(values, ["_self_", {"override /agent@_global_.agent": agent}]) if agent else values


def _node(values: Mapping[str, Any], defaults: list[Any]) -> dict[str, Any]:
    return {"defaults": defaults, **values}


def _defaults(kind: type[Settings]) -> dict[str, Any]:
    """What a command's settings are if nothing is said, without the groups that are chosen by name."""
    given = {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}
    return {name: value.plain() if isinstance(value, Settings) else value for name, value in given.items()}
