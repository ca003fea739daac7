"""Which task a film shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metarl.config.composition import compose
from metarl.errors import RenderError, RunFolderError
from metarl.evaluation.films import most_improved, render_run
from metarl.runs import train

PER_TASK = [
    {"success": [0.9, 1.0], "return": [1.0, 50.0]},
    {"success": [0.2, 0.8], "return": [3.0, 4.0]},
    {"success": [0.4, 1.0], "return": [1.0, 9.0]},
    {"success": [0.4, 1.0], "return": [None, 9.0]},
]


def test_the_task_that_gained_most_success_and_then_return() -> None:
    assert most_improved(PER_TASK) == 2
    assert most_improved(PER_TASK[:2]) == 1
    worse = [{"success": [0.5, 0.1], "return": [1.0, 0.0]}, {"success": [0.5, 0.2], "return": [1.0, 0.0]}]
    assert most_improved(worse) == 1


@pytest.mark.parametrize("wrong", [[], [{"success": [0.5], "return": [1.0]}], [{"success": 3}], [7], None, {"a": 1}])
def test_nothing_to_compare(wrong: Any) -> None:
    assert most_improved(wrong) is None


def test_a_film_of_the_most_improved_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["env=point2d", "algo=maml", "algo.warm_start.iterations=0", "algo.tasks=2", "algo.episodes=2"]
    tiny += ["agent.hidden=[4]", "evaluate.tasks=3", "evaluate.episodes_per_step=2", "env.horizon=5"]
    train(compose([*tiny, "budget.iterations=1", "run_dir=run"]))
    film = ["run=run", "task=most_improved", "width=32", "height=32"]
    path = Path("run/evaluation/test.json")
    report = json.loads(path.read_text())
    report["per_task"][2]["success"] = [0.0, 1.0]
    path.write_text(json.dumps(report))
    render_run(compose(film, "render"))
    assert [file.name for file in Path("run/videos").iterdir()] == ["test-task-2.mp4"]
    with pytest.raises(
        RunFolderError, match="ood.json is missing: make it with python -m metarl.evaluate run=run split=ood"
    ):
        render_run(compose([*film, "split=ood"], "render"))
    path.write_text(json.dumps(report | {"per_task": [{"success": [1.0], "return": [1.0]}]}))
    with pytest.raises(RenderError, match="^task=most_improved: .*test.json has no .* before and after .*task=0$"):
        render_run(compose(film, "render"))
