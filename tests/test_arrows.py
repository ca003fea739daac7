"""The design's arrows, read off the imports: experiments -> metarl -> {envs, agents}, and no circles.

Imports inside functions and under TYPE_CHECKING count too: they hide an arrow, they do not remove it.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
# package -> the project's packages that it may import; nothing may import the tests
ALLOWED = {
    "envs": {"envs"},
    "agents": {"agents"},
    "metarl": {"metarl", "envs", "agents"},
    "experiments": {"experiments", "metarl", "envs", "agents"},
}
PROJECT = {*ALLOWED, "tests"}


class Import(NamedTuple):
    """One imported module: the line that imports it and its dotted name; relative ones keep their leading dots."""

    line: int
    module: str


def read_modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module in the four packages under `root`."""
    files = (file for package in ALLOWED for file in sorted((root / package).rglob("*.py")))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def read_imports(file: Path) -> list[Import]:
    """Every module that the file may import; `from a import b` gives both a and a.b, as b may be a module."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.append(Import(node.lineno, module))
            found += [Import(node.lineno, f"{module}.{name.name}") for name in node.names]
    return found


def wrong_arrows(root: Path) -> list[str]:
    """One line for every import that runs against the design, or that is relative and so hides where it leads."""
    wrong = []
    for name, file in read_modules(root).items():
        package = name.split(".")[0]
        for line, module in read_imports(file):
            target = module.split(".")[0]
            if target == "":
                wrong.append(f"{file.relative_to(root)}:{line} imports {module}: write the import absolute")
            elif target in PROJECT - ALLOWED[package]:
                wrong.append(f"{file.relative_to(root)}:{line} imports {module}: {package} may not import {target}")
    return wrong


def find_circle(root: Path) -> list[str]:
    """A circle of modules: each is imported by the one before it, the last is the first. Empty if there is none."""
    modules = read_modules(root)
    graph = {name: {known_part(item.module, modules) for item in read_imports(modules[name])} for name in modules}
    try:
        TopologicalSorter({name: targets - {name, ""} for name, targets in graph.items()}).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def known_part(module: str, modules: dict[str, Path]) -> str:
    """The longest beginning of a dotted name that is a module of the project, or ""."""
    while module and module not in modules:
        module = module.rpartition(".")[0]
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project whose arrows all run the right way."""
    sources = {
        "envs/tasks.py": "import torch\n",
        "agents/policy.py": "import torch\nfrom agents import attention\n",
        "agents/attention.py": "",
        "metarl/rollout.py": "import agents.policy\nfrom envs.tasks import Tasks\n",
        "metarl/trainer.py": "from metarl.rollout import collect\n",
        "experiments/bench.py": "from agents import policy\nfrom envs import tasks\nfrom metarl import trainer\n",
    }
    for name, text in sources.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    return tmp_path


def plant(project: Path, name: str, text: str) -> None:
    """Append source text to one of the project's files."""
    with (project / name).open("a") as file:
        file.write(text + "\n")


def test_the_project_keeps_the_arrows() -> None:
    assert {name for name in read_modules(ROOT) if "." not in name} == set(ALLOWED)
    assert wrong_arrows(ROOT) == []


def test_the_project_has_no_circle() -> None:
    assert find_circle(ROOT) == []


def test_a_good_project_passes(project: Path) -> None:
    assert wrong_arrows(project) == []
    assert find_circle(project) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("envs/tasks.py", "import agents", "envs may not import agents"),
        ("envs/tasks.py", "from metarl.trainer import Trainer", "envs may not import metarl"),
        ("agents/policy.py", "import envs.tasks as tasks", "agents may not import envs"),
        ("agents/policy.py", "def late():\n    import metarl", "agents may not import metarl"),
        ("metarl/trainer.py", "if TYPE_CHECKING:\n    import experiments", "metarl may not import experiments"),
        ("metarl/trainer.py", "from tests import helpers", "metarl may not import tests"),
        ("metarl/trainer.py", "from . import rollout", "write the import absolute"),
    ],
)
def test_a_planted_import_is_found(project: Path, name: str, text: str, complaint: str) -> None:
    plant(project, name, text)
    found = wrong_arrows(project)
    assert found
    for line in found:
        assert line.startswith(f"{name}:")
        assert line.endswith(complaint)


@pytest.mark.parametrize(
    "text", ["import metarl.trainer", "from metarl.trainer import train", "def late():\n    from metarl import trainer"]
)
def test_a_planted_circle_is_found(project: Path, text: str) -> None:
    plant(project, "metarl/rollout.py", text)
    circle = find_circle(project)
    assert circle[0] == circle[-1]
    assert set(circle) == {"metarl.rollout", "metarl.trainer"}


def test_a_circle_reads_in_the_direction_of_the_imports(project: Path) -> None:
    plant(project, "agents/attention.py", "import agents.mlp")
    (project / "agents" / "mlp.py").write_text("from agents.policy import Policy\n")
    circle = find_circle(project)
    around = ["agents.policy", "agents.attention", "agents.mlp", "agents.policy"]
    assert set(pairwise(circle)) == set(pairwise(around))
