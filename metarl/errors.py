"""The errors of `metarl`, and the bases that the commands catch to print one line instead of a traceback."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from agents.errors import AgentsError
from envs.errors import EnvsError


class MetaRLError(Exception):
    """Base class of every error that `metarl` raises on purpose."""


class ConfigError(MetaRLError):
    """A setting is unknown, of the wrong kind or out of range."""


class RunFolderError(MetaRLError):
    """A run's folder cannot be created, opened, read or written."""


class CheckpointError(MetaRLError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class DeviceError(MetaRLError):
    """The device that was asked for is not there or cannot be used."""


class RenderError(MetaRLError):
    """A picture or a video cannot be made."""


class ExportError(MetaRLError):
    """A policy cannot be written as a file for another program."""


class ViewError(MetaRLError):
    """A policy cannot be watched in a browser."""


class TrainingError(MetaRLError):
    """Training makes no progress, for example because its gradients are not finite."""


class ProcessLostError(MetaRLError):
    """Another process that trains the same policy has ended."""


class NotFiniteError(MetaRLError):
    """A value that everything else depends on is infinite or not a number; the message names it and its task."""


class CollectionStopped(MetaRLError):
    """Collecting episodes was stopped: by Ctrl-C, or by an exception of the environment, which is the cause.

    Attributes:
        recording: the episodes that had ended, as `Agent.adapt(episodes=...)` takes them.
        agent: with what had adapted before.
    """

    def __init__(self, message: str, recording: Sequence[Any] = (), agent: Any = None) -> None:
        super().__init__(message)
        self.recording, self.agent = recording, agent


class Interrupted(MetaRLError):
    """A command was asked to stop by a signal, and has saved its work."""

    def __init__(self, message: str, signal: int = 2) -> None:
        super().__init__(message, signal)  # both, so that it can be pickled
        self.signal = signal

    def __str__(self) -> str:
        return str(self.args[0])


class RunWarning(UserWarning):
    """A run continues, but not quite as expected. The commands print it in one line."""


def install(extra: str) -> str:
    """How to get the packages of an extra. metarl is not on a package index, so a clone it is."""
    return f"in your clone of metarl, pip install -e '.[{extra}]'"


KNOWN: tuple[type[Exception], ...] = (MetaRLError, EnvsError, AgentsError)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name, such as "did you mean 'reach'? (valid: point2d, reach)".

    Args:
        name: what was given.
        valid: every name that exists; the hint lists them in alphabetical order.
    """
    names = sorted(valid)
    lower = {valid_name.lower(): valid_name for valid_name in names}
    close = get_close_matches(name.lower(), lower, 1)
    listing = f"(valid: {', '.join(names) or 'none'})"
    return f"did you mean '{lower[close[0]]}'? {listing}" if close else listing
