"""A runner has a floor under it wherever it is, and its shadow with it."""

from __future__ import annotations

import numpy as np
import pytest

from envs import registry
from envs.core.environment import MujocoEnvironment
from envs.core.models import PictureModel
from envs.rendering.frames import FrameRenderer


def pictures(name: str, backend: str, ways: tuple[float, ...]) -> list[np.ndarray]:
    """The robot at its start, moved along x (m), (120, 160, 3) each."""
    env = registry.make(name, 1, threads=1)
    assert isinstance(env, MujocoEnvironment)
    env.set_tasks(env.distribution.published("test", 1))
    env.reset()
    renderer = FrameRenderer(PictureModel(env.spec).model, 160, 120, "viewer", backend)
    if renderer.backend != backend:
        pytest.skip(f"no {backend} here")
    state, found = env.render_state(0), []
    for way in ways:
        qpos = state["qpos"].copy()
        qpos[0] += way
        moved = state["mocap_pos"] + np.array([way, 0.0, 0.0])
        found.append(renderer.render(qpos, moved, state["mocap_quat"]).astype(float))
    renderer.close()
    return found


@pytest.mark.parametrize("backend", ["egl", "osmesa", "raycast"])
@pytest.mark.parametrize("name", ["cheetah_dir", "cheetah_vel", "ant_dir"])
def test_a_runner_stays_on_its_floor(name: str, backend: str) -> None:
    # The squares are 2/3 m long: whole periods of the pattern of two.
    start, *later = pictures(name, backend, (0.0, 40.0, 120.0, 200.0))
    for picture in later:
        assert np.abs(picture - start).mean() < 4.0
        lower = picture[90:]  # the nearest floor is green, the sky and the void are grey
        assert (lower[..., 1] - lower[..., 0]).mean() > 10.0
