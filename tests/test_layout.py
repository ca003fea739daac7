"""The layout guard, met as a user meets it: a Python started in a folder that has an `envs` of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Python looks at an editable install after the whole search path: even a folder without __init__.py goes before it.
IMPORT_AS_INSTALLED = f"""
import sys
from importlib.machinery import PathFinder

class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if "." not in name else None

sys.meta_path.append(Installed)
import metarl
"""


def run_python(folder: Path, *arguments: str, search_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` with its usual search path, which starts at `folder`, and then `search_path`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if search_path:
        environment["PYTHONPATH"] = str(search_path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    """The last line on stderr: the exception with its message."""
    return process.stderr.strip().splitlines()[-1]


def test_a_folder_without_foreign_packages_is_fine(tmp_path: Path) -> None:
    process = run_python(tmp_path, "-c", "import metarl, envs, agents; print(envs.__file__)", search_path=ROOT)
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.strip()) == ROOT / "envs" / "__init__.py"


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_a_foreign_package_is_named_and_not_run(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    foreign.mkdir()
    (foreign / "__init__.py").write_text("print('foreign code ran')\n")
    process = run_python(tmp_path, "-c", "import metarl", search_path=ROOT)
    assert process.returncode != 0
    assert process.stdout == ""
    assert last_line(process).startswith(f"ImportError: `import {name}` finds {foreign} instead of {ROOT / name}")


def test_commands_stop_too(tmp_path: Path) -> None:
    (tmp_path / "envs.py").touch()
    process = run_python(tmp_path, "-m", "metarl.layout", search_path=ROOT)
    assert process.returncode != 0
    assert f"ImportError: `import envs` finds {tmp_path / 'envs.py'}" in last_line(process)


def test_a_folder_without_init_is_named(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    process = run_python(tmp_path, "-c", IMPORT_AS_INSTALLED)
    assert process.returncode != 0
    assert last_line(process).startswith(f"ImportError: `import envs` finds {tmp_path / 'envs'} instead of")


def test_the_advice_in_the_message_helps(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    process = run_python(tmp_path, "-P", "-c", IMPORT_AS_INSTALLED)
    assert process.returncode == 0, process.stderr


def test_a_package_already_imported_counts(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "envs").mkdir(parents=True)
    (elsewhere / "envs" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(elsewhere)!r}); import envs; sys.path.pop(0); import metarl"
    process = run_python(tmp_path, "-c", code, search_path=ROOT)
    assert process.returncode != 0
    assert f"finds {elsewhere / 'envs'} instead of" in last_line(process)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "envs").mkdir(parents=True)
    (clone / "metarl").mkdir()
    for name in ("__init__.py", "layout.py"):
        (clone / "metarl" / name).write_text((ROOT / "metarl" / name).read_text())
    process = run_python(clone, "-S", "-c", "import metarl")  # -S: without the agents that may be installed
    assert process.returncode != 0
    assert last_line(process).startswith(f"ImportError: {clone / 'agents'} is missing")
