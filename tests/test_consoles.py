"""What is printed is printed as it is: rich would take the [brackets] of a path for markup."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("metarl", "envs", "agents", "experiments") for path in (ROOT / room).rglob("*.py"))


def consoles(source: str) -> list[ast.Call]:
    """The calls that make a console."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Console"]


@pytest.mark.parametrize("path", [path for path in FILES if "Console(" in path.read_text()], ids=lambda path: path.stem)
def test_every_console_prints_brackets(path: Path) -> None:
    for call in consoles(path.read_text()):
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert said.get("markup") == "False", f"{path}:{call.lineno}"
