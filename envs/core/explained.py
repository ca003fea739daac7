"""What the code of an environment raises, as one line that names the place in that code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from envs.errors import ContractError, EnvsError

OURS = Path(__file__).parents[1]
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
PYTHON = Path(sysconfig.get_path("stdlib"))


def explained(owner: str, call: Callable[..., Any], constructs: bool = False) -> Callable[..., Any]:
    """`call`, with one line and the place for whatever it raises; the exception itself is the cause of that error.

    Args:
        constructs: leave the TypeError of an unexpected keyword, if it is one of the options, to the caller.
    """

    def call_and_explain(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except EnvsError as error:
            where = place(error)
            if not where or str(error).startswith(owner):
                raise
            raise type(error)(f"{owner} ({where}): {error}") from error
        except Exception as error:
            if constructs and unexpected(error, options):
                raise
            where = place(error) or place(error, installed=True)
            text = " ".join(str(error).split())[:300]
            line = f"{owner} ({where})" if where else owner
            raise ContractError(f"{line}: {type(error).__name__}: {text}") from error

    return call_and_explain


def unexpected(error: Exception, options: Collection[str]) -> bool:
    """Whether a call did not know one of its options, and not code further inside one of its own."""
    text = str(error)
    named = any(f"unexpected keyword argument '{option}'" in text for option in options)
    return isinstance(error, TypeError) and named


def place(error: BaseException, installed: bool = False, whole: bool = False) -> str:
    """The innermost line of the user's code that an exception passed through, as "cart.py:12"; "" if there is none.

    Args:
        installed: count what is installed as the user's code too.
        whole: the path instead of the file's name.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        packaged = any(file.is_relative_to(folder) for folder in INSTALLED)
        if not file.is_file() or file.is_relative_to(OURS) or (packaged and not installed):
            continue
        if packaged or not file.is_relative_to(PYTHON):
            return f"{file if whole else file.name}:{frame.lineno}"
    return ""
