"""What made a run: package versions and the commit of the source tree."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metarl.version import __version__

PACKAGES = ("torch", "mujoco", "numpy", "gymnasium")


def versions() -> dict[str, str | None]:
    """The versions of Python and the packages that results depend on; None for one that is not installed."""
    # Our own is not what is installed: a clone runs without.
    found: dict[str, str | None] = {"metarl": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_commit(source: Path = Path(__file__)) -> tuple[str | None, bool | None]:
    """The commit of a source file's repository and whether tracked files differ from it; (None, None) if that is
    unknown.

    The file has to be tracked: a package installed inside somebody's own repository is not part of that repository.
    """
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None, None
    commit = _git(source.parent, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, None
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints, or None if it fails, takes seconds, or there is no git."""
    # A hook's GIT_DIR would point at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", *arguments]
    try:
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
