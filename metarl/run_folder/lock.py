"""One process writes a run: a lock that the operating system takes back however the process ends."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metarl.errors import RunFolderError, RunWarning
from metarl.run_folder.files import LOCK, guard

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_BUSY = {errno.EACCES, errno.EAGAIN}
_held: set[int] = set()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only writer of a run's folder; readers need no lock.

    The file stays behind, and means nothing by itself: what counts is the kernel's lock on it, which ends with the
    process, so that a run whose process was killed can be resumed at once.

    Raises:
        RunFolderError: if another process holds the lock, which it names; or if the folder cannot be written.
    """
    descriptor = _acquire(folder)
    try:
        yield
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            with suppress(OSError):
                if fcntl is not None:  # closing alone would leave it to a child that still has a copy
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def is_written(folder: Path) -> bool:
    """Whether a process writes a run's folder now; False where that cannot be known."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        if fcntl is not None:  # shared, and given back at once by closing
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _BUSY
    finally:
        os.close(descriptor)
    return False


def _acquire(folder: Path) -> int:
    path = folder / LOCK
    with guard(f"lock {folder}"):
        # Not through a link: a foreign run's could point at any file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            owner = " ".join(os.read(descriptor, 200).decode(errors="replace").split()) or "another process"
            os.close(descriptor)
            raise RunFolderError(f"{folder} is being written by {owner}: wait until it ends, or stop it") from None
        warnings.warn(
            f"{folder}: this file system has no locks ({error.strerror}); see that no other process writes the run",
            RunWarning,
            stacklevel=4,
        )
    _held.add(descriptor)
    # Padded to one length, and so written in place: a full disk has room for it.
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with guard(f"lock {folder}"):
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{owner:<127.127}\n".encode())
    return descriptor


def _drop() -> None:
    """In a forked child, close its copies of the locks: they would outlive the parent if the child does."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop)
