"""Experiment trackers in place of TensorBoard's files: trackio and Weights & Biases, which are extras.

Both keep what they log on this machine: trackio in its own folder (`trackio show` reads it), Weights & Biases offline
in the run's (`wandb sync` sends it when somebody wants that). They send only what the user's environment asks for:
WANDB_MODE=online, or TRACKIO_SPACE_ID=name. metrics.csv is written in any case.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError, RunWarning, install
from metarl.run_folder.files import one_line

TRACKERS = ("trackio", "wandb")
PROJECT = "metarl"
# What they, or what they are made of, would report of themselves.
SILENCE = {
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def check_installed(logger: str) -> None:
    """A tracker that was asked for must be there.

    Raises:
        ConfigError: says how to install it.
    """
    found = find_spec(logger) if logger in TRACKERS else None
    # A folder `wandb` in the working folder, where it keeps its files, can be imported too, but has no file.
    if logger in TRACKERS and (found is None or found.origin is None):
        remedy = f"{install(logger)}, or choose logger=tensorboard"
        raise ConfigError(f"logger={logger}: it is not installed; {remedy}")


class Tracker:
    """A run in a tracker, begun or continued, to which scalars are appended.

    A tracker that fails must not end a training: it is warned of once, and then left alone.

    Args:
        logger: one of `TRACKERS`.
        folder: of the run; a run is known to the tracker by its path.
        config: what the run is.
    """

    def __init__(self, logger: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.logger = logger
        for name, value in SILENCE.items():
            os.environ.setdefault(name, value)
        place = folder.resolve()
        known = f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
        options: dict[str, Any] = {"project": PROJECT, "name": known, "config": dict(config), "resume": "allow"}
        if logger == "wandb":
            options |= {"name": place.name, "id": known, "dir": str(place)}
        self._run: Any = self._tried(lambda: import_module(logger).init(**options))

    def append(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add one value to each named curve."""
        run = self._run
        if run is not None:
            self._tried(lambda: run.log(dict(scalars), step=step))

    def close(self) -> None:
        """Hand over what the tracker still has in memory."""
        run, self._run = self._run, None
        if run is not None:
            # The module's, not the run's: trackio would finish it once more when Python ends.
            self._tried(lambda: import_module(self.logger).finish())

    def _tried(self, action: Callable[[], Any]) -> Any:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # trackio speaks into the display of the training
                return action()
        except Exception as error:  # of any kind: it is another's code, perhaps on a network
            self._run = None
            text = f"logger={self.logger} failed and is left alone: {type(error).__name__}: {one_line(error)}"
            warnings.warn(f"{text}; metrics.csv goes on", RunWarning, stacklevel=4)
            return None
