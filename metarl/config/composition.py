"""From overrides to settings: composed by Hydra, parsed and checked, with one line for every mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.settings import Settings
from metarl.config import help
from metarl.config.algorithms import MultitaskSettings, WarmStarted
from metarl.config.checks import check_choices
from metarl.config.hydra_nodes import (
    CONF,
    RECIPE_OF,
    family_options,
    preferred_algorithm,
    recipe,
    register,
    register_own,
    takes_environment,
)
from metarl.config.memory import check_training
from metarl.config.overrides import (
    OWN,
    environment_by_key,
    hydra_text,
    is_own,
    key_of,
    own_entries,
    parse,
    unknown_choice,
    unknown_key,
    write_out,
)
from metarl.config.parsing import COMMANDS, Plain, check_budget, modernised, train_settings
from metarl.config.parsing import parse as parse_settings
from metarl.config.settings import ResumeSettings, TrainSettings
from metarl.errors import ConfigError

RESUMABLE = ("budget", "device", "trust")  # what may be given beside `resume`
# Hydra 1.3 warns unless it is told how old its defaults may be, and Hydra 1.4 warns if it is told.
BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def compose(overrides: Sequence[str] = (), config_name: str = "train", command: str | None = None) -> Any:
    """The settings of a command: `TrainSettings` or, with resume=, `ResumeSettings`; `EvaluateSettings`, and so on.

    Args:
        overrides: as on the command line, such as ["env=point2d", "algo.inner.steps=2"].
        config_name: of the primary configuration.
        command: whose settings they are, if it is not `config_name`: `train`, `evaluate`, `render` or `reproduce`.

    Raises:
        ConfigError: for a name, a key or a value that does not exist or is not allowed.
    """
    given = prepare(overrides, command=command or config_name)
    return finish(_composed(given, config_name), command or config_name, given)


def prepare(overrides: Sequence[str], sweep: bool = False, command: str = "train") -> list[str]:
    """The overrides in Hydra's own words (see `overrides.write_out`), once Hydra knows what they name of one's own.

    Args:
        command: the one that they are for.

    Raises:
        ConfigError, EnvsError: for an override that cannot be used, or something of one's own that cannot.
    """
    given = write_out(overrides, sweep)
    if takes_environment(command):
        return environment_by_key(given)
    given = preferred_algorithm(given)
    for group, entry in own_entries(given):
        register_own(group, entry)
    return given


def _composed(given: Sequence[str], config_name: str) -> Mapping[Any, Any]:
    check_recipe(given, config_name)
    try:
        with _hydra():
            return hydra.compose(config_name, list(given))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, given, config_name) from None


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra with our settings; also while it runs a command, for which it is put back as it was."""
    register()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), **BASE):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def finish(config: Mapping[Any, Any], command: str, given: Sequence[str]) -> Settings:
    """A composed configuration as settings: interpolations and automatic values resolved, values checked.

    Args:
        command: `train`, `evaluate`, `render` or `reproduce`.
        given: the overrides that it was composed with.

    Raises:
        ConfigError: for a value that is not allowed.
    """
    try:
        plain = _plain(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {hydra_text(error)}") from None
    if takes_environment(command):
        plain = _with_environment(plain)
    if command != "train":
        return parse_settings(COMMANDS[command], plain)
    if plain.get("resume") is not None:
        return _resumed(plain, given)
    return _training(plain, given)


def _with_environment(plain: Plain) -> Plain:
    """A family's options are those of training, where nothing else is said; no environment at all is left out."""
    given = plain.get("env") or {}
    if given.get("name") is None and given.get("entry") is None:
        return {key: value for key, value in plain.items() if key != "env"}
    return plain | {"env": family_options(str(given["name"])) | given}


def _training(plain: Plain, given: Sequence[str]) -> TrainSettings:
    _check_environment(plain.get("env"))
    _warm_start(plain, given)
    kind = train_settings(plain)
    settings = parse_settings(kind, modernised(kind, plain))
    check_budget(settings.budget)
    settings = _shortened(settings, given)
    if getattr(settings.agent, "context", None) == "auto":
        agent = settings.agent.model_copy(update={"context": _context(settings)})
        settings = settings.model_copy(update={"agent": agent})
    check_choices(settings)
    check_training(settings)
    return settings


def _check_environment(given: object) -> None:
    if isinstance(given, Mapping) and given.get("name") is None and given.get("entry", given) is None:
        raise ConfigError("env.entry=null: must be package.module:Class, given as env=package.module:Class")


def _resumed(plain: Plain, given: Sequence[str]) -> ResumeSettings:
    keys = {key_of(override).partition(".")[0]: override for override in given if not override.startswith("hydra")}
    others = [override for key, override in keys.items() if key not in ("resume", *RESUMABLE)]
    if others:
        allowed = f"{', '.join(RESUMABLE[:-1])} and {RESUMABLE[-1]}"
        raise ConfigError(
            f"{others[0]}: a resumed run keeps its own settings; only {allowed} may be given beside resume"
        )
    kept = {key: plain[key] for key in ("resume", *RESUMABLE) if key in keys}
    settings = parse_settings(ResumeSettings, kept)
    if settings.budget is not None:
        check_budget(settings.budget)
    return settings


def _warm_start(plain: Plain, given: Sequence[str]) -> None:
    """A run to begin from takes the place of a recipe's warm start; one that was asked for beside it is a mistake."""
    warm = algo.get("warm_start") if isinstance(algo := plain.get("algo"), dict) else None
    if not isinstance(warm, dict) or not warm.get("run"):
        return
    if warm.get("iterations") and any(key_of(override) == "algo.warm_start.iterations" for override in given):
        raise ConfigError(
            f"algo.warm_start.iterations={warm['iterations']}: algo.warm_start.run takes its place, give one of them"
        )
    warm["iterations"] = 0


def _shortened(settings: TrainSettings, given: Sequence[str]) -> TrainSettings:
    """A recipe's warm start has the same share of a shorter budget as of the recipe's own: the algorithm itself must
    come to train. One that was asked for stays as it is.
    """
    values = {key_of(override): override.partition("=")[2] for override in given}
    pair = values.get("recipe", f"{settings.env.name}-{settings.algo.name}")
    if pair not in RECIPE_OF or values.keys() & {"algo.warm_start", "algo.warm_start.iterations"}:
        return settings
    usual = recipe(RECIPE_OF[pair])
    whole, warm = (OmegaConf.select(usual, key) for key in ("budget.iterations", "algo.warm_start.iterations"))
    budget, ours = settings.budget.iterations, getattr(settings.algo, "warm_start", None)
    if ours is None or None in (whole, warm, budget) or ours.iterations != warm or budget >= whole:
        return settings
    changed = ours.model_copy(update={"iterations": warm * budget // whole})
    return settings.model_copy(update={"algo": settings.algo.model_copy(update={"warm_start": changed})})


def _context(settings: TrainSettings) -> str:
    """What agent.context=auto means: as much memory as the algorithm's training gives it something to remember."""
    algo = settings.algo
    if algo.longest_trial() > 1:
        return "none" if isinstance(algo, MultitaskSettings) else "trial"
    alone = isinstance(algo, WarmStarted) and len(algo.phases()) == 1 and not algo.warm_start.run
    return "none" if alone or isinstance(algo, MultitaskSettings) else "episode"


def explain(error: Exception, overrides: Sequence[str], config_name: str) -> ConfigError:
    """Hydra's error about a command line, in one line that names the nearest valid name."""
    return ConfigError(unknown_name(overrides, config_name) or hydra_text(error))


def unknown_name(overrides: Sequence[str], config_name: str) -> str | None:
    """A line about the first choice or key that does not exist; None if all do."""
    own = [override for override in overrides if override.startswith("hydra")]
    parsed = [override for override in parse(overrides) if override.input_line not in own]
    with _hydra():
        groups = _groups(config_name, own)
        chosen = [override for override in parsed if override.key_or_group in groups]
        for override in chosen:
            if text := unknown_choice(override, groups):
                return text
        try:
            config = hydra.compose(config_name, own + [override.input_line or "" for override in chosen])
        except (HydraException, OmegaConfBaseException):
            return None
    plain = _plain(config, resolve=False)
    texts = (unknown_key(override, plain) for override in parsed if override not in chosen)
    return next((text for text in texts if text), None)


def _groups(config_name: str, own: list[str]) -> dict[str, list[str]]:
    """The choices of every group."""
    loader = GlobalHydra.instance().config_loader()
    return {
        group: loader.get_group_options(group, config_name=config_name, overrides=own)
        for group in loader.list_groups("")
        if group != "hydra"
    }


def check_recipe(overrides: Sequence[str], config_name: str) -> None:
    """A recipe that was asked for must exist: as some pairs have none, Hydra would pass over it in silence.

    Raises:
        ConfigError: if it does not.
    """
    asked = any(key_of(override) == "recipe" for override in overrides)
    if asked and (text := unknown_name(overrides, config_name)):
        raise ConfigError(text)


def help_text(command: str, overrides: Sequence[str], config_name: str, introduction: str) -> str:
    """What `--help` prints, with the values that a command line would use."""
    plain = _plain(_composed(overrides, config_name), resolve=False)
    if command != "train":
        return help.text(command, introduction, COMMANDS[command], plain, {})
    with _hydra():
        found = _groups(config_name, list(overrides))
    groups = {group: sorted(choice for choice in set(found[group]) if not is_own(choice)) for group in (*OWN, "recipe")}
    return help.text(command, introduction, train_settings(plain), plain, groups)


def _plain(config: Mapping[Any, Any], resolve: bool) -> Plain:
    """A composed configuration as plain data."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
