"""Videos of the adapters, by the wrappers of Gymnasium and Stable-Baselines3; both need moviepy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import RecordVideo as RecordVideoOfMany
from stable_baselines3.common.vec_env import VecVideoRecorder

import envs  # noqa: F401  (registers the Gymnasium environments)
from envs.adapters.sb3 import SB3VecEnv

POINT = "metarl/Point2d-v0"


def test_videos_can_be_recorded_of_every_adapter(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    options: dict[str, Any] = {"render_mode": "rgb_array", "width": 32, "height": 32, "horizon": 3}
    one = RecordVideo(gymnasium.make(POINT, **options), str(tmp_path / "one"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium says that the last picture of an episode will not be in the film
        many = RecordVideoOfMany(gymnasium.make_vec(POINT, num_envs=2, **options), str(tmp_path / "many"))
    sb3 = VecVideoRecorder(SB3VecEnv("point2d", 2, **options), str(tmp_path / "sb3"), lambda step: step == 0, 3)
    for env in (one, many):
        env.reset(seed=0)
        for _ in range(3):
            env.step(env.action_space.sample())
        env.close()
    sb3.reset()
    for _ in range(4):
        sb3.step(np.zeros((2, 2)))
    sb3.close()
    assert all(list((tmp_path / name).glob("*.mp4")) for name in ("one", "many", "sb3"))
