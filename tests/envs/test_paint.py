"""Pictures of a point on the plane."""

import numpy as np
import pytest

from envs.rendering.paint import BACKGROUND, FIELD, GOAL, POINT, TRAIL_NEW, paint_plane

NOWHERE = np.zeros((0, 2))


@pytest.mark.parametrize(("width", "height"), [(200, 200), (300, 200), (90, 160)])
def test_everything_is_where_it_is_said_to_be(width, height):
    point, goal = np.array([0.5, -0.25]), np.array([-0.5, 0.25])
    picture = paint_plane(point, goal, np.array([[0.5, 0.75]]), 1.0, width, height)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8

    def at(x: float, y: float) -> tuple[int, ...]:
        scale = 0.47 * min(width, height)
        return tuple(picture[int(height / 2 - y * scale), int(width / 2 + x * scale)].tolist())

    assert at(*point) == POINT
    assert at(*goal) == GOAL
    red, _, blue = at(0.5, 0.33)  # the trail: x to the right, y up
    assert blue > red + 50
    assert at(0.7, 0.7) == FIELD
    assert tuple(picture[0, 0].tolist()) == BACKGROUND


def test_without_goal_and_trail():
    picture = paint_plane(np.zeros(2), None, NOWHERE, 0.9, 120, 90)
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert POINT in colours and GOAL not in colours and TRAIL_NEW not in colours


def test_a_goal_outside_is_drawn_on_the_border():
    far, border = (paint_plane(np.zeros(2), np.array([x, 0.0]), NOWHERE, 1, 100, 100) for x in (5.0, 1.0))
    assert np.array_equal(far, border)
