"""The boundary of the commands: exit statuses, one line for every mistake, sweeps.

Nothing here imports torch before a command's work begins: `--help` must be quick.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import sys
import tempfile
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.errors import PolicyError
from envs.errors import EnvsError, TaskError, UnknownEnvironmentError
from metarl.config.completion import answer
from metarl.config.composition import BASE, check_recipe, compose, explain, finish, help_text, prepare
from metarl.config.hydra_nodes import CONF, register
from metarl.config.overrides import hydra_text, jobs, key_of
from metarl.config.settings import EvaluateSettings
from metarl.errors import KNOWN, ConfigError, Interrupted, RunWarning
from metarl.launched import world_size
from metarl.version import __version__

TRACEBACK = "METARL_TRACEBACK"  # the environment variable that asks for the traceback of a known failure too
USAGE = (ConfigError, PolicyError, TaskError, UnknownEnvironmentError)  # mistakes in what was asked for: exit status 2


def main(command: str, task: Callable[[Any], object]) -> None:
    """Run a command: read its settings from sys.argv through Hydra, check them, and hand them to `task`.

    Mistakes end in one line on stderr and exit status 2; other known failures in 1, Ctrl-C in 130. Anything else is a
    bug and keeps its traceback; with METARL_TRACEBACK=1 in the environment, all of them do.

    Args:
        command: `train`, `evaluate`, `render` or `reproduce`.
        task: does the work, given the settings.
    """
    logging.raiseExceptions = False  # a log line that nobody reads any more is not a mistake
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
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # rich's way to say the same
            return 128 + 13
        raise
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 128 + 2
    except JobFailed as error:
        return error.status
    except KNOWN as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        print(f"error: {hydra_text(error)}{_hint(error)}", file=sys.stderr)
        if isinstance(error, Interrupted):
            return 128 + error.signal
        return 2 if isinstance(error, USAGE) else 1
    return 0


def _hint(error: Exception) -> str:
    """How to see more, where the code of an environment raised what became one line."""
    raised = error.__cause__
    hidden = isinstance(error, EnvsError) and raised is not None and not isinstance(raised, KNOWN)
    return f" ({TRACEBACK}=1 shows the whole traceback)" if hidden and not os.environ.get(TRACEBACK) else ""


class JobFailed(Exception):
    """A run of a sweep ended with this exit status, and has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _command(command: str, task: Callable[[Any], object]) -> None:
    arguments, flags = _arguments(sys.argv[1:])
    overrides: list[str] = arguments.overrides
    if arguments.shell_completion:
        text = answer(command, *overrides[:1])
        return print(text, end="") if text else _run(command, task, [*overrides, *flags])
    if arguments.help:
        searched = [*prepare(arguments.overrides, command=command), *_search_path(arguments.config_dir)]
        introduction = sys.modules[task.__module__].__doc__ or ""
        return print(help_text(command, searched, arguments.config_name or command, introduction))
    sweep = arguments.multirun or "hydra.mode=MULTIRUN" in overrides
    if sweep and world_size() > 1:
        raise ConfigError("a sweep is not for several processes: start each of its runs by a torchrun of its own")
    overrides = prepare(overrides, sweep, command)
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


def _arguments(argv: list[str]) -> tuple[Namespace, list[str]]:
    """What Hydra's parser makes of a command line, and the line's options, without the overrides."""

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; settings are written key=value, as in seed=1, and --help lists them")

    parser = ArgumentParser(parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
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
    # Kept out of Hydra's sight, which would print a line of its own about each; but a launcher's other processes have
    # no other way to tell.
    failures: list[Exception] = []
    here = _process()

    @functools.wraps(task)
    def job(config: Mapping[Any, Any]) -> None:
        def work() -> None:
            given = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
            assert isinstance(given, list)
            task(finish(config, command, given))

        try:
            _sweep_job(work) if sweep else work()
        except Exception as error:
            if _process() != here:
                raise
            failures.append(error)

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


def _process() -> tuple[str, int]:
    """This one, among those of all machines."""
    return platform.node(), os.getpid()


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
        ConfigError: for a mistake in any of them, or runs of which one would write over what another has written.
    """
    if any(override.startswith(("hydra/sweeper", "hydra.sweeper")) or "${hydra:" in override for override in overrides):
        return  # known only while it runs
    taken: dict[Path, list[str]] = {}
    for number, job in enumerate(jobs(overrides)):
        settings = compose(job, config_name, command)
        for name in ("run_dir", "out"):
            given = getattr(settings, name, None)
            if given is None:
                continue
            place = _written(given, settings)
            if place in taken:
                remedy = f"write for example {name}='{_numbered(given, job, taken[place])}'"
                raise ConfigError(f"{name}={given}: run {number} of the sweep would share it; {remedy}")
            taken[place] = job


def _written(given: str, settings: Any) -> Path:
    """The file or folder that a run writes."""
    place = Path(given).absolute()
    # The one command that may be given a folder for files of several names.
    return place / settings.split if isinstance(settings, EvaluateSettings) and place.suffix != ".json" else place


def _numbered(given: str, job: Sequence[str], other: Sequence[str]) -> str:
    """A place of its own for each run, named by the first setting in which two of them differ."""
    key = next((key_of(mine) for mine, theirs in zip(job, other, strict=True) if mine != theirs), "seed")
    name = f"{key}.name" if key in ("env", "algo", "agent") else key
    suffix = Path(given).suffix
    return f"{given.removesuffix(suffix).rstrip('/')}-${{{name}}}{suffix}"
