"""Configuration and the boundary of the commands: Hydra inside, one line for every mistake outside.

Nothing here imports torch before a command's work begins: `--help` must be quick.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import tempfile
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.errors import PolicyError
from agents.settings import Settings
from envs.errors import TaskError, UnknownEnvironmentError
from metarl.config import help
from metarl.config.completion import answer
from metarl.config.hydra_nodes import CONF, register
from metarl.config.memory import check_training
from metarl.config.overrides import OWN, jobs, key_of, one_line, parse, unknown_choice, unknown_key, write_out
from metarl.config.parsing import COMMANDS, Plain, check_budget, check_entry, train_settings
from metarl.config.parsing import parse as parse_settings
from metarl.config.settings import ResumeSettings, TrainSettings
from metarl.errors import KNOWN, ConfigError, Interrupted, RunWarning

RESUMABLE = ("budget", "device")  # what may be given beside `resume`
USAGE = (ConfigError, PolicyError, TaskError, UnknownEnvironmentError)  # mistakes in what was asked for: exit status 2

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
    given = write_out(overrides)
    return finish(_composed(given, config_name), command or config_name, given)


def _composed(given: Sequence[str], config_name: str) -> Mapping[Any, Any]:
    check_recipe(given, config_name)
    try:
        with _hydra():
            return hydra.compose(config_name, list(given))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, given, config_name) from None


def _hydra() -> Any:
    """Hydra with our settings, for use in a `with`."""
    register()
    return hydra.initialize_config_dir(str(CONF), **BASE)


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
        raise ConfigError(f"{error.full_key}: {one_line(error)}") from None
    if command != "train":
        return parse_settings(COMMANDS[command], plain)
    if plain.get("resume") is not None:
        return _resumed(plain, given)
    return _training(plain, given)


def _training(plain: Plain, given: Sequence[str]) -> TrainSettings:
    check_entry("env", plain.get("env"))
    _warm_start(plain, given)
    settings = parse_settings(train_settings(plain), plain)
    check_budget(settings.budget)
    if getattr(settings.agent, "context", None) == "auto":
        agent = settings.agent.model_copy(update={"context": _context(settings)})
        settings = settings.model_copy(update={"agent": agent})
    _check_memory(settings)
    check_training(settings)
    return settings


def _resumed(plain: Plain, given: Sequence[str]) -> ResumeSettings:
    keys = {key_of(override).partition(".")[0]: override for override in given if not override.startswith("hydra")}
    others = [override for key, override in keys.items() if key not in ("resume", *RESUMABLE)]
    if others:
        allowed = " and ".join(RESUMABLE)
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


def _context(settings: TrainSettings) -> str:
    """What agent.context=auto means: as much memory as the algorithm's training gives it something to remember."""
    if settings.algo.name == "multitask":
        return "none"
    return "trial" if settings.algo.longest_trial() > 1 else "episode"


def _check_memory(settings: TrainSettings) -> None:
    """In-context learning needs a policy that remembers, and multi-task training one that does not.

    Raises:
        ConfigError: if it is the other way round.
    """
    algo, agent = settings.algo.name, settings.agent
    if algo == "in_context" and not agent.remembers():
        remedy = "choose agent=transformer agent.context=auto, or algo=multitask"
        raise ConfigError(
            f"algo=in_context: needs a policy that remembers, which agent={agent.name} here does not; {remedy}"
        )
    if algo == "multitask" and agent.remembers():
        memory = getattr(agent, "context", None)
        given = f"agent={agent.entry or agent.name}" if memory is None else f"agent.context={memory}"
        remedy = "choose agent.context=none, or algo=in_context"
        raise ConfigError(f"{given}: algo=multitask is for a policy that does not remember; {remedy}")


def explain(error: Exception, overrides: Sequence[str], config_name: str) -> ConfigError:
    """Hydra's error about a command line, in one line that names the nearest valid name."""
    return ConfigError(unknown_name(overrides, config_name) or one_line(error))


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


def main(command: str, task: Callable[[Any], object]) -> None:
    """Run a command: read its settings from sys.argv through Hydra, check them, and hand them to `task`.

    Mistakes end in one line on stderr and exit status 2; other known failures in 1, Ctrl-C in 130. Anything else is a
    bug and keeps its traceback.

    Args:
        command: `train`, `evaluate`, `render` or `reproduce`.
        task: does the work, given the settings.
    """
    logging.raiseExceptions = False  # a log line that nobody reads any more is no mistake
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = _in_one_line(warnings.showwarning)
        status = exit_status(lambda: _command(command, task))
    if status:
        sys.exit(status)


def _in_one_line(otherwise: Callable[..., None]) -> Callable[..., None]:
    """What shows warnings: our own as one line without the place in the code, those of others as before."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, RunWarning):
            return otherwise(message, category, *place, **more)
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)

    return show


def exit_status(action: Callable[[], object]) -> int:
    """Run an action and report a known failure on stderr; returns the exit status of the process."""
    try:
        action()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` for one, has enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 128 + 2
    except JobFailed as error:
        return error.status
    except KNOWN as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        if isinstance(error, Interrupted):
            return 128 + error.signal
        return 2 if isinstance(error, USAGE) else 1
    return 0


class JobFailed(Exception):
    """A run of a sweep ended with this exit status, and has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _command(command: str, task: Callable[[Any], object]) -> None:
    arguments, flags = _arguments(sys.argv[1:])
    overrides: list[str] = arguments.overrides
    if arguments.shell_completion:
        script = answer(*overrides[:1])
        return print(script, end="") if script else _run(command, task, [*overrides, *flags])
    if arguments.help:
        return print(_help(command, arguments))
    sweep = arguments.multirun or "hydra.mode=MULTIRUN" in overrides
    overrides = write_out(overrides, sweep)
    name = arguments.config_name or command
    searched = [*overrides, *_search_path(arguments.config_dir)]
    try:
        if not sweep:
            check_recipe(searched, name)
            return _run(command, task, [*overrides, *flags])
        _check_sweep(command, name, searched)
        # Hydra's sweeper leaves a multirun.yaml in its folder, which nobody asked for.
        with tempfile.TemporaryDirectory(prefix="metarl-sweep-") as folder:
            return _run(command, task, [f"hydra.sweep.dir='{Path(folder).as_posix()}'", *overrides, *flags], sweep=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, searched, name) from None


def _help(command: str, arguments: Namespace) -> str:
    searched = [*write_out(arguments.overrides), *_search_path(arguments.config_dir)]
    name = arguments.config_name or command
    plain: Plain = _plain(_composed(searched, name), resolve=False)
    with _hydra():
        groups = {group: sorted(set(choices) - {"custom"}) for group, choices in _groups(name, searched).items()}
    kind = train_settings(plain) if command == "train" else COMMANDS[command]
    return help.text(command, kind, plain, {group: groups[group] for group in OWN if command == "train"})


def _arguments(argv: list[str]) -> tuple[Namespace, list[str]]:
    """What Hydra's parser makes of a command line, and the line's options, without the overrides."""

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; settings are written key=value, as in seed=1, and --help lists them")

    parser = get_args_parser()
    parser.error = fail  # type: ignore[method-assign]  # argparse would print many lines
    arguments = parser.parse_intermixed_args(argv)
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    if sum(bool(getattr(arguments, mode)) for mode in modes) > 1:
        fail("only one of --run, --multirun, --cfg, --info and --shell-completion can be given")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        fail("--resolve belongs to --cfg or --help")
    flags = list(argv)
    for override in arguments.overrides:
        flags.remove(override)
    return arguments, flags


def _search_path(folder: str | None) -> list[str]:
    """What --config-dir means as an override: Hydra takes the option itself, our own look at the settings needs it."""
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {folder}: there is no such folder")
    return [f"hydra.searchpath=['file://{Path(folder).absolute()}']"]


def _run(command: str, task: Callable[[Any], object], argv: list[str], sweep: bool = False) -> None:
    failures: list[Exception] = []

    @functools.wraps(task)
    def job(config: Mapping[Any, Any]) -> None:
        def work() -> None:
            given = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
            assert isinstance(given, list)
            task(finish(config, command, given))

        if sweep:
            return _sweep_job(work)
        try:
            work()
        except Exception as error:
            failures.append(error)  # out of Hydra's sight: it would print a line of its own

    register()
    before = sys.argv
    sys.argv = [before[0], *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra's errors through to us
    try:
        hydra.main(str(CONF), command, **BASE)(job)()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]


def _sweep_job(work: Callable[[], None]) -> None:
    """One run of a sweep: a failure is reported at once, and the other runs go on; an interruption ends them all."""
    try:
        status = exit_status(work)
    except Exception:
        traceback.print_exc()
        status = 1
    if status >= 128:
        sys.exit(status)
    if status:
        raise JobFailed(status)


def _check_sweep(command: str, config_name: str, overrides: Sequence[str]) -> None:
    """Compose every run of a sweep: a mistake in the last one must not come to light after the others have trained.

    Raises:
        ConfigError: for a mistake in any of them, or runs that share a folder.
    """
    if any(override.startswith(("hydra/sweeper", "hydra.sweeper")) or "${hydra:" in override for override in overrides):
        return  # known only while it runs
    folders: set[str] = set()
    for number, job in enumerate(jobs(overrides)):
        folder = getattr(compose(job, config_name, command), "run_dir", None)
        if folder in folders:
            remedy = f"write for example run_dir='{folder}-${{seed}}'"
            raise ConfigError(f"run_dir={folder}: run {number} of the sweep would share it; {remedy}")
        folders |= {folder} if folder else set()


def _plain(config: Mapping[Any, Any], resolve: bool) -> Plain:
    """A composed configuration as plain data."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
