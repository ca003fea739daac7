"""Which task a film shows, and which of its episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import RenderError, RunFolderError
from metarl.evaluation.films import most_improved, record, render_run
from metarl.evaluation.panels import film
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


def test_of_those_that_gained_the_same_success_the_one_that_became_faster() -> None:
    """In a trial: from its first to its last episode, whatever was between."""
    slow = {"success": [0.0, 1.0, 1.0], "return": [0.0, 9.0, 9.0], "time_to_success": [5.0, 1.0, 4.0]}
    fast = {"success": [0.0, 0.0, 1.0], "return": [0.0, 1.0, 2.0], "time_to_success": [5.0, 5.0, 2.0]}
    assert most_improved([slow, fast]) == 1
    assert most_improved([slow, fast | {"success": [0.5, 0.0, 1.0]}]) == 0
    assert most_improved([slow, fast | {"time_to_success": 3}]) == 0


@pytest.mark.parametrize("wrong", [[], [{"success": [0.5], "return": [1.0]}], [{"success": 3}], [7], None, {"a": 1}])
def test_nothing_to_compare(wrong: Any) -> None:
    assert most_improved(wrong) is None


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The titles of the panels that were drawn, a list for each row."""
    titles: list[list[str]] = []

    def listening(rows: Any, *rest: Any) -> Any:
        titles.extend([[panel.title for panel, _ in row] for row in rows])
        return film(rows, *rest)

    monkeypatch.setattr("metarl.evaluation.films.film", listening)
    return titles


TINY = ["env=point2d", "algo.tasks=2", "algo.episodes=2", "evaluate.tasks=2", "evaluate.episodes_per_step=2"]
TINY += ["env.horizon=5", "budget.iterations=1", "recipe=none"]
RUNS = {
    "trial": ["algo=in_context", "algo.trial_episodes=3"],
    "gradient": ["algo=maml"],
    "both": ["algo=maml", "algo.trial_episodes=2", "agent=transformer", "agent.width=4", "agent.heads=1"],
}
BEFORE, AFTER, TWICE = "before adaptation", "after 1 gradient step", "after 2 gradient steps"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(compose([*TINY, *words, f"run_dir={folder / name}"])) for name, words in RUNS.items()}


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("trial", [], [["episode 1", "episode 2", "episode 3"]]),
        ("gradient", [], [[BEFORE, AFTER]]),
        ("gradient", ["steps=[0,2,1]"], [[BEFORE, AFTER, TWICE]]),
        ("gradient", ["steps=2"], [[BEFORE, TWICE]]),
        ("gradient", ["steps=0"], [["episode 1"]]),
        ("both", [], [[f"{when}, episode {number}" for number in (1, 2)] for when in (BEFORE, AFTER)]),
    ],
)
def test_what_a_film_shows(
    kind: str, words: list[str], expected: list[list[str]], runs: Any, tmp_path: Path, panels: list[list[str]]
) -> None:
    out = tmp_path / "film.gif"
    render_run(compose([f"run={runs[kind]}", f"out={out}", "width=64", "height=48", *words], "render"))
    assert panels == expected
    with Image.open(out) as image:
        assert image.width == sum(64 if len(expected[0]) < 3 else 42 for _ in expected[0]) + 2 * (len(expected[0]) - 1)
        image.seek(getattr(image, "n_frames", 1) - 1)
        assert image.info["duration"] >= 1000  # it stays, so that a loop has an end


def test_an_episode_of_a_trial_remembers_those_before(runs: Any) -> None:
    """One trial is filmed, with one memory, and each moment holds what was earned and felt in its step."""
    run = open_run(runs["trial"], "cpu")
    env, tasks = run.environment(1, 0, 1), run.held_out("test", 1)
    env.feedback = "none"
    seen: list[int] = []
    step = run.policy.step

    def counted(token: Any, state: Any, position: Any) -> Any:
        seen.append(int(position))
        return step(token, state, position)

    run.policy.step = counted  # type: ignore[method-assign]
    trial = record(run, env, tasks, None, torch.Generator())
    assert [len(moments) for moments in trial] == [6, 6, 6] and seen == list(range(15))
    for moments in trial:
        assert [moment.seconds for moment in moments] == pytest.approx([0.05 * t for t in range(6)])
        assert all(moment.reward != 0.0 and moment.feedback == 0.0 for moment in moments[1:])


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
