"""grasp_uncalibrated: the camera is off by what the task says, the grip is as firm as commanded, and objects break."""

import math

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.tasks import Tasks
from envs.families.grasp_uncalibrated import REGULATION, STRONGEST, WEAKEST, GraspUncalibrated
from tests.envs.controllers.grasp_uncalibrated import Controller

STRENGTH, MASS, FRICTION = 4.0, 0.3, 0.6
HOLDING = MASS * 9.81 / (2 * FRICTION)  # N


def tasks(count: int, shift: tuple[float, float] = (0.0, 0.0), turn: float = 0.0) -> Tasks:
    """Boxes of medium mass and friction."""
    values = {"camera_turn": turn, "strength": STRENGTH, "object_mass": MASS, "friction": FRICTION, "object_shape": 0.0}
    columns = {name: torch.full((count, 1), value) for name, value in values.items()}
    size = torch.tensor([[0.02, 0.02, 0.025]] * count)
    return Tasks({**columns, "camera_shift": torch.tensor([shift] * count), "object_size": size})


def begun(given: Tasks, object_visible: bool = False) -> GraspUncalibrated:
    """With time to be gentle."""
    env = GraspUncalibrated(len(given), threads=1, horizon=45, object_visible=object_visible)
    env.set_tasks(given)
    env.reset()
    return env


def lifted(force: Tensor | float | None, calibrated: bool = True) -> float:
    """The share of the published test tasks that the scripted controller solves."""
    env = GraspUncalibrated(100, threads=1)
    env.set_tasks(env.distribution.published("test"))
    env.reset()
    controller = Controller(env, force, calibrated)
    for _ in range(env.horizon - 1):
        env.step(controller.act())
    return float(env.step(controller.act()).success.float().mean())


def test_who_does_not_know_the_camera_misses() -> None:
    assert lifted(None, calibrated=False) < 0.2
    assert lifted(7.0, calibrated=False) < 0.1


@pytest.mark.parametrize("force", [4.5, 5.5, 7.0, 8.5, 10.0])
def test_no_single_force_suits_much_more_than_half_of_the_tasks(force: float) -> None:
    assert lifted(force) < 0.55


def test_the_camera_is_turned_and_shifted() -> None:
    shift, turn = (0.05, -0.03), 0.35
    env = begun(tasks(50, shift, turn))
    expected = []
    for place, quat in zip(env.object_position.numpy(), env.object_quat.numpy(), strict=True):
        about, moved, turned = np.zeros(4), np.zeros(3), np.zeros(4)
        mujoco.mju_axisAngle2Quat(about, np.array([0.0, 0.0, 1.0]), turn)
        mujoco.mju_rotVecQuat(moved, place - [0.5, 0.0, 0.0], about)
        mujoco.mju_mulQuat(turned, about, quat)
        expected.append([*moved + [0.5, 0.0, 0.0] + np.array([*shift, 0.0]), *turned])
    np.testing.assert_allclose(torch.cat(env.camera(), -1).numpy(), expected, atol=1e-6)
    seen = env.observe()[:, [9, 10, 11, 15, 16, 17, 18]].double().numpy()
    np.testing.assert_allclose(seen, expected, atol=0.06)
    assert 0.001 < (seen - expected)[:, :3].std() < 0.006


@pytest.mark.parametrize("force", [4.8, 5.6])
def test_the_fingers_press_as_firmly_as_commanded(force: float) -> None:
    env = begun(tasks(4))
    controller = Controller(env, force, speed=0.5)
    for _ in range(35):
        env.step(controller.act())
    assert env.grasped.all() and not env.broken.any()
    for pad in env.forces:
        assert torch.allclose(pad[:, 1].abs(), torch.tensor(force).double(), rtol=0.1)


def test_the_force_runs_from_the_weakest_to_the_strongest() -> None:
    env = begun(tasks(3))
    action = torch.zeros(3, 5)
    action[:, 4] = torch.tensor([-1.0, 0.0, 1.0])
    middle, missing = math.sqrt(WEAKEST * STRONGEST), 1.0
    assert env.observe()[:, 23].tolist() == pytest.approx([math.log(WEAKEST)] * 3)
    for _ in range(8):
        observation = env.step(action).observation
        torch.testing.assert_close(observation[:, 23].exp(), env.drive_limits[:, 0, 1].float())
        missing *= 1.0 - REGULATION  # of the way to what is commanded, which is even in the force's logarithm
        assert env.drive_limits[0, 0, 1].item() == pytest.approx(WEAKEST)
        assert env.drive_limits[1, 0, 1].item() == pytest.approx(middle * (WEAKEST / middle) ** missing)
        assert env.drive_limits[2, 1, 1].item() == pytest.approx(STRONGEST * (WEAKEST / STRONGEST) ** missing)
    env.reset(torch.tensor([False, False, True]))
    assert env.observe()[2, 23].item() == pytest.approx(math.log(WEAKEST))
    env.step(-action)
    assert env.drive_limits[2, 1, 1].item() == pytest.approx(WEAKEST)
    assert env.drive_limits[0, 0, 1].item() > 1.5 * WEAKEST
    assert torch.equal(env.drive_limits[..., 0], -env.drive_limits[..., 1])


def test_too_firm_a_grip_breaks_the_object_once_and_for_the_episode() -> None:
    env = begun(tasks(2))
    controller = Controller(env, torch.tensor([0.9, 1.2]) * STRENGTH * HOLDING, speed=0.5)
    steps = []
    for _ in range(env.horizon):
        steps.append(env.step(controller.act()))
        controller.force[env.broken] = controller.force[0]  # too late
    felt = torch.stack([step.feedback for step in steps])
    penalty = torch.stack([step.terms["broken"] for step in steps])
    assert felt[:, 0].max() == 1.0 and felt[:, 0].min() == 0.0 and steps[-1].success[0]
    assert felt[:, 1].max() == 0.0 and felt[:, 1].sum() == -1.0 and not any(step.success[1] for step in steps)
    assert torch.equal(penalty, torch.stack([torch.zeros(env.horizon), felt[:, 1]], -1))
    after = int(felt[:, 1].argmin())
    assert all(float(step.terms["success"][1]) == 0.0 for step in steps[after:])
    env.reset(torch.tensor([False, True]))
    assert not env.broken.any()


def test_the_firmer_a_broken_object_is_held_the_less_it_earns() -> None:
    env = begun(tasks(3))
    excess = torch.tensor([0.9, 1.5, 3.0])
    controller = Controller(env, excess * STRENGTH * HOLDING, speed=0.5)
    for _ in range(env.horizon):
        step = env.step(controller.act())
    assert env.broken.tolist() == [False, True, True]
    height = (1.0 - env.error / 0.15).float()
    expected = 1.5 * height / excess.clamp(min=1.0)
    torch.testing.assert_close(step.terms["lifted"], expected, rtol=0.02, atol=0.0)
    assert step.terms["success"].tolist() == [1.5, 0.0, 0.0]


def test_the_pads_feel_the_weight_and_the_grip() -> None:
    env = begun(tasks(3))
    controller = Controller(env, 5.0, speed=0.5)
    assert env.observe()[:, 24:30].abs().max() == 0.0
    for _ in range(env.horizon):
        step = env.step(controller.act())
    left, right = (0.5 * step.observation[:, 24:30].sinh()).split(3, -1)  # N; the left pad is at the smaller y
    torch.testing.assert_close(left[:, 2] + right[:, 2], torch.full((3,), MASS * 9.81), rtol=0.02, atol=0.0)
    torch.testing.assert_close(left[:, 1], torch.full((3,), 5.0), rtol=0.1, atol=0.0)
    torch.testing.assert_close(right[:, 1], torch.full((3,), -5.0), rtol=0.1, atol=0.0)


def test_too_firm_a_grip_costs_four_times_as_much_as_too_gentle_a_one() -> None:
    env = begun(tasks(3))
    best, off = 0.7 * STRENGTH * HOLDING, 0.2
    env.closing_force = best * torch.tensor([1.0, math.exp(-off), math.exp(off)]).double()
    earned = env.reward_terms(torch.zeros(3, 5))["force"]
    expected = [0.3, 0.3 * (1.0 - math.tanh(off)), 0.3 * (1.0 - math.tanh(4.0 * off))]
    torch.testing.assert_close(earned, torch.tensor(expected))


def test_the_light_barrier_sees_what_the_fingers_can_close_on() -> None:
    env = begun(tasks(50))
    controller = Controller(env, 5.0, speed=0.5)
    for _ in range(35):
        env.step(controller.act())
        across = (env.object_position - env.grip)[:, 1].abs()
        seen, apart = env.observe()[:, 30] == 1.0, (env.object_position - env.grip).abs()
        facing = (apart[:, 0] < 0.013) & (apart[:, 2] < 0.018) & (across < 0.03)
        assert seen[facing].all()
        assert not seen[(apart[:, 2] > 0.032) | (apart[:, 0] > 0.032)].any()
    flush = facing & env.touching.all(-1)
    assert flush.sum() >= 10 and seen[flush].all(), "what lies flush with the pads is seen, too"
    missed = begun(tasks(50, (0.055, 0.0)))
    controller = Controller(missed, 5.0, calibrated=False)
    for _ in range(30):
        missed.step(controller.act())
        assert not missed.between.any()


def test_the_oracle_is_told_the_camera_and_the_force() -> None:
    env = begun(tasks(2, (0.04, -0.01), 0.2), object_visible=True)
    told = env.observe()[:, 43:]
    off = (env.camera()[0] - env.object_position)[:, :2].float()
    assert (off - torch.tensor([0.04, -0.01])).abs().max() > 0.005, "the turn moves it as well"
    others = torch.tensor([[0.2, math.log(STRENGTH * HOLDING)]] * 2)
    torch.testing.assert_close(told, torch.cat([off, others], -1))
