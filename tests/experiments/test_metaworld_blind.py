"""A script that feels nothing passes every goal of ML1 reach and push: it looks at the hand and the puck alone."""

from __future__ import annotations

import pytest
import torch

from envs.metaworld.benchmarks import metaworld
from experiments import metaworld_blind
from experiments.metaworld_blind import LINES, Blind, way
from tests.envs.metaworld_tasks import needs_package


@pytest.mark.parametrize(("task", "low", "high"), [("reach", 0.05, 0.3), ("push", 0.025, 0.025)])
def test_no_point_of_the_goals_box_is_far_from_its_way(task: str, low: float, high: float) -> None:
    points = torch.cartesian_prod(*(torch.linspace(*ends, 21) for ends in ((-0.1, 0.1), (0.8, 0.9), (low, high))))
    starts, ends = way(task)[:-1], way(task)[1:]
    along = torch.linspace(0, 1, 50)[:, None, None]
    passed = (starts + along * (ends - starts)).flatten(0, 1)
    assert torch.cdist(points, passed).amin(1).max() < 0.05


@needs_package
@pytest.mark.parametrize("task", LINES)
def test_it_succeeds_at_some_step_and_not_in_the_end(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert metaworld_blind.main([f"task={task}", "split=train"]) == 0
    ever, end = (float(line.split(" ")[-3]) for line in capsys.readouterr().out.splitlines())
    assert ever >= 0.9 and end <= 0.3


@needs_package
def test_it_does_not_look_at_the_goal() -> None:
    env = metaworld(3, task="push", goal_visible=True, threads=1)
    env.set_tasks(env.distribution.published("train", 3))
    seen = env.reset()
    assert seen[:, 36:].any()
    assert torch.equal(Blind("push", 3)(seen), Blind("push", 3)(seen * (torch.arange(39) < 7)))


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert metaworld_blind.main(["task=pick-place"]) != 0
    assert capsys.readouterr().err.startswith("error: task=pick-place: has no script")
