"""The environments by name, or by the place of a class: `package.module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, cast

from envs.environment import Environment
from envs.errors import EnvsError, UnknownEnvironmentError

Factory = Callable[..., Environment]

# A place is imported when its environment is first made.
_FACTORIES: dict[str, Factory | str] = {
    "grasp": "envs.grasp:Grasp",
    "navigate": "envs.navigate:Navigate",
    "point2d": "envs.point2d:Point2d",
    "reach": "envs.reach:Reach",
}


def register(name: str, factory: Factory | str) -> None:
    """Make `factory(num_simulations, seed=, threads=, **options)`, or the class at a place, available as `name`.

    Raises:
        EnvsError: if the name is taken.
    """
    if name in _FACTORIES:
        raise EnvsError(f"environment '{name}' is registered already")
    _FACTORIES[name] = factory


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_FACTORIES)


def make(name: str, num_simulations: int, **options: object) -> Environment:
    """An environment of N simulations.

    Args:
        name: a registered name, or `package.module:Class`.

    Raises:
        UnknownEnvironmentError: with the nearest valid names; or if there is no such module or class.
        EnvsError: for an option that the environment does not have.
    """
    factory = load_entry(name) if ":" in name else _FACTORIES.get(name)
    if factory is None:
        close = get_close_matches(name, names(), 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise UnknownEnvironmentError(f"unknown environment '{name}': {hint}(valid: {', '.join(names())})")
    if isinstance(factory, str):
        factory = load_entry(factory)
    try:
        return factory(num_simulations, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise EnvsError(f"environment '{name}': {str(error).split('() ')[-1]}") from None


def load_entry(place: str) -> Factory:
    """The class at `package.module:Class`.

    Raises:
        UnknownEnvironmentError: in one line, if there is no such module, or the module has no such class.
    """
    module, _, name = place.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise UnknownEnvironmentError(f"{place}: {error}; a module is searched from the working folder") from None
    if not callable(found):
        raise UnknownEnvironmentError(f"{place}: the module {module} has no class '{name}'")
    return cast(Factory, found)
