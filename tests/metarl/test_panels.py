"""Which episodes stand where in a film, and what each panel tells."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from metarl.evaluation import panels
from metarl.evaluation.films import layout
from metarl.evaluation.panels import FELT, HOLD_SECONDS, OFF, SUCCESS, Moment, Panel, film, held, panel_size

WIDTH, HEIGHT, FPS = 120, 90, 10.0
HEAD = HEIGHT // 9 + HEIGHT // 4


def episode(length: int, felt: int = 99, succeeds: int = 99) -> list[Moment]:
    """Moments that feel from one step on, and succeed from another."""
    state = [{"shade": np.array(10 * t)} for t in range(length)]
    return [Moment(state[t], 0.1 * t, -1.0, float(t >= felt), t >= succeeds) for t in range(length)]


def draw(state: dict[str, np.ndarray]) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), int(state["shade"]), np.uint8)


def filmed(rows: list[list[Panel]], sparse: bool = True) -> list[np.ndarray]:
    return list(film([[(panel, draw) for panel in row] for row in rows], "robot", FPS, sparse))


def corner(picture: np.ndarray, row: int, column: int, rows: int) -> tuple[int, int]:
    """Where a panel of a film begins; under the line at the top of all."""
    top = picture.shape[0] - rows * (HEAD + HEIGHT) - 2 * (rows - 1)
    return top + row * (HEAD + HEIGHT + 2), column * (WIDTH + 2)


def light(picture: np.ndarray, column: int, row: int = 0, rows: int = 1) -> tuple[int, ...]:
    """The colour of a panel's light."""
    top, left = corner(picture, row, column, rows)
    return tuple(picture[top + HEAD // 2, left + WIDTH - min(HEAD, WIDTH // 3) // 2].tolist())


def shade(picture: np.ndarray, column: int, row: int = 0, rows: int = 1) -> int:
    """The grey of a panel's picture."""
    top, left = corner(picture, row, column, rows)
    return int(picture[top + HEAD + HEIGHT // 2, left + WIDTH // 2, 0])


def test_the_episodes_of_a_trial_stand_beside_each_other() -> None:
    trial = [episode(5), episode(4), episode(3)]
    (row,) = layout({0: trial}, 10)
    assert [(panel.title, panel.seen) for panel in row] == [("episode 1", 0), ("episode 2", 1), ("episode 3", 2)]
    assert [panel.moments for panel in row] == trial


def test_without_a_trial_the_gradient_steps_do() -> None:
    (row,) = layout({0: [episode(5)], 1: [episode(4)], 3: [episode(3)]}, 10)
    titles = ["before adaptation", "after 1 gradient step", "after 3 gradient steps"]
    assert [(panel.title, panel.seen) for panel in row] == list(zip(titles, (0, 10, 30), strict=True))
    (row,) = layout({0: [episode(5)]}, 10)
    assert [panel.title for panel in row] == ["episode 1"]


def test_both_are_rows_and_columns() -> None:
    rows = layout({0: [episode(5), episode(4)], 2: [episode(3), episode(2)]}, 5)
    assert [[panel.title for panel in row] for row in rows] == [
        ["before adaptation, episode 1", "before adaptation, episode 2"],
        ["after 2 gradient steps, episode 1", "after 2 gradient steps, episode 2"],
    ]
    assert [[panel.seen for panel in row] for row in rows] == [[0, 1], [20, 21]]
    assert [[len(panel.moments) for panel in row] for row in rows] == [[5, 4], [3, 2]]
    last = filmed(rows)[-1]
    found = [[shade(last, column, row, 2) for column in (0, 1)] for row in (0, 1)]
    assert found == [[40, 30], [20, 10]]


def test_of_a_long_trial_the_first_and_the_last_are_shown() -> None:
    (row,) = layout({0: [episode(2)] * 10}, 1)
    assert [panel.seen for panel in row][:: len(row) - 1] == [0, 9] and len(row) == 5


def test_panels_run_together_and_stay_at_their_last_picture() -> None:
    pictures = filmed(layout({0: [episode(6), episode(3)]}, 1))
    assert len(pictures) == 6 + HOLD_SECONDS * FPS
    assert [shade(picture, 0) for picture in pictures[:8]] == [0, 10, 20, 30, 40, 50, 50, 50]
    assert [shade(picture, 1) for picture in pictures[:8]] == [0, 10, 20, 20, 20, 20, 20, 20]
    assert len({picture.shape for picture in pictures}) == 1


def test_of_several_moments_one_is_drawn_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = layout({0: [episode(6, succeeds=1), episode(3)]}, 1)
    drawn = [[(panel, draw) for panel in row] for row in rows]
    pictures = list(film(drawn, "robot", FPS, True, every=2))
    assert len(pictures) == 4 + HOLD_SECONDS * FPS
    assert [shade(picture, 0) for picture in pictures[:5]] == [0, 20, 40, 50, 50]
    assert [shade(picture, 1) for picture in pictures[:5]] == [0, 20, 20, 20, 20]
    said: list[list[str]] = []
    monkeypatch.setattr(panels, "caption", lambda frame, lines, size=None: said.append(lines) or frame)
    list(panels.pictures(rows[0][0], draw, False, every=4))
    assert [lines[1:] for lines in said[1::2]] == [
        ["return -1.0", "0.0 s"],
        ["return -5.0", "0.4 s   success after 0.1 s"],
        ["return -6.0", "0.5 s   success after 0.1 s"],
    ], "sums and successes count the moments that are not drawn"


def test_a_light_shows_feedback_and_success() -> None:
    rows = layout({0: [episode(4, felt=1, succeeds=3), episode(4, felt=0, succeeds=1)]}, 1)
    pictures = filmed(rows)
    assert [light(picture, 0) for picture in pictures[:4]] == [OFF, FELT, FELT, SUCCESS]
    assert [light(picture, 1) for picture in pictures[:4]] == [FELT, SUCCESS, SUCCESS, SUCCESS]
    # A reward is a number, not a light.
    assert [light(picture, 0) for picture in filmed(rows, sparse=False)[:4]] == [OFF, OFF, OFF, SUCCESS]


def test_what_a_panel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    written = panels.caption

    def heard(frame: np.ndarray, lines: list[str], size: int | None = None) -> np.ndarray:
        said.append(lines)
        return written(frame, lines, size)

    monkeypatch.setattr(panels, "caption", heard)
    panel = Panel("episode 3", 2, episode(4, felt=1, succeeds=2))
    for sparse, sums in ((True, "return -4.0   feedback +3.0"), (False, "return -4.0")):
        said.clear()
        list(panels.pictures(panel, draw, sparse))
        assert said[0] == ["episode 3"] and said[1][2] == "0.0 s"
        assert said[-1] == ["episodes seen before: 2", sums, "0.3 s   success after 0.2 s"]


@pytest.mark.parametrize(
    ("columns", "size"), [(1, (480, 360)), (2, (480, 360)), (3, (320, 240)), (5, (192, 144)), (500, (16, 16))]
)
def test_many_panels_are_small(columns: int, size: tuple[int, int]) -> None:
    assert panel_size(480, 360, columns) == size


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 400), (400, 16), (62, 34)])
def test_a_panel_of_any_shape(width: int, height: int) -> None:
    rows = [[(Panel("episode 1", 0, episode(2)), lambda _: np.zeros((height, width, 3), np.uint8))]]
    assert {picture.shape[1] for picture in film(rows, "robot", FPS, True)} == {width}


def test_nothing_is_held_for_ever() -> None:
    assert list(held([])) == []
    one, two = np.zeros(1), np.ones(1)
    assert [value.item() for value in islice(held([one, two]), 4)] == [0, 1, 1, 1]
