"""What the commands do with a trained policy outside of this project: adapt it to a robot, write it for one."""

from __future__ import annotations

import importlib
import inspect
import shlex
import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console

from envs.adapters.episodic import as_dictionary
from envs.adapters.gymnasium import TaskEnv
from envs.adapters.gymnasium_tasks import TAKEN
from envs.core.explained import explained
from envs.entry import ID, is_batched, load_entry
from envs.errors import ContractError, UnknownEnvironmentError
from metarl.agent import Agent, load
from metarl.assembly.device import enough_memory
from metarl.assembly.kept import Kept
from metarl.assembly.onnx_file import write_onnx
from metarl.assembly.opened import open_run
from metarl.assembly.trust import words
from metarl.config.deployment import AdaptSettings, ExportSettings
from metarl.config.settings import EnvironmentSettings
from metarl.errors import CollectionStopped, ConfigError, Interrupted, MetaRLError, install
from metarl.pages.card import exported_card
from metarl.run_folder.files import atomic_write, check_replaceable, check_writable, one_line
from metarl.run_folder.recordings import free_place, read_recording, write_recording
from metarl.run_folder.slim import check_free
from metarl.training.progress import Collecting
from metarl.training.signals import Terminated, interruptible

MINARI = "minari:"
CARD = b"library_name: metarl"  # what a card begins with


@enough_memory()
def adapt_run(settings: AdaptSettings) -> Path:
    """The `metarl.adapt` command: adapt a policy and keep it; returns its folder.

    Raises:
        MetaRLError: as `Agent.adapt`; what was collected before an interruption is written beside `out`.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    out = Path(settings.out)
    check_free(out)
    check_writable(out)
    agent = load(settings.run, settings.device, settings.checkpoint, settings.trust)
    try:
        if settings.recording is not None:
            adapted = agent.adapt(episodes=_recording(settings), steps=settings.steps)
        else:
            where = settings.env or agent.run.settings.env
            env = presented(where, settings.split, settings.task, agent.run.horizon)
            with closing(env), interruptible(), Collecting(settings.steps, console) as shown:
                adapted = agent.adapt(env, settings.episodes, settings.steps, shown.show)
    except CollectionStopped as stopped:
        raise _kept(stopped, settings, agent, out) from stopped.__cause__
    path = adapted.save(out)
    told = adapted.history[-1]
    rounds = ", ".join(f"{value:.3g}" for value in told["feedback"])
    console.print(f"adapted on {told['env']}: mean feedback of an episode before each step: {rounds}")
    console.print(f"kept: {path}")
    return path


@enough_memory()
def export_run(settings: ExportSettings) -> Path:
    """The `metarl.export` command: returns the file; its card lies beside it.

    Raises:
        MetaRLError: as `write_onnx`; RunFolderError if something else lies where the card belongs.
    """
    out = Path(settings.out)
    if out.suffix != ".onnx":
        raise ConfigError(f"out={settings.out}: must end in .onnx")
    beside = out.with_suffix(".md")
    check_replaceable(beside, _is_card, "the card of the policy beside it")
    run = open_run(settings.run, "cpu", settings.checkpoint, settings.trust)
    path = write_onnx(run, run.kept or Kept(), out, settings.opset)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"policy: {path}")
    try:  # a policy whose card cannot be written is whole
        atomic_write(beside, exported_card(run, path).encode())
        console.print(f"card: {beside}")
    except MetaRLError as error:
        console.print(f"warning: no card: {error}")
    return path


def _is_card(path: Path) -> bool:
    return CARD in path.read_bytes()[:100]


def presented(
    settings: EnvironmentSettings, split: str, task: int, horizon: int | None = None
) -> gymnasium.Env[Any, Any]:
    """One robot in the environment that settings name.

    One that has tasks to give gets a task of the split's list; another one presents the task that it has.

    Args:
        horizon: steps of the episodes of an environment of one's own that has tasks, where the settings do not say it.

    Raises:
        EnvsError: if it does not exist, does not take an option, or has no such task.
        ConfigError: for what one without tasks cannot be given.
    """
    place = settings.entry or settings.name
    told = ("tasks", "feedback", "action_repeat")  # which no environment's own code is given
    options = {name: value for name, value in settings.options().items() if name not in told}
    if (env := _own(place, options)) is not None:
        if given := [name for name in told if getattr(settings, name)]:
            raise ConfigError(f"env.{given[0]}: {place} has no tasks to give, so it is taken as it is; leave it out")
        return env
    if settings.entry is not None and options.get("horizon") is None:
        options["horizon"] = horizon and horizon * (settings.action_repeat or 1)
    given = {"tasks_override": dict(settings.tasks), "feedback": settings.feedback}
    given |= {"action_repeat": settings.action_repeat}
    env = TaskEnv(place, split=split, **options, **given)
    env.set_task(as_dictionary(env.environment.distribution.published(split, task + 1), task))
    return env


def _own(place: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any] | None:
    """A Gymnasium environment of the user's own, unless it has tasks to give."""
    kind, colon, name = place.partition(":")
    if not colon:
        return None
    found = partial(gymnasium.make, name) if kind == ID else load_entry(place)
    if kind != ID and is_batched(place, found):
        return None
    taken = {name: value for name, value in options.items() if name not in TAKEN or _names(found, name)}
    env = _constructed(place, found, taken)
    if all(env.has_wrapper_attr(name) for name in ("sample_tasks", "set_task")):
        return None
    return env if taken == options else _constructed(place, found, options)


def _names(found: Callable[..., Any], option: str) -> bool:
    """Whether something callable has an argument of this name."""
    try:
        return option in inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False


def _constructed(place: str, found: Callable[..., Any], options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        env = explained(place, found, constructs=True)(**options)
    except TypeError as error:
        raise UnknownEnvironmentError(f"{place}: {str(error).split('() ')[-1]}") from None
    if not isinstance(env, gymnasium.Env):
        raise ContractError(f"{place}: returned a {type(env).__name__}, which is not a gymnasium.Env")
    return env


def _recording(settings: AdaptSettings) -> object:
    recording = str(settings.recording)
    if settings.env is not None:
        raise ConfigError("recording takes the place of env: give one of them")
    if not recording.startswith(MINARI):
        return read_recording(Path(recording))
    name = recording.removeprefix(MINARI)
    try:
        return importlib.import_module(MINARI[:-1]).load_dataset(name)
    except ImportError as error:  # its file formats are packages of their own
        raise ConfigError(f"recording={recording}: {one_line(error)}; {install('minari')}") from None
    except FileNotFoundError:
        remedy = f"minari download {name}" if name else "give minari:<dataset>"
        raise ConfigError(f"recording={recording}: this machine has no such dataset; {remedy}") from None
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"recording={recording}: {one_line(error)}") from None


def _kept(stopped: CollectionStopped, settings: AdaptSettings, agent: Agent, out: Path) -> MetaRLError:
    """The error that ends an interrupted collection of an agent, once what there is is written."""
    before: Agent = stopped.agent
    done = before.history[-1]["steps"] if len(before.history) > len(agent.history) else 0
    run = before.save(out) if before.history and before.adapted else settings.run
    text = str(stopped).partition("; ")[0]
    if stopped.recording:
        file = write_recording(free_place(out.with_name(f"{out.name}-recording.npz")), stopped.recording)
        given = [f"run={run}", f"recording={file}", f"out={settings.out}", f"steps={max(settings.steps - done, 1)}"]
        command = f"python -m metarl.adapt {shlex.join(given)}{words(agent.run.settings)}"
        text = f"{text}; adapt on the episodes that had ended with: {command}"
    else:
        text = f"{text}; no episode of this step had ended; kept after {done} steps: {run}"
    cause = stopped.__cause__
    if not isinstance(cause, KeyboardInterrupt):
        return MetaRLError(text)
    return Interrupted(text, signal.SIGTERM if isinstance(cause, Terminated) else signal.SIGINT)
