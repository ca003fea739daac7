"""Recorded episodes in one .npz file: arrays named <episode>.<part>, such as 3.observations."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.errors import RunFolderError
from metarl.run_folder.files import atomic_write, one_line, read_limited

LIMIT = 2**32  # bytes
NAMES = "0.observations, 0.actions and 0.feedback"


def free_place(path: Path) -> Path:
    """The first of path, path-2, path-3, ... at which nothing is."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([path], numbered) if not place.exists())


def write_recording(path: Path, recording: Sequence[Mapping[str, Any]]) -> Path:
    """Write episodes, each a mapping of arrays and numbers.

    Raises:
        RunFolderError: if it cannot be written.
    """
    content = io.BytesIO()
    parts = {f"{n}.{name}": np.asarray(value) for n, episode in enumerate(recording) for name, value in episode.items()}
    np.savez_compressed(content, allow_pickle=False, **parts)
    atomic_write(path, content.getvalue())
    return path


def read_recording(path: Path) -> list[dict[str, Any]]:
    """The episodes of a file; nothing in it is executed.

    Raises:
        RunFolderError: if it is missing, unreadable, or its arrays have other names.
    """
    episodes: dict[int, dict[str, Any]] = {}
    try:
        content = read_limited(path, LIMIT)
        # NumPy takes anything else for an array or a pickle, and its errors speak of those.
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError("it is not an .npz file")
        with np.load(io.BytesIO(content), allow_pickle=False) as parts:
            for key in parts.files:
                number, _, name = key.partition(".")
                if not (number.isdecimal() and name):
                    raise ValueError(f"it has an array '{key}', and those of its first episode are named {NAMES}")
                value = parts[key]
                episodes.setdefault(int(number), {})[name] = value if value.ndim else value.item()
    except FileNotFoundError:
        raise RunFolderError(f"there is no recording at {path}") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path} is not a recording: {one_line(error)}") from None
    return [episodes[number] for number in sorted(episodes)]
