"""Other tasks while an episode goes on: what they decide changes at once, and nothing else does."""

from __future__ import annotations

import pytest
import torch

from envs.core.tasks import Tasks
from envs.families.grasp_uncalibrated import GraspUncalibrated
from envs.registry import make
from tests.envs.controllers.grasp_uncalibrated import Controller

GRAVITY = 9.81  # m/s^2


@pytest.mark.parametrize(
    ("name", "mass"), [("reach", "payload_mass"), ("grasp", "object_mass"), ("push", "object_mass")]
)
def test_a_weight_follows_its_mass(name: str, mass: str) -> None:
    env = make(name, 2, threads=1)
    given = env.distribution.published("train", 2)
    env.set_tasks(given)
    env.reset()
    env.step(torch.zeros(2, env.action_size))
    heavier = torch.tensor([[0.9], [1.4]])
    env.change_tasks(Tasks({**given.values, mass: heavier}))
    weight = -env.simulator.field("xfrc_applied")[..., 2].sum(-1)
    assert weight.tolist() == pytest.approx((heavier[:, 0] * GRAVITY).tolist(), rel=1e-3)


def test_a_grip_stays_as_firm_as_commanded() -> None:
    env = GraspUncalibrated(8, threads=1)
    given = env.distribution.published("train", 8)
    env.set_tasks(given)
    env.reset()
    controller = Controller(env, None, True)
    for _ in range(20):
        env.step(controller.act())
    held, force = env.grasped.clone(), env.drive.clone()
    assert held.any() and not env.broken[held].all()
    broken = env.broken.clone()
    env.change_tasks(Tasks({**given.values, "camera_shift": given["camera_shift"] + 0.01}))
    assert torch.equal(env.broken, broken)
    assert torch.allclose(env.drive[held], force[held], atol=0.5)
