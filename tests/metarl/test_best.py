"""The best checkpoint by smoothed training success, then return."""

import json
import math
from pathlib import Path

import pytest

from metarl.config.composition import compose
from metarl.errors import CheckpointError
from metarl.run_folder import RunFolder
from metarl.runs import train
from metarl.training.best import Best


def told(success: float, earned: float = 0.0) -> dict[str, float]:
    return {"success_after": success, "return_after": earned, "success_before": 1.0}


def test_one_lucky_iteration_is_not_the_best() -> None:
    best = Best()
    for _ in range(10):
        best.add(told(0.5))
    assert best.claim(10)
    best.add(told(1.0))  # smoothed: 0.55
    assert best.smoothed["success_after"] == pytest.approx(0.55)
    assert best.claim(11)
    for _ in range(20):
        best.add(told(0.5))
    best.add(told(0.9))
    assert best.smoothed["success_after"] < 0.55 and not best.claim(32)
    assert best.iteration == 11


def test_where_success_is_equal_the_return_decides() -> None:
    best = Best()
    best.add(told(0.0, -10.0))
    assert best.claim(1)
    best.add(told(0.001, -20.0))  # a hundredth of success is noise
    assert not best.claim(2)
    best.add(told(0.0, 30.0))
    assert best.claim(3) and best.iteration == 3
    assert best.claim(3)  # saved twice, named twice


def test_nothing_is_the_best_before_anything_was_measured() -> None:
    best = Best()
    assert not best.claim(0)
    best.add(told(math.nan, math.nan))
    assert not best.claim(1)
    best.add(told(0.1, 1.0))
    best.add(told(0.1, math.nan))
    assert best.claim(3) and best.smoothed["return_after"] == 1.0


def test_it_survives_a_resume() -> None:
    whole, first = Best(), Best()
    for best in (whole, first):
        for iteration, success in enumerate((0.1, 0.7, 0.2), 1):
            best.add(told(success))
            best.claim(iteration)
    resumed = Best(json.loads(json.dumps(first.state())))
    for best in (whole, resumed):
        best.add(told(0.0))
        assert not best.claim(4)
    assert resumed.state() == whole.state()
    assert Best(None).state() == Best().state()


def test_a_best_checkpoint_that_is_gone_is_forgotten() -> None:
    best = Best()
    best.add(told(0.9))
    best.claim(5)
    best.forget_unless([5, 6])
    assert best.iteration == 5
    best.forget_unless([4, 6])
    for _ in range(30):
        best.add(told(0.1))
    assert best.claim(7) and best.iteration == 7


@pytest.mark.parametrize("state", [{"score": 3}, {"score": ["x"]}, {"iteration": "x"}, {"return_after": []}, 3])
def test_a_record_that_is_none_is_refused(state: object) -> None:
    with pytest.raises(CheckpointError, match="record of the best one is unusable"):
        Best(state)


def test_easier_tasks_of_a_curriculum_do_not_count(tmp_path: Path) -> None:
    tiny = ["env=point2d", "env.horizon=3", "agent.width=8", "agent.layers=1", "algo=in_context", "algo.tasks=4"]
    given = [*tiny, "algo.curriculum=2", "threads=1", "device=cpu", "report=none", "evaluate.tasks=2"]
    folder = train(compose([*given, "budget.iterations=2", "checkpoint.every=1", f"run_dir={tmp_path / 'run'}"]))
    assert RunFolder(folder).best is None
    train(compose([f"resume={folder}", "budget.iterations=3"]))
    assert RunFolder(folder).best == 3
