"""Meta-World's tasks against a recording of its own package on its own engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.errors import PackageError
from envs.metaworld import package
from envs.metaworld.benchmarks import TASKS
from experiments import metaworld_parity

SMALL = Path(__file__).with_name("metaworld.npz")
RECORDING = dict(np.load(SMALL))

try:
    package.models()
except PackageError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize("task", TASKS)
def test_observations_rewards_and_successes_are_those_of_the_package_in_the_same_states(task: str) -> None:
    found = metaworld_parity.differences(RECORDING, task)
    assert found.rows >= 30
    assert found.observation < 1e-5
    assert found.reward < 1e-5
    assert found.success == 0


@pytest.mark.parametrize("task", TASKS)
def test_variations_are_drawn_as_the_package_draws_them(task: str) -> None:
    assert metaworld_parity.same_variations(RECORDING, task)


def test_the_recording_has_successes_and_failures_and_rewards_of_every_size() -> None:
    for task in TASKS:
        found = metaworld_parity.of_task(RECORDING, task)
        assert 0 < found["success"].mean() < 1, task
        assert found["reward"].max() > 5.0 > found["reward"].min(), task


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nowhere.npz", "there is no such file"),
        (__file__, "is not a recording ("),
        (str(SMALL), "lacks scripted episodes of reach, "),
    ],
)
def test_a_recording_that_cannot_be_compared_is_one_line(
    file: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metaworld_parity.main([f"recording={file}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: recording={file}: {said}")
