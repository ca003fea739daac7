"""What Meta-World's rewards and poses are computed from; none of it needs the package."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from envs.metaworld.kinematics import Chain, quaternion_of, rotated, scalar_last
from envs.metaworld.shaping import hamacher_product, rect_prism_tolerance, tolerance

# Hinges and slides with anchors beside the origin, on turned bodies, and an initial state that is not zero.
CHAIN = """
<mujoco><worldbody>
  <body name="a" pos="0.1 0.2 0.3" euler="10 20 30">
    <joint type="hinge" axis="1 2 0" pos="0.05 0 0.1" ref="0.4"/><geom size="0.1"/>
    <body name="b" pos="0 0.5 0" euler="0 0 40">
      <body name="c" pos="0.3 0 0">
        <joint type="slide" axis="0 1 1"/><joint type="hinge" axis="0 0 1" pos="0 0.1 0"/><geom size="0.1"/>
      </body>
    </body>
  </body>
</worldbody></mujoco>
"""


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_chain_of_joints_is_where_the_engine_says() -> None:
    model = mujoco.MjModel.from_xml_string(CHAIN)
    data = mujoco.MjData(model)
    qpos = np.random.default_rng(0).uniform(-2, 2, (5, model.nq))
    poses, inside = Chain(model, "c")(torch.from_numpy(qpos)), Chain(model, "c", root="a")(torch.from_numpy(qpos))
    for row, pose, relative in zip(qpos, poses.numpy(), inside.numpy(), strict=True):
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        a, c = data.body("a"), data.body("c")
        np.testing.assert_allclose(pose[:3, 3], c.xpos, atol=1e-12)
        np.testing.assert_allclose(pose[:3, :3], c.xmat.reshape(3, 3), atol=1e-12)
        np.testing.assert_allclose(a.xmat.reshape(3, 3) @ relative[:3, 3] + a.xpos, c.xpos, atol=1e-12)


def test_quaternions_are_those_of_scipy() -> None:
    rotations = Rotation.random(200, rng=np.random.default_rng(1))
    matrices = torch.from_numpy(rotations.as_matrix())
    ours = quaternion_of(matrices)
    expected = Rotation.from_matrix(matrices.numpy()).as_quat()
    for either in (ours, -ours):
        np.testing.assert_allclose(scalar_last(either).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(rotated(ours, double(1, 2, 3)).numpy(), rotations.apply([1, 2, 3]), atol=1e-12)


@pytest.mark.parametrize("gaussian", [False, True])
def test_a_tolerance_is_1_inside_a_tenth_one_margin_away_and_falls(gaussian: bool) -> None:
    x = double(-1.0, 0.0, 1.0, 2.0, 3.5, 5.0)
    found = tolerance(x, 0.0, 2.0, 1.5, gaussian)
    tail = (lambda d: 0.1 ** (d**2)) if gaussian else (lambda d: 1 / (9 * d**2 + 1))
    torch.testing.assert_close(found, double(tail(1 / 1.5), 1.0, 1.0, 1.0, 0.1, tail(2.0)))


def test_margins_differ_from_simulation_to_simulation_and_0_is_a_wall() -> None:
    found = tolerance(double(1.5, 1.5, 0.5), 0.0, 1.0, double(0.5, 0.0, 0.0))
    torch.testing.assert_close(found, double(0.1, 0.0, 1.0))


def test_the_hamacher_product() -> None:
    a, b = double(0.0, 1.0, 0.5, 0.3), double(0.0, 0.4, 0.5, 0.0)
    torch.testing.assert_close(hamacher_product(a, b), double(0.0, 0.4, 1 / 3, 0.0))


def test_the_prism_is_1_outside_and_rises_to_the_corner() -> None:
    zero, one = double(1, 1, 1), double(0, 2, 3)
    points = torch.stack([double(0.5, 1.5, 2.0), double(1, 1, 1), double(0, 2, 3), double(0.5, 1.5, 3.1)])
    torch.testing.assert_close(rect_prism_tolerance(points, zero, one), double(0.125, 0.0, 1.0, 1.0))
    assert math.isclose(float(rect_prism_tolerance(double(0.9, 1.1, 1.2)[None], zero, one)), 0.1 * 0.1 * 0.1)
