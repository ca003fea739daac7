"""The command: what it writes, what an interruption leaves, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.few_shot import digits, ratings, sinusoid
from experiments.few_shot.__main__ import main
from experiments.few_shot.learners import Contender
from experiments.few_shot.networks import Transformer
from experiments.few_shot.report import Row
from metarl.evaluation.statistics import Interval

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def small_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations of two tasks, few gradient steps, and the smallest sinusoids' Transformers."""
    monkeypatch.setattr("experiments.few_shot.learners.QUICK", 2)
    smallest = partial(Transformer, 1, 1, width=4, layers=1, heads=1)
    for name in ("PAPER_CONTENDERS", "DEMO_CONTENDERS"):
        chosen = [
            replace(one, build=smallest) if one.name.endswith("Transformer") else one for one in getattr(sinusoid, name)
        ]
        monkeypatch.setattr(sinusoid, name, tuple(map(small, chosen)))
    everyone = digits.contenders
    monkeypatch.setattr(digits, "contenders", lambda shots: tuple(map(small, everyone(shots))))
    monkeypatch.setattr(digits, "RATES", digits.RATES[:2])


def small(one: Contender) -> Contender:
    steps = tuple({min(step, 3): step for step in one.steps})
    return replace(one, recipe=one.recipe and replace(one.recipe, tasks=2), steps=steps)


def results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["problems"]


@pytest.mark.parametrize(("problem", "lines"), [("sinusoid", 7), ("digits", 14), ("ratings", 5)])
def test_a_problem_gives_a_table_and_a_file(
    problem: str, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "few_shot.json"
    assert main([problem, "--quick", "--seed", "3", "--out", str(out)]) == 0
    (content,) = results(out).values()
    assert content["complete"] and len(content["rows"]) == lines
    assert content["command"] == f"python -m experiments.few_shot {problem} --quick --seed 3"
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    titles = len({row["table"] for row in content["rows"]})
    assert len(table) == lines + 2 * titles
    for row in content["rows"]:
        for measure in row["results"].values():
            assert measure["ci95"][0] <= measure["mean"] <= measure["ci95"][1]


def test_a_seed_gives_the_same_numbers_and_another_gives_others(tmp_path: Path) -> None:
    def numbers(seed: int, name: str) -> list[Any]:
        out = tmp_path / name
        assert main(["ratings", "--quick", "--seed", str(seed), "--out", str(out)]) == 0
        return [row["results"] for row in results(out)["ratings"]["rows"]]

    first = numbers(1, "a.json")
    assert first == numbers(1, "b.json")
    assert all(ours != theirs for ours, theirs in zip(first, numbers(2, "c.json"), strict=True))


def test_an_interruption_leaves_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> Iterator[Row]:
        yield Row("title", "first", "none", {"error": Interval(1.0, 0.5, 1.5)})
        raise KeyboardInterrupt

    out = tmp_path / "few_shot.json"
    out.write_text('{"problems": {"digits": {"rows": []}}}')
    monkeypatch.setattr(ratings, "rows", interrupted)
    assert main(["ratings", "--out", str(out)]) == 130
    found = results(out)
    assert found["digits"] == {"rows": []}
    assert not found["ratings"]["complete"] and [row["learner"] for row in found["ratings"]["rows"]] == ["first"]
    assert capsys.readouterr().err == f"interrupted; what was finished is in {out}\n"


def test_quick_leaves_the_results_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "few_shot.json"
    monkeypatch.setattr("experiments.few_shot.__main__.OUT", out)
    monkeypatch.setattr(ratings, "rows", lambda *arguments: iter(()))
    assert main(["ratings", "--quick"]) == 0 and not out.exists()
    assert main(["ratings"]) == 0 and results(out)["ratings"]["complete"]


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text('["something else"]')
    assert main(["ratings", "--quick", "--out", str(foreign)]) == 1
    assert capsys.readouterr().err == f"error: {foreign} holds no results of this command: choose another --out\n"
    assert foreign.read_text() == '["something else"]'
    inside = foreign / "few_shot.json"
    assert main(["ratings", "--quick", "--out", str(inside)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["rating"])
    assert "unknown problem 'rating' (valid: sinusoid, digits, ratings)" in capsys.readouterr().err


def test_without_scikit_learn_the_command_gives_the_install_line() -> None:
    # None in sys.modules: Python takes the package for absent, installed or not.
    code = "import sys; sys.modules['sklearn'] = None; from experiments.few_shot.__main__ import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "ratings", "digits", "--quick"]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: digits needs scikit-learn: in your clone of metarl, pip install -e '.[few_shot]'\n"
    assert result.stdout == "", "something was trained before"
