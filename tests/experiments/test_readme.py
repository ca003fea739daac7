"""The documents keep what they promise: commands, links, numbers, and the example in Python."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from experiments.compare.contenders import ADAPTATION
from metarl.config.composition import compose

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "RESULTS.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def code(after: str, language: str) -> str:
    """The first block of code in the README after some text."""
    return README.partition(after)[2].partition(f"```{language}\n")[2].partition("```")[0]


def anchors(text: str) -> set[str]:
    """The names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("marker", ["train", "test"])
def test_one_line_of_code_follows_each_marker(marker: str) -> None:
    marked = f"<!-- {marker}-command -->\n"
    assert README.count(marked) == 1 and README.partition(marked)[2].startswith("```bash\n")
    assert len(code(marked, "bash").splitlines()) == 1


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 160] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for link in LINK.findall((ROOT / name).read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = ROOT / (file or name)
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def meta_learned(contenders: Collection[str]) -> str:
    """MAML among them, alone or after in-context training, as tables call it; "": it is not there."""
    return next((name for name in ("maml", "in_context+maml") if name in contenders), "")


def test_the_numbers_of_the_table_are_those_of_the_results() -> None:
    rows = re.findall(r"^\| (\w+) \| (\d(?:; \d)?) \| (\d.*) \| `env=", README, re.MULTILINE)
    files = (ROOT / "experiments" / "results" / "compare").glob("*.json")
    results = {path.stem: json.loads(path.read_bytes())["contenders"] for path in files}
    told = {env for env, found in results.items() if "in_context" in found and meta_learned(found)}
    assert sorted(env for env, _, _ in rows) == sorted(told - set(ADAPTATION))
    for env, seeds, cells in rows:
        contenders = results[env]
        context = "in_context_equal" if "in_context_equal" in contenders else "in_context"
        names = (context, meta_learned(contenders), "multitask")
        counts = dict.fromkeys(str(len(contenders[name]["seeds"])) for name in names if name in contenders)
        assert seeds == "; ".join(counts), env
        expected = []
        for split in ("test", "ood"):
            context, maml, multitask = (
                [f"{point['success']['mean']:.3f}" for point in contenders[name]["curves"][split]]
                if name in contenders
                else ["-"]
                for name in names
            )
            expected += [context[0], f"{maml[0]} -> {maml[-1]}", multitask[-1]]
        assert cells.replace("†", "").split(" | ") == expected, env


FIRST = {
    "reach_search": "in_context",
    "navigate_search": "in_context",
    "grasp_uncalibrated": "in_context",
    "reach_squared": "maml",
    "cheetah_dir": "maml",
}


@pytest.mark.parametrize("env", FIRST)
def test_what_the_first_table_says_is_what_the_shipped_policy_did(env: str) -> None:
    path = ROOT / "metarl" / "run_folder" / "shipped" / f"{env}-{FIRST[env]}" / "evaluation" / "test.json"
    curve = [f"{entry['success']['mean']:.3f}" for entry in json.loads(path.read_bytes())["curve"]]
    (row,) = re.findall(rf"^\| {env}: .*$", README, re.MULTILINE)
    before, after = row.split(" | ")[1:3]
    assert before.split()[0] == curve[0]
    told = re.findall(r"\d+(?:\.\d+)?", after.partition(" in ")[0].partition("(")[0])
    assert told == curve[1:]
    if beyond := re.search(r"ood: ([\d.]+)", after):
        last = json.loads(path.with_name("ood.json").read_bytes())["curve"][-1]
        assert beyond[1] == f"{last['success']['mean']:.3f}"


def test_every_command_has_the_settings_that_the_readme_gives_it() -> None:
    lines = re.findall(r"-m metarl\.(\w+) ((?:[\w./-]+=[^\s`#;)]+ ?)+)", README)
    assert {name for name, _ in lines} == {"train", "evaluate", "render", "view", "report", "adapt", "export"}
    for name, words in lines:
        if not re.search(r"=(my_|experiments\.panda)", words):  # somebody's own
            assert compose(shlex.split(words), name)


def test_the_example_in_python_runs(tmp_path: Path) -> None:
    example = code("## In Python", "python")
    assert "metarl.load" in example
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in ("True", "False")
    assert [path.name for path in tmp_path.iterdir()] == ["arm7"]
