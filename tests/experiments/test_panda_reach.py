"""Reach with the MJCF of gym-hil: what is said without it, and, where it is installed, how the robot behaves."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from envs import registry
from envs.core.tasks import Tasks
from envs.errors import ModelError
from experiments import panda_reach
from experiments.panda_reach import JOINTS, PandaReach, model_file

ROOT = Path(__file__).parents[2]
PLACE = "experiments.panda_reach:PandaReach"
installed = pytest.mark.skipif(find_spec("gym_hil") is None, reason="needs pip install --no-deps gym-hil")


def test_without_the_package_the_command_gives_the_install_line() -> None:
    # None in sys.modules: Python takes the package for absent, installed or not.
    code = "import sys; sys.modules['gym_hil'] = None; from metarl.train import main, task; main('train', task)"
    result = subprocess.run([sys.executable, "-c", code, f"env={PLACE}"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {PLACE} (panda_reach.py:")
    assert result.stderr.endswith("the package gym-hil is missing: pip install --no-deps gym-hil\n")
    assert result.stderr.count("\n") == 1


def test_a_package_without_the_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = ModuleSpec("gym_hil", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(panda_reach, "find_spec", lambda name: empty)
    with pytest.raises(ModelError, match=r"assets/panda.xml is missing: pip install --no-deps gym-hil"):
        model_file()


@installed
def test_the_robot_stands_still_and_moves_as_told() -> None:
    env = registry.make(PLACE, 2, threads=1)
    assert isinstance(env, PandaReach)
    values = {"goal": torch.tensor([[0.5, 0.0, 0.3]]).repeat(2, 1), "payload_mass": torch.tensor([[0.0], [1.5]])}
    env.set_tasks(Tasks(values))
    first = env.reset()
    for _ in range(20):
        step = env.step(torch.zeros(2, JOINTS))
        assert not step.failed.any(), env.last_failure
    sunk = first[:, 23] - step.observation[:, 23]
    assert abs(sunk[0]) < 0.005 < sunk[1] < 0.1  # it carries itself, and feels what it carries
    before = step.observation
    for _ in range(10):
        step = env.step(torch.tensor([0.5, 0, 0, 0, 0, 0, 0]).repeat(2, 1))
    turned = (step.observation - before)[:, 0]
    assert torch.allclose(turned, torch.full((2,), 0.5), atol=0.15)


@installed
def test_a_goal_at_the_pinch_point_is_reached() -> None:
    env = registry.make(PLACE, 1, threads=1)
    tasks = {"goal": torch.tensor([[0.5, 0.0, 0.3]]), "payload_mass": torch.zeros(1, 1)}
    env.set_tasks(Tasks(tasks))
    pinch = env.reset()[:, 21:24]
    assert not env.step(torch.zeros(1, JOINTS)).success
    env.set_tasks(Tasks({**tasks, "goal": pinch}))
    env.reset()
    step = env.step(torch.zeros(1, JOINTS))
    assert step.success and step.terms["distance"] > -0.05
