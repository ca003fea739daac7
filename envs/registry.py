"""The environments by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from envs.environment import Environment
from envs.errors import EnvsError, UnknownEnvironmentError

_FACTORIES: dict[str, Callable[..., Environment]] = {}


def register(name: str, factory: Callable[..., Environment]) -> None:
    """Make `factory(num_simulations, seed=, threads=, **options)` available as `name`.

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

    Raises:
        UnknownEnvironmentError: with the nearest valid names.
        EnvsError: for an option that the environment does not have.
    """
    if name not in _FACTORIES:
        close = get_close_matches(name, names(), 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise UnknownEnvironmentError(f"unknown environment '{name}': {hint}(valid: {', '.join(names())})")
    try:
        return _FACTORIES[name](num_simulations, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise EnvsError(f"environment '{name}': {str(error).split('() ')[-1]}") from None


def _reach(num_simulations: int, **options: object) -> Environment:
    from envs.reach import Reach

    return Reach(num_simulations, **options)  # type: ignore[arg-type]


def _point2d(num_simulations: int, **options: object) -> Environment:
    from envs.point2d import Point2d

    return Point2d(num_simulations, **options)  # type: ignore[arg-type]


register("reach", _reach)
register("point2d", _point2d)
