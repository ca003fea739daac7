"""The Panda arm of `envs/assets`: kinematics against an independent product, limits, mass, tracking."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

ASSETS = Path(__file__).resolve().parents[2] / "envs" / "assets"
CONTROL_STEP = 0.05  # seconds
TARGET_STEP = 0.1  # radians per control step: 2 rad/s, just inside the robot's velocity limits

# Modified (Craig) Denavit-Hartenberg rows (a, alpha, d) of joints 1 to 7, metres and radians, from Franka Emika.
DENAVIT_HARTENBERG = (
    (0.0, 0.0, 0.333),
    (0.0, -np.pi / 2, 0.0),
    (0.0, np.pi / 2, 0.316),
    (0.0825, np.pi / 2, 0.0),
    (-0.0825, -np.pi / 2, 0.384),
    (0.0, np.pi / 2, 0.0),
    (0.088, np.pi / 2, 0.0),
)
FLANGE = 0.107
FINGERTIP = 0.1034
HAND_ANGLE = -np.pi / 4

JOINT_RANGES = (
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
TORQUE_LIMITS = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
# From the home pose each joint moves eight control steps this way without meeting its limit.
AWAY_FROM_LIMITS = np.array([1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0])


@pytest.fixture
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(ASSETS / "reach.xml"))


def craig(a: float, alpha: float, d: float, theta: float) -> np.ndarray:
    """Transform (4, 4) from frame i-1 to i: Craig, Introduction to Robotics, eq. 3.6."""
    cosine, sine, cosine_alpha, sine_alpha = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
    return np.array(
        [
            [cosine, -sine, 0.0, a],
            [sine * cosine_alpha, cosine * cosine_alpha, -sine_alpha, -sine_alpha * d],
            [sine * sine_alpha, cosine * sine_alpha, cosine_alpha, cosine_alpha * d],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def grip_frame(angles: np.ndarray) -> np.ndarray:
    """Pose (4, 4) of the fingertip centre for seven joint angles (7,) in radians."""
    pose = np.eye(4)
    for (a, alpha, d), theta in zip(DENAVIT_HARTENBERG, angles, strict=True):
        pose = pose @ craig(a, alpha, d, theta)
    return pose @ craig(0.0, 0.0, FLANGE + FINGERTIP, HAND_ANGLE)


def set_payload(model: mujoco.MjModel, mass: float) -> None:
    """Give the payload a mass in kg, and with it the inertia of a sphere of 3 cm radius."""
    payload = model.body("payload").id
    model.body_mass[payload] = mass
    model.body_inertia[payload] = 0.4 * mass * 0.03**2
    mujoco.mj_setConst(model, mujoco.MjData(model))


def track(
    model: mujoco.MjModel, direction: np.ndarray, moving: int = 8, total: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Errors (total, 7) at the end of each control step, radians, and final joint speeds (7,), radians per second."""
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    substeps = round(CONTROL_STEP / model.opt.timestep)
    errors = np.zeros((total, 7))
    for step in range(total):
        if step < moving:
            data.ctrl[:] += TARGET_STEP * direction
        mujoco.mj_step(model, data, substeps)
        errors[step] = np.abs(data.ctrl - data.qpos)
    return errors, np.abs(data.qvel)


def test_forward_kinematics_match_the_published_parameters(model: mujoco.MjModel) -> None:
    generator = np.random.default_rng(0)
    data = mujoco.MjData(model)
    low, high = np.array(JOINT_RANGES).T
    for _ in range(100):
        data.qpos[:] = generator.uniform(low, high)
        mujoco.mj_forward(model, data)
        expected = grip_frame(data.qpos)
        np.testing.assert_allclose(data.site("grip").xpos, expected[:3, 3], rtol=0, atol=1e-9)
        np.testing.assert_allclose(data.site("grip").xmat.reshape(3, 3), expected[:3, :3], rtol=0, atol=1e-9)


def test_grip_sensors_are_the_position_and_its_derivative(model: mujoco.MjModel) -> None:
    generator = np.random.default_rng(1)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    data.qvel[:] = generator.uniform(-1, 1, 7)
    mujoco.mj_forward(model, data)
    delta = 1e-6
    difference = grip_frame(data.qpos + delta * data.qvel) - grip_frame(data.qpos - delta * data.qvel)
    np.testing.assert_allclose(data.sensor("grip_position").data, grip_frame(data.qpos)[:3, 3], atol=1e-9)
    np.testing.assert_allclose(data.sensor("grip_velocity").data, difference[:3, 3] / (2 * delta), atol=1e-7)


def test_joints_and_actuators_have_the_limits_of_the_robot(model: mujoco.MjModel) -> None:
    assert (model.nq, model.nv, model.nu) == (7, 7, 7)
    for index, (limits, torque) in enumerate(zip(JOINT_RANGES, TORQUE_LIMITS, strict=True), start=1):
        joint, actuator = model.joint(f"joint{index}"), model.actuator(f"actuator{index}")
        assert actuator.trnid[0] == joint.id
        np.testing.assert_array_equal(joint.range, limits)
        np.testing.assert_array_equal(actuator.ctrlrange, limits)
        np.testing.assert_array_equal(actuator.forcerange, (-torque, torque))


def test_total_mass_is_that_of_the_robot(model: mujoco.MjModel) -> None:
    assert 15.0 < model.body("link0").subtreemass[0] < 22.0
    assert model.body("payload").mass[0] == pytest.approx(0.1)


def test_home_rests_with_the_hand_pointing_down(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    np.testing.assert_array_equal(data.qpos, data.ctrl)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.site("grip").xmat.reshape(3, 3)[:, 2], (0, 0, -1), atol=1e-9)


def test_payload_is_felt_and_the_arm_itself_is_not(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    holding = []
    for mass in (1e-9, 3.0):
        set_payload(model, mass)
        mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
        mujoco.mj_forward(model, data)
        holding.append(data.qfrc_bias - data.qfrc_passive)
    jacobian = np.zeros((3, 7))
    mujoco.mj_jacSite(model, data, jacobian, None, model.site("grip").id)
    # The base, which does not move, is the only part without compensation: without a payload nothing is left to hold.
    np.testing.assert_allclose(holding[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(holding[1], -3.0 * jacobian.T @ model.opt.gravity, atol=1e-6)


@pytest.mark.parametrize("mass", [0.0, 3.0])
@pytest.mark.parametrize("joint", range(7))
def test_each_joint_follows_a_target_at_full_speed(model: mujoco.MjModel, joint: int, mass: float) -> None:
    set_payload(model, mass)
    errors, speeds = track(model, AWAY_FROM_LIMITS * (np.arange(7) == joint))
    assert errors.max() < 0.1
    assert errors[-1].max() < 0.01
    assert speeds.max() < 1e-3


@pytest.mark.parametrize("mass", [0.0, 1.0])
def test_all_joints_follow_at_full_speed_together(model: mujoco.MjModel, mass: float) -> None:
    # With 3 kg the 12 N m of the wrist do not suffice for this; that is the robot's limit, not the controller's.
    set_payload(model, mass)
    errors, _ = track(model, AWAY_FROM_LIMITS)
    assert errors.max() < 0.1
    assert errors[-1].max() < 0.01


@pytest.mark.parametrize("mass", [0.0, 3.0])
def test_random_targets_never_make_the_arm_unstable(model: mujoco.MjModel, mass: float) -> None:
    set_payload(model, mass)
    generator = np.random.default_rng(2)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    low, high = model.actuator_ctrlrange.T
    for _ in range(400):
        data.ctrl[:] = np.clip(data.ctrl + generator.choice([-TARGET_STEP, TARGET_STEP], 7), low, high)
        mujoco.mj_step(model, data, 10)
        assert np.abs(data.qvel).max() < 20.0
    assert not data.warning.number.any()
