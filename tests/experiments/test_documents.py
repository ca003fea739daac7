"""The page of results and the tables beside the papers: written from files, and only where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments import paper_tables, results_page
from experiments.compare.comparison import Comparison
from experiments.compare.contenders import Plan
from experiments.compare.contrasts import Result
from experiments.few_shot.report import Row
from metarl.evaluation.statistics import Interval
from metarl.run_folder import pretrained

TEXT = f"before\n{results_page.BEGIN}\nold\n{results_page.END}\nafter\n"
POINT = {"mean": 0.5, "ci95": [0.4, 0.6]}
CURVE = [{"step": step, "episodes": 10 * step, "success": POINT, "return": POINT} for step in (0, 1)]
ROW = Row("Sinusoids", "MAML", "gradient", {"1 step": Interval(0.6, 0.5, 0.7)}, 80.0)
SINUSOID = {"complete": True, "rows": [ROW.record()]}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results with a comparison, one of a smoke test, and a shipped policy."""
    folder = tmp_path / "results"
    (folder / "compare").mkdir(parents=True)
    entry = {"seeds": [0], "env_steps": 4e6, "seconds": 60.0, "curves": {"test": CURVE}}
    for env, quick in (("reach", False), ("grasp", True)):
        content = {"env": env, "quick": quick, "command": f"compare env={env}", "sentences": [f"So much for {env}."]}
        text = json.dumps(content | {"contenders": {"maml": entry}})
        (folder / "compare" / f"{env}.json").write_text(text)
    policy = tmp_path / "pretrained" / "reach-maml"
    (policy / "evaluation").mkdir(parents=True)
    (policy / "config.yaml").write_text("")
    (policy / "COMMAND").write_text("python -m metarl.train env=reach\n")
    (policy / "evaluation" / "test.json").write_text(json.dumps({"curve": CURVE}))
    monkeypatch.setattr(results_page, "RESULTS", folder)
    monkeypatch.setattr(pretrained, "ROOT", tmp_path / "pretrained")
    return folder


def test_the_results_are_replaced_and_nothing_else(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(TEXT)
    for _ in range(2):  # twice is as good as once
        assert results_page.main([f"page={path}"]) == 0
        text = path.read_text()
        assert text.startswith(f"before\n{results_page.BEGIN}\n") and text.endswith(f"{results_page.END}\nafter\n")
        assert "old" not in text
        assert text.count("So much for reach.") == 1 and "grasp" not in text
        assert text.count("| maml | 0 | 4.0M | 1.0 min |") == 1
        shipped = (
            "| `reach-maml` | 0.500 [0.400, 0.600] -> 0.500 [0.400, 0.600] |  | `python -m metarl.train env=reach` |"
        )
        assert text.count(shipped) == 1


def test_the_latency_stands_on_the_page_if_it_was_measured(results: Path) -> None:
    row = {"group": "latency", "name": "ONNX, median, reach", "value": 0.1, "low": 0.09, "high": 0.2}
    other = row | {"group": "memory", "name": "peak", "target": None, "met": None}
    content = {"machine": {"processor": "some CPU"}, "rows": [other]}
    (results / "bench.json").write_text(json.dumps(content))
    assert results_page.latency() == []
    content["rows"] = [other, row | {"target": "<= 0.25", "met": True}]
    (results / "bench.json").write_text(json.dumps(content))
    assert "| ONNX, median, reach | 0.1 [0.09, 0.2] | <= 0.25 | met |" in results_page.latency()
    content["rows"] = [row | {"target": "<= 0.25", "value": 0.3, "met": False}]
    (results / "latency.json").write_text(json.dumps(content))
    text = "\n".join(results_page.latency())
    assert "| 0.3 [0.09, 0.2] | <= 0.25 | missed |" in text and "some CPU" in text and "peak" not in text
    (results / "latency.json").write_text(json.dumps(content | {"settings": {"quick": True}}))
    assert "| ONNX, median, reach | 0.1 [0.09, 0.2] | <= 0.25 | met |" in results_page.latency(), "a smoke test counts"


def test_the_papers_and_the_few_shot_problems_stand_on_the_page_if_they_are_there(
    results: Path, tmp_path: Path
) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(TEXT)
    (results / "paper_tables.md").write_text(paper_tables.text([["point2d", *"abcdefgh"]], "a table"))
    unfinished = {"complete": False, "rows": [ROW.record() | {"table": "Digits"}]}
    (results / "few_shot.json").write_text(json.dumps({"problems": {"sinusoid": SINUSOID, "digits": unfinished}}))
    assert results_page.main([f"page={path}"]) == 0
    text = path.read_text()
    assert text.count("### Beside the papers") == text.count("| point2d | a | b |") == 1
    assert text.count("| MAML | gradient | 0.600 [0.500, 0.700] | 80 s |") == 1
    assert "a table" not in text and "Digits" not in text


@pytest.mark.parametrize("text", ["", results_page.BEGIN, f"{results_page.END}{results_page.BEGIN}", TEXT + TEXT])
def test_a_page_without_markers_is_left_alone(
    text: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(text)
    assert results_page.main([f"page={path}"]) == 2
    assert path.read_text() == text
    assert "error: the page needs" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["page=nowhere.md"], ["gifs=1"], ["gif=true"]])
def test_a_wrong_argument_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert results_page.main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_published_stands_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(plan: Plan, mine: paper_tables.Row, *_: object) -> list[str]:
        return paper_tables.row(plan.env, f"{mine.method} (ours)", "return", {0: "-16.0", 3: "-1.0"}, "here")

    monkeypatch.setattr(paper_tables, "ours", ours)
    monkeypatch.setattr(paper_tables, "RESULTS", tmp_path)
    (tmp_path / "few_shot.json").write_text(json.dumps({"problems": {"sinusoid": SINUSOID}}))
    assert paper_tables.main(["only=point2d,sinusoid"]) == 0
    lines = (tmp_path / "paper_tables.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| point2d")]
    assert [row.split(" | ")[1] for row in rows] == ["MAML", "context vector", "maml (ours)", "maml_fixed (ours)"]
    assert " | -40.41 | -11.68 | -3.33 | -3.23 | " in rows[0]
    assert " | -16.0 |  |  | -1.0 | here |" in rows[2]
    assert "| MAML | gradient | 0.600 [0.500, 0.700] | 80 s |" in lines


def test_a_contender_of_the_comparison_is_taken_from_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it was made with the settings of today."""
    plan, console = Plan("cheetah_dir", tmp_path, (0,), (), None), Console()
    today = Comparison(plan, console, quick=False, command="").settings("maml", 3)
    curve = [{"step": 1, "return": {"mean": 868.0, "ci95": [800.0, 900.0]}}]
    table = [
        Result("maml", seed, 5e6, 1.0, {"test": {"curve": curve}}, (), settings=of)
        for seed, of in ((3, today), (4, "old"))
    ]
    monkeypatch.setattr(paper_tables, "kept", lambda *_: table)
    mine = paper_tables.Row("maml", "maml", "here")
    row = paper_tables.ours(plan, mine, console)
    assert row[4] == "868.00 [800.00, 900.00]*"
    assert row[-1] == "here; 5.0M environment steps; one seed, interval over tasks"
    assert not paper_tables.compared(plan, mine._replace(overrides=("env.tasks.mass_scale=1.0",)), console)


def test_without_a_few_shot_file_the_published_numbers_stand_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_tables, "RESULTS", tmp_path)
    assert paper_tables.main(["only=sinusoid"]) == 0
    text = (tmp_path / "paper_tables.md").read_text()
    assert "0.67 / 0.38 / 0.35" in text and "Ours" not in text


@pytest.mark.parametrize("text", ["{", "{}", '{"problems": {"sinusoid": 1}}'])
def test_a_file_that_holds_no_few_shot_results_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper_tables, "RESULTS", tmp_path)
    (tmp_path / "few_shot.json").write_text(text)
    assert paper_tables.main(["only=sinusoid"]) == 2
    assert "holds no results" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "method", "settings"),
    [
        ("point2d", "maml", "algo=maml seed=2 budget.env_steps=8000000"),
        ("point2d", "maml_fixed", "algo=maml seed=2 algo.inner.learn_rates=false budget.env_steps=8000000"),
        ("cheetah_dir", "maml", "algo=maml seed=2 budget.iterations=160"),
        ("cheetah_vel", "maml_one_mass", "algo=maml seed=2 env.tasks.mass_scale=1.0 budget.iterations=160"),
    ],
)
def test_the_runs_beside_the_papers(env: str, method: str, settings: str) -> None:
    """Some as in the comparison, some by the papers' settings; point2d gets eight million steps."""
    (mine,) = (each for each in paper_tables.OURS[env] if each.method == method)
    job = paper_tables.job(Plan(env, Path("runs/compare"), (0, 1, 2)), mine, 2)
    assert job.commands() == [f"python -m metarl.train env={env} {settings} run_dir=runs/compare/{env}/{method}-2"]


@pytest.mark.parametrize("arguments", [["only=sinus"], ["seeds=x"], ["run=y"]])
def test_a_mistake_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert paper_tables.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")


def test_success_is_given_before_and_after_the_last_step() -> None:
    entries: list[Any] = [{"success": {"mean": mean, "ci95": [mean, mean]}} for mean in (0.1, 0.2, 0.3)]
    assert results_page.success(entries) == "0.100 [0.100, 0.100] -> 0.300 [0.300, 0.300]"
    assert results_page.success(entries[:1]) == "0.100 [0.100, 0.100]"


def test_a_result_of_an_earlier_version_says_so_and_names_its_warm_start(results: Path) -> None:
    path = results / "compare" / "reach.json"
    content = json.loads(path.read_bytes())
    content["contenders"]["maml"]["commands"] = ["python -m metarl.train algo=maml algo.warm_start.run=x"]
    path.write_text(json.dumps(content))
    text = "\n".join(results_page.comparisons(results / "compare"))
    assert "| in_context+maml | 0 |" in text and "| maml |" not in text
    assert text.count("Measured by an earlier version") == 1 and text.count("Brackets in tables are") == 1
