"""The environments by name, or by entry: `package.module:Class` (see `envs.entry`)."""

from __future__ import annotations

from difflib import get_close_matches

from envs.core.environment import Environment
from envs.core.explained import unexpected
from envs.core.step import FEEDBACK, check_highest
from envs.entry import Factory, load_entry, own_environment
from envs.errors import EnvsError, UnknownEnvironmentError

# The module of an entry is imported when its environment is first made.
_FACTORIES: dict[str, Factory | str] = {
    "ant_dir": "envs.families.ant:AntDir",
    "ant_goal": "envs.families.ant:AntGoal",
    "cheetah_dir": "envs.families.cheetah:CheetahDir",
    "cheetah_vel": "envs.families.cheetah:CheetahVel",
    "grasp": "envs.families.grasp:Grasp",
    "grasp_uncalibrated": "envs.families.grasp_uncalibrated:GraspUncalibrated",
    "navigate": "envs.families.navigate:Navigate",
    "navigate_search": "envs.families.navigate_search:NavigateSearch",
    "point2d": "envs.families.point2d:Point2d",
    "push": "envs.families.push:Push",
    "push_turned": "envs.families.push_turned:PushTurned",
    "reach": "envs.families.reach:Reach",
    "reach_search": "envs.families.reach_search:ReachSearch",
    "reach_squared": "envs.families.reach_squared:ReachSquared",
    "reach_worn": "envs.families.reach_worn:ReachWorn",
}
# Those that need a package of their own, which not everybody has.
_WITH_PACKAGE = {"metaworld": "envs.metaworld.benchmarks:metaworld"}


def register(name: str, factory: Factory | str) -> None:
    """Make `factory(num_simulations, seed=, threads=, **options)`, or the class at an entry, available as `name`.

    Raises:
        EnvsError: if the name is taken.
    """
    if name in _FACTORIES | _WITH_PACKAGE:
        raise EnvsError(f"environment '{name}' is registered already")
    _FACTORIES[name] = factory


def names() -> list[str]:
    """All registered names that need no further package, sorted."""
    return sorted(_FACTORIES)


def all_names() -> list[str]:
    """All registered names, sorted; some need a package of their own."""
    return sorted(_FACTORIES | _WITH_PACKAGE)


def make(
    name: str, num_simulations: int, *, feedback: object = None, action_repeat: object = None, **options: object
) -> Environment:
    """An environment of N simulations.

    Args:
        name: a registered name, `package.module:Class`, or `gymnasium:Name-v0`.
        feedback: what the robot senses of how it is doing, see `Environment.feedback`; None: as the environment has it.
        action_repeat: control steps for which a step holds its action, see `Environment.repeat_actions`; None: 1.

    Raises:
        UnknownEnvironmentError: with the nearest valid names; or if there is no such module or class.
        ContractError: if a class of the user's own is not an environment.
        PackageError: if it needs a package that is not installed.
        EnvsError: for an option that the environment does not have, a feedback that is unknown, or an `action_repeat`
            or a feedback that does not suit it.
    """
    if feedback not in (None, *FEEDBACK):
        raise EnvsError(f"feedback={feedback}: unknown choice (valid: {', '.join(FEEDBACK)})")
    factory = own_environment(name) if ":" in name else (_FACTORIES | _WITH_PACKAGE).get(name)
    if factory is None:
        close = get_close_matches(name, all_names(), 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise UnknownEnvironmentError(f"unknown environment '{name}': {hint}(valid: {', '.join(all_names())})")
    if isinstance(factory, str):
        factory = load_entry(factory)
    try:
        environment = factory(num_simulations, **options)
    except TypeError as error:
        if not unexpected(error, options):
            raise
        raise EnvsError(f"environment '{name}': {str(error).split('() ')[-1]}") from None
    if feedback == "log_reward":
        check_highest(name, environment.highest_reward)
    if feedback is not None:
        environment.feedback = str(feedback)
    if action_repeat is not None:
        if not isinstance(action_repeat, int):
            raise EnvsError(f"action_repeat={action_repeat}: must be a whole number")
        environment.repeat_actions(action_repeat)
    return environment
