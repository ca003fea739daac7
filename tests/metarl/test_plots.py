"""Which lines a picture of adaptation has, and over which axis."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from metarl.evaluation import plots
from metarl.evaluation.plots import by_step, curve_png, curves_png

EVALUATION = {"env": "reach", "algo": "in_context", "tasks": 5, "split": "test"}


def entry(step: int, episodes: int, episode: int | None = None, timed: bool = True) -> dict[str, Any]:
    value = {"mean": 0.5, "ci95": [0.4, 0.6]}
    names = ["success", "success_any_step", "return", *(["time_to_success"] if timed else [])]
    place = {"step": step, "episodes": episodes} | ({} if episode is None else {"episode": episode})
    return place | dict.fromkeys(names, value)


TRIAL = [entry(0, 0, 1), entry(0, 1, 2), entry(0, 2, 3)]
AFTER = [entry(1, 6, 1), entry(1, 7, 2), entry(1, 8, 3)]
OLD = [entry(0, 0, timed=False), entry(1, 10, timed=False)]


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    yield figures


def points(figure: Figure, panel: int) -> dict[str, list[float]]:
    """The places on the axis of each line of a panel, by label."""
    handles, labels = figure.axes[panel].get_legend_handles_labels()
    lines = [handle.lines[0] for handle in handles]  # type: ignore[attr-defined]
    found = dict(zip(labels, (list(line.get_xdata()) for line in lines), strict=True))
    return found or {"": list(figure.axes[panel].lines[0].get_xdata())}  # type: ignore[dict-item]


def test_a_trial_is_drawn_over_its_episodes(drawn: list[Figure]) -> None:
    data = curve_png(EVALUATION | {"curve": TRIAL})
    (figure,) = drawn
    assert [axes.get_xlabel() for axes in figure.axes] == ["episode of the trial"] * 3
    assert [axes.get_ylabel() for axes in figure.axes] == list(plots.PANELS.values())
    assert points(figure, 2) == {"": [1, 2, 3]}
    assert Image.open(io.BytesIO(data)).width > 900


def test_each_gradient_step_of_a_trial_has_a_line(drawn: list[Figure]) -> None:
    curve_png(EVALUATION | {"curve": TRIAL + AFTER})
    assert points(drawn[0], 0) == {"0 gradient steps": [1, 2, 3], "1 gradient step": [1, 2, 3]}
    assert list(by_step({"maml": TRIAL + AFTER, "plain": TRIAL})) == [
        "maml, 0 gradient steps",
        "maml, 1 gradient step",
        "plain",
    ]


def test_a_single_point_stands_beside_trials(drawn: list[Figure]) -> None:
    curves_png({"trial": TRIAL, "no memory": [entry(0, 0)]}, "title")
    assert points(drawn[0], 0) == {"trial": [1, 2, 3], "no memory": [1]}


def test_other_curves_are_drawn_over_the_episodes_seen(drawn: list[Figure]) -> None:
    curves_png({"trial": TRIAL, "maml": [entry(0, 0), entry(1, 10)]}, "title")
    assert points(drawn[0], 0) == {"trial": [0, 1, 2], "maml": [0, 10]}
    assert drawn[0].axes[0].get_xlabel() == "episodes of the task seen before"


def test_an_evaluation_without_the_time_has_no_panel_for_it(drawn: list[Figure]) -> None:
    curve_png(EVALUATION | {"curve": OLD})
    assert [axes.get_ylabel() for axes in drawn[0].axes] == list(plots.PANELS.values())[:2]
    curves_png({"old": OLD, "new": [entry(0, 0), entry(1, 10)]}, "title")
    assert list(points(drawn[1], 0)) == ["old", "new"] and list(points(drawn[1], 2)) == ["new"]
