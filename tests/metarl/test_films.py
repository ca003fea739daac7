"""Which task a film shows, and which of its episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image

from envs.families.point2d import Point2d
from envs.registry import make
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import RenderError, RunFolderError
from metarl.evaluation.curve import adaptation_rounds
from metarl.evaluation.films import layout, most_improved, record, render, render_run, thinned, with_drawers
from metarl.evaluation.panels import Moment, Panel, film
from metarl.rollouts.rollout import collect
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


def test_a_film_of_a_page_has_fewer_pictures_and_as_many_seconds(runs: Any, tmp_path: Path) -> None:
    """A tenth of a second each, and fewer of a film of many panels; those of a slow robot are all there."""
    rows = [[Panel("", 0, [Moment({}, 0.0, 0.0, 0.0, False)] * 40)] * 2]
    assert [thinned(rows, period) for period in (0.2, 0.1, 0.05, 0.02)] == [1, 1, 2, 5]
    assert [thinned(rows, period) for period in (0.0625, 0.07, 0.015)] == [2, 2, 7], "never more than ten a second"
    assert thinned(rows * 2, 0.2) == 1 and thinned(rows * 5, 0.2) == 3 and thinned(rows * 5, 0.02) == 5
    run, counts = open_run(runs["gradient"], "cpu"), []
    for page in (False, True):
        given: dict[str, Any] = {"width": 32, "height": 24, "fps": None, "seed": 0, "threads": 1, "page": page}
        with av.open(str(render(run, split="test", task=0, out=tmp_path / "film.mp4", **given))) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == (10 if page else 20)
            counts.append(sum(1 for _ in container.decode(stream)))
    assert counts == [6 + 20, 4 + 10], "six moments, or every second one and the last; and a second more"


def test_nothing_is_played_that_no_film_shows(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What adapts is the same without the last round, which only an evaluation needs."""
    run, played = open_run(runs["gradient"], "cpu"), []
    monkeypatch.setattr("metarl.evaluation.curve.collect", lambda *a, **k: played.append(1) or collect(*a, **k))
    found = []
    for measured in (True, False):
        env, generator = run.environment(2, 0, 1), torch.Generator().manual_seed(3)
        tasks = run.held_out("test", 1)
        found.append(adaptation_rounds(env, run.policy, run.learner, tasks, 1, generator, measured=measured))
        assert len(found[-1][0]) == len(played) == (2 if measured else 1)
        played.clear()
    (_, (_, before)), (_, (_, after)) = found
    assert before is not None and after is not None
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_one_renderer_draws_all_panels() -> None:
    """Each costs a context of OpenGL; a drawer of somebody else's may remember what it drew, and is made for each."""
    made: list[tuple[int, int]] = []

    class Cheap(Point2d):
        def drawer(self, simulation: int, width: int, height: int) -> Any:
            made.append((width, height))
            return super().drawer(simulation, width, height)

    rows = layout({0: [[], []]}, 1)
    ((one, two),) = with_drawers(Cheap(1), rows, (32, 24))
    assert made == [(32, 24)] * 2 and one[1] is not two[1]
    ((one, two),) = with_drawers(make("reach", 1), rows, (32, 24))
    assert one[1] is two[1]


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
