"""The page of a run: what stands in it, that it needs nothing else, and how it looks in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from envs.core.tasks import Categories, Range, TaskDistribution
from metarl.assembly.opened import open_run
from metarl.config.command_line import main
from metarl.config.composition import compose
from metarl.errors import ConfigError, MetaRLError, RunFolderError
from metarl.pages import footage, report, space
from metarl.pages.charts import POINTS, condensed, svg
from metarl.pages.evaluations import Evaluation, differences, ranked, read, same_tasks
from metarl.pages.footage import chosen
from metarl.pages.subject import Subject, repeat, subjects
from metarl.runs import train

SIZE = ["env=point2d", "env.horizon=6", "algo=in_context", "algo.tasks=4", "agent.width=8", "agent.layers=1"]
SETTINGS = [
    *SIZE,
    "threads=1",
    "device=cpu",
    "budget.iterations=3",
    "evaluate.tasks=12",
    "evaluate.episodes_per_step=2",
    "report=page",
]
SHORT = [*SETTINGS, "budget.iterations=1", "evaluate.tasks=3"]
VOID = {"meta", "br", "link", "img", "input", "hr", "path", "use"}
OUTWARD = re.compile(r"""(?:src|href|srcset|action|data)=["'](?!data:|#)|url\((?!["']?(?:data:|#))|@import""")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(compose([*SETTINGS, f"run_dir={tmp_path_factory.mktemp('runs') / 'point'}"]))


def evaluation(success: Any, goal: Any = None, returns: Any = None, **more: Any) -> Evaluation:
    """An evaluation of tasks (M,) with success (M, P) and the goals (M, d)."""
    rates = np.asarray(success, float)
    goals = np.arange(len(rates), dtype=float)[:, None] if goal is None else np.asarray(goal, float)
    values = {"success": rates, "return": rates if returns is None else np.asarray(returns, float)} | {
        name: np.asarray(v, float) for name, v in more.items()
    }
    return Evaluation("test", {"curve": [{}] * rates.shape[1], "episodes_per_step": 10}, {"goal": goals}, values)


class Balanced(HTMLParser):
    """Finds elements that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return parser


def films(page: Path) -> list[str | None]:
    """The films in a page, as addresses of data."""
    return [attrs["src"] for tag, attrs in parsed(page.read_text()).seen if tag == "video"]


def test_training_ends_with_a_page_that_needs_nothing_else(trained: Path) -> None:
    text = (trained / "report.html").read_text()
    tags = [tag for tag, _ in parsed(text).seen]
    assert "script" not in tags and "video" not in tags and "link" not in tags
    assert not OUTWARD.search(re.sub(r'xmlns(:xlink)?="[^"]*"', "", text))
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert f"python -m metarl.report run={trained}" in text
    content = json.loads((trained / "evaluation" / "test.json").read_text())
    mean, (low, high) = content["curve"][0]["return"]["mean"], content["curve"][0]["return"]["ci95"]
    assert f"<td>{mean:.2f} [{low:.2f}, {high:.2f}]</td>" in text
    for name in ("goal[0]", "goal[1]"):
        assert f'aria-label="success over {name}' in text
    assert text.count('in training"') == 3, "learning curves of three iterations"


def test_the_films_are_in_the_page(trained: Path, tmp_path: Path) -> None:
    settings = compose([f"run={trained}", f"out={tmp_path}", "width=32", "height=24", "device=cpu"], "report")
    report.report_runs(settings)
    videos = films(tmp_path / "report.html")
    assert len(videos) == 3
    assert all(str(video).startswith("data:video/mp4;base64,AAAA") for video in videos)


def test_several_runs_stand_side_by_side(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    path = other / "evaluation" / "test.json"
    content = json.loads(path.read_text())
    for task in content["per_task"]:
        task["return"] = [value + 2.5 for value in task["return"]]
    path.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    assert report.write_report([open_run(trained, "cpu"), open_run(other, "cpu")]) == Path("report.html")
    text = Path("report.html").read_text()
    assert "<td>+2.50 [+2.50, +2.50]</td>" in text
    assert f"run=[{trained},{other}]" in text
    parsed(text)


def test_what_a_stranger_wrote_is_escaped(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "evaluation" / "test.json"
    trap = '"><script>alert(1)</script>'
    content = json.loads(path.read_text()) | {"success_criterion": trap, "first_physics_failure": trap}
    path.write_text(json.dumps(content | {"physics_failures": 1, "actions": trap}))
    text = report.write_report([open_run(tmp_path / "run", "cpu")]).read_text()
    assert "<script" not in text and text.count("&lt;script&gt;alert(1)") == 3


def test_letters_in_a_chart_are_escaped_and_not_taken_for_formulae() -> None:
    text = svg(lambda axes: axes.set_xlabel("<b>$x$ {0}"), '"<i>')
    assert "&lt;b&gt;$x$ {0}" in text and 'aria-label="&#34;&lt;i&gt;"' in text
    assert re.search("#[0-9a-f]{6}", text) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.pop("per_task"), "KeyError: 'per_task'"),
        (lambda content: content["per_task"][0].pop("success"), "success and return"),
        (lambda content: content["per_task"][1].update(success=[0.5] * 9), "ValueError"),
        (lambda content: content["curve"][0]["return"].update(mean=None), "TypeError"),
        (lambda content: content.update(per_task=[]), "IndexError"),
        (lambda content: content["per_task"][0].update(task=3), "TypeError"),
    ],
)
def test_a_damaged_evaluation_is_one_line(trained: Path, change: Callable[[Any], Any], reason: str) -> None:
    content = json.loads((trained / "evaluation" / "test.json").read_text())
    assert read("test", content, "x").values["success"].shape == (12, 1)
    change(content)
    with pytest.raises(RunFolderError, match="^x/evaluation/test.json is not an evaluation of this code: ") as caught:
        read("test", content, "x")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_without_an_evaluation_has_a_page_that_says_how_to_make_one(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    (tmp_path / "run" / "metrics.csv").unlink()
    report.report_runs(compose([f"run={tmp_path / 'run'}", "device=cpu"], "report"))
    text = (tmp_path / "run" / "report.html").read_text()
    for split in ("test", "ood"):
        assert f"python -m metarl.evaluate run={tmp_path / 'run'} split={split}" in text
    assert "was not evaluated on &#39;test&#39;" in text and "<svg" not in text


def test_an_evaluation_can_be_repeated_as_it_was(trained: Path) -> None:
    (subject,) = subjects([open_run(trained, "cpu")])
    line = next(line for line in repeat(subject) if "split=test" in line)
    assert line.split()[2:4] == ["metarl.evaluate", f"run={trained}"]
    evaluation = subject.evaluations["test"].content
    for word in line.split()[4:]:
        name, _, value = word.partition("=")
        told = evaluation["curve"][-1]["step"] if name == "steps" else evaluation.get(name, value)
        assert value == str(told).lower()
    assert "trial_episodes=1" in line.split(), "an evaluation may have longer trials than training"


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["run=null"], 2, "error: run=null: must be the folder of a trained run"),
        (["run=[]"], 2, "error: run=[]: must be"),
        (["run=nowhere"], 1, "error: there is no run at nowhere"),
        (["run=[{run},{run}]"], 2, "error: run=[{run},{run}]: names a run twice"),
        (["run=[{run},{run}/]"], 2, "error: run: {run} is given twice"),
        (["run={run}", "out=/proc/x.html"], 1, "error: cannot write /proc/x.html"),
        (["run={run}", "out={run}/config.yaml"], 1, "error: cannot write {run}/config.yaml"),
        (["run={run}", "film=false"], 2, "error: film=false: unknown key; did you mean 'films'?"),
    ],
)
def test_a_mistake_is_one_line(
    trained: Path,
    words: list[str],
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.replace("{run}", str(trained)) for word in words]
    monkeypatch.setattr(sys, "argv", ["report.py", *given])
    monkeypatch.setattr(report, "film_runs", lambda *_: pytest.fail("the mistake is found after filming"))
    with pytest.raises(SystemExit) as ending:
        main("report", report.report_runs)
    assert ending.value.code == status
    error = capsys.readouterr().err
    assert error.startswith(line.replace("{run}", str(trained))) and error.count("\n") == 1


def test_a_command_can_compose_another_configuration(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page tells the command that trains again, while Hydra runs the command that writes the page."""
    monkeypatch.setattr(sys, "argv", ["report.py", f"run={trained}", f"out={tmp_path / 'x.html'}", "films=false"])
    main("report", report.report_runs)
    assert capsys.readouterr().out == f"report: {tmp_path / 'x.html'}\n"
    command = "metarl.train env=point2d algo=in_context agent.width=8 agent.layers=1 env.horizon=6"
    assert command in (tmp_path / "x.html").read_text()


def test_differences_are_paired_by_task() -> None:
    generator = np.random.default_rng(0)
    level = generator.uniform(0, 1, (50, 1))
    (found, other) = differences(evaluation(level), evaluation(level + 0.1 + generator.normal(0, 1e-3, (50, 1))))
    assert (found.split, found.measure, found.tasks, other.measure) == ("test", "success", 50, "return")
    assert found.interval.mean == pytest.approx(0.1, abs=1e-3)
    assert found.interval.high - found.interval.low < 2e-3, "tasks differ far more among each other"


def test_a_shorter_list_is_the_beginning_of_a_longer_one() -> None:
    goals = np.arange(6.0)[:, None]
    long, short = evaluation(np.zeros((6, 2)), goals), evaluation(np.ones((4, 3)), goals[:4])
    assert same_tasks(long, short) == 4
    assert [found.interval.mean for found in differences(long, short)] == [1.0, 1.0]
    assert same_tasks(long, evaluation(np.ones((4, 1)), goals[:4] + 1)) == 0
    assert differences(long, evaluation(np.ones((4, 1)), goals[:4] + 1)) == []


def test_the_order_of_tasks() -> None:
    success = [[0.0, 0.5], [1.0, 0.5], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    time = [[0, 3], [0, 3], [0, 2], [0, 9], [0, 1]]
    returns = [[0, 1], [0, 2], [0, 0], [0, 0], [0, 0]]
    one = evaluation(success, returns=returns, time_to_success=time)
    assert ranked([one]) == [4, 2, 1, 0, 3]
    assert ranked([one, evaluation([[0.0], [0.0], [0.0], [1.0], [0.0]])]) == [3, 2, 4, 1, 0]
    assert chosen([4, 2, 1, 0, 3]) == {"best": 4, "median": 1, "worst": 3}
    assert (chosen([7, 3]), chosen([7]), chosen([])) == ({"best": 7, "worst": 3}, {"best": 7}, {})


PARAMETERS = {
    "goal": Range([0.0, 0.0], [1.0, 2.0], ood=[([1.0, 0.0], [1.5, 2.0])], unit="m"),
    "mass": Range(1.0, 1.0),
    "shape": Categories(("box", "ball"), ("cone",)),
    "wide": Range([0.0] * 9, [1.0] * 9),
}


def test_what_is_drawn_of_task_space() -> None:
    distribution = TaskDistribution(PARAMETERS)
    axes = space.axes_of(distribution)
    assert [axis.title for axis in axes] == ["goal[0] (m)", "goal[1] (m)", "shape"]
    assert space.large(distribution) == ["wide"]
    goals = np.array([[0.05, 1.9], [0.15, 0.1], [0.95, 0.3], [1.0, 0.3], [1.2, 0.5], [-0.1, 0.5]])
    success = np.array([[1.0], [0.5], [0.0], [1.0], [0.2], [0.6]])
    groups = space.bins(axes[0], evaluation(success, goals))
    assert [(group.tasks, round(group.success, 6)) for group in groups] == [(1, 0.6), (2, 0.75), (2, 0.5), (1, 0.2)]
    assert [round(group.place, 6) for group in groups] == [-0.1, 0.1, 0.975, 1.2]
    assert all(group.low <= group.success <= group.high for group in groups)
    for count in range(1, 30):  # where all succeed, rounding puts the mean beside some of the intervals
        (group,) = space.bins(axes[0], evaluation(np.ones((count, 1)), np.zeros((count, 2))))
        assert group.low <= group.success <= group.high
    assert axes[0].beyond(np.array([0.0, 1.0, 1.00001, 1.1, -0.1])).tolist() == [False, False, False, True, True]
    assert axes[2].beyond(np.array([0.0, 1.0, 2.0])).tolist() == [False, False, True]


def test_tasks_are_shown_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    (subject,) = shown = subjects([open_run("pretrained/navigate_search", "cpu")])
    test = subject.evaluations["test"]
    asked, there = (evaluation.tasks["goal"] for evaluation in (test, subject.realised(test)))
    moved = (asked != there).any(1)
    assert 0 < moved.sum() < len(asked) and np.allclose(np.abs(there[moved, 1]), 0.35), "docks stand clear of the wall"
    older = replace(test, tasks={"goal": asked})
    assert subject.realised(older) is older
    told: list[str] = []
    monkeypatch.setattr(Subject, "realised", lambda _, evaluation: told.append(evaluation.split) or evaluation)
    report.task_space(shown)
    assert told == ["test", "ood"]
    monkeypatch.setattr("metarl.pages.footage.render", lambda *_, **options: options["out"].touch())
    settings = compose(["run=pretrained/navigate_search"], "report")
    footage.film_runs(shown, settings, Console())
    assert told[2:] == ["test"] * 3


def test_the_parameter_on_which_success_depends_comes_first() -> None:
    generator = torch.Generator().manual_seed(0)
    goals = (torch.rand(100, 2, generator=generator) * torch.tensor([1.0, 2.0])).numpy()
    told = evaluation((goals[:, 1:] > 1.0).astype(float), goals)
    axes = space.axes_of(TaskDistribution(PARAMETERS))[:2]
    assert [axis.component for axis in space.most_telling(axes, [told])] == [1, 0]
    assert space.dependence(axes[1], told) > 0.6 and abs(space.dependence(axes[0], told)) < 0.2
    assert space.dependence(axes[0], evaluation(np.ones((100, 1)), goals)) == 0.0


def test_a_long_learning_curve_is_averaged_over_neighbours() -> None:
    rows = [{"env_steps": 1e6 * (i + 1), "loss": float(i)} for i in range(4 * POINTS)]
    steps, values = condensed(rows, "loss")
    assert steps[:2].tolist() == [2.5, 6.5] and values[:2].tolist() == [1.5, 5.5] and len(steps) == POINTS
    broken = [{"env_steps": 1e6, "loss": float("nan")}, {"env_steps": 2e6}, {"env_steps": 3e6, "loss": 1.0}]
    assert [part.tolist() for part in condensed(broken, "loss")] == [[3.0], [1.0]]
    assert [part.tolist() for part in condensed([], "loss")] == [[], []]


def test_a_run_is_known_by_the_shortest_label(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "point")
    runs = [open_run(path, "cpu") for path in (trained, tmp_path / "point")]
    assert [subject.label for subject in subjects(runs[:1])] == ["point"]
    assert [subject.label for subject in subjects(runs)] == [str(trained), str(tmp_path / "point")]
    with pytest.raises(ConfigError, match="is given twice"):
        subjects([runs[0], runs[0]])
    assert issubclass(ConfigError, MetaRLError)


@pytest.fixture(scope="module")
def browser() -> Any:
    """A headless browser; without one these tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_into_a_browser(trained: Path, browser: Any, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page, troubles, asked = context.new_page(), [], []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((trained / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut at the right"
    narrow = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().width))"
    )
    assert narrow > 300
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color"), "letters in charts are legible on it"
    assert (troubles, len(asked)) == ([], 1)
    context.close()
