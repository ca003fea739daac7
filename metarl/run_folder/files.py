"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from metarl.errors import RunFolderError

LOCK = ".lock"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")
# The two renames of `move_in` are never this many seconds apart, unless the process died between them.
RENAME_SECONDS = 1.0


@contextmanager
def guard(what: str) -> Iterator[None]:
    """Turn the operating system's errors in a block into one line: cannot `what`, why, and what to do."""
    try:
        yield
    except OSError as error:
        advice = "make room on that disk" if error.errno in FULL else "see that the folder is there and may be written"
        raise RunFolderError(f"cannot {what}: {error.strerror or one_line(error)}; {advice}") from error


def one_line(error: BaseException) -> str:
    """An error's text in one line of bounded length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def plain_name(name: str) -> str:
    """The name, if it can be part of a file name.

    Raises:
        RunFolderError: if it could lead out of the folder.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RunFolderError(f"{name!r} cannot name a file: use letters, digits, '_', '-' and '.'")
    return name


def hidden(path: Path, kind: str) -> Path:
    """A name beside `path` for what is being written (`tmp`) or replaced (`old`); `sweep` knows it after a crash."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{kind}")


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that it has its old content or its new one, also after a power cut.

    Raises:
        RunFolderError: if it cannot be written; the old content is then as it was.
    """
    temporary = hidden(path, "tmp")
    with guard(f"write {path}"):
        try:
            write_synced(temporary, content)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a place for a file or folder where nothing can be written, before work is done that would be lost.

    Raises:
        RunFolderError: in one line. Folders that are missing above it are made.
    """
    temporary = hidden(path, "tmp")
    with guard(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, b"")
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_replaceable(path: Path, ours: Callable[[Path], bool], what: str) -> None:
    """Refuse a place where something else is than what may be replaced there.

    Args:
        ours: whether what is at `path` may be replaced. what: how it is called.

    Raises:
        RunFolderError: in one line.
    """
    with guard(f"write {path}"):
        taken = path.exists() and not ours(path)
    if taken:
        raise RunFolderError(f"{path} is there already, and is not {what}: give another name")


def read_limited(path: Path, limit: int) -> bytes:
    """The content of a regular file with at most `limit` bytes.

    Raises:
        OSError: if it cannot be read; FileNotFoundError if it is missing. ValueError: if it is something else.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a plain file")
    if found.st_size > limit:
        raise ValueError(f"its {found.st_size} bytes are more than the {limit} that it can have")
    return path.read_bytes()


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with open(path, "xb", buffering=0) as file:
        write_all(file, content)
        os.fsync(file.fileno())


def write_all(file: io.FileIO, content: bytes) -> None:
    """Write to an unbuffered file: on a nearly full disk one write takes a part, and only the next one fails."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def append_whole(path: Path, content: bytes) -> None:
    """Add to the end of an existing file: all of the content, or nothing if the disk is full.

    Raises:
        RunFolderError: if it cannot be written.
    """
    # Not mode "ab": it would begin a file without a header in the place of one that was taken away.
    with guard(f"append to {path}"), open(path, "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            write_all(file, content)
        except OSError:
            file.truncate(end)
            raise


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder; does nothing if it is missing."""
    if os.name == "nt" or not path.exists():  # Windows cannot open folders, and orders renames itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_in(temporary: Path, final: Path) -> None:
    """Give a finished folder its name, and replace the one that has it; `sweep` undoes a crash between the steps."""
    if final.exists():
        os.rename(final, hidden(final, "old"))
    os.rename(temporary, final)
    sync(final.parent)


def discard(path: Path) -> None:
    """Remove a folder, or a file, so that no half of it is ever seen under its name."""
    temporary = hidden(path, "tmp")
    with suppress(OSError):
        os.rename(path, temporary)
        if not temporary.is_dir():
            temporary.unlink()
    shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path, age: float = 0.0) -> None:
    """Remove what a crash left in a folder and is at least `age` seconds old; put back what was being replaced.

    Never fails: a run on a disk that cannot be written can still be read.
    """
    for leftover in folder.glob(".*"):
        match = HIDDEN.fullmatch(leftover.name)
        if match is None:
            continue
        final, replaced = leftover.with_name(match[1]), match[2] == "old"
        with suppress(OSError):
            if time.time() - leftover.lstat().st_ctime < (min(age, RENAME_SECONDS) if replaced else age):
                continue
            if replaced and not final.exists():
                os.rename(leftover, final)
            elif leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def left_over(entry: Path) -> bool:
    """Whether an entry of a run's folder is not content: left by a crash, or a lock that nobody may hold."""
    return entry.name == LOCK or HIDDEN.fullmatch(entry.name) is not None


def numbered_folder(base: Path, name: str) -> Path:
    """Make the first of base/name, base/name-2, base/name-3, ... that does not exist.

    `mkdir` fails if the folder exists, so two runs that start at once get two folders.
    """
    with guard(f"make a run's folder in {base}"):
        base.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = base / (f"{name}-{number}" if number > 1 else name)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    raise AssertionError("there are numbers enough")
