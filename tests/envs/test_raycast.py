"""The parts of the ray caster: which rays are spared, what is softened, what is drawn finer."""

import mujoco
import numpy as np
import pytest

from envs.rendering import raycast
from envs.rendering.rays import HIDDEN, PLANE, SOLID, TRANSLUCENT, View

SCENE = """
<mujoco>
  <worldbody>
    <geom type="plane" size="2 2 0.1"/>
    <geom type="box" size="0.12 0.12 0.12" pos="-0.4 0.1 0.12" euler="0 0 30"/>
    <geom type="capsule" size="0.08 0.15" pos="0.45 0.2 0.23" euler="40 0 0"/>
    <geom type="sphere" size="0.12" pos="0 0.1 0.3"/>
    <geom name="mark" type="ellipsoid" size="0.08 0.1 0.05" pos="0 -0.5 0.15"/>
    <geom name="unseen" type="sphere" size="0.3" pos="0 -0.6 0.5"/>
  </worldbody>
</mujoco>
"""


def test_rays_are_sorted_out_without_loss():
    """`View` finds what MuJoCo's ray caster finds ray by ray, from outside and from amid the geoms."""
    prepared, generator = mujoco.MjModel.from_xml_string(SCENE), np.random.default_rng(0)
    prepared.geom_group[:] = SOLID
    prepared.geom_group[0] = PLANE
    prepared.geom_group[prepared.geom("mark").id] = TRANSLUCENT
    prepared.geom_group[prepared.geom("unseen").id] = HIDDEN
    data = mujoco.MjData(prepared)
    mujoco.mj_forward(prepared, data)
    mask = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    for origin, spread in (
        (np.array([0.0, -1.6, 0.8]), 0.5),
        (np.array([1.0, 1.0, 3.0]), 0.3),
        (np.zeros(3) + 0.2, 2.0),
    ):
        axis = np.array([0.0, 0.1, 0.2]) - origin
        rays = axis / np.linalg.norm(axis) + spread * generator.uniform(-1, 1, (400, 3))
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        view = View(prepared, data, origin, axis, (SOLID, PLANE, TRANSLUCENT))
        hits = view.first(data, rays)
        geom = np.zeros(1, np.int32)
        for index, ray in enumerate(rays):
            distance = mujoco.mj_ray(prepared, data, origin, ray, mask, 1, -1, geom)
            assert hits.geom[index] == geom[0]
            assert hits.distance[index] == pytest.approx(distance if distance >= 0 else np.inf)
        assert len(set(hits.geom)) >= 4
    outside = View(prepared, data, np.array([0.0, -1.6, 0.8]), np.array([0.0, 1.6, -0.6]), (SOLID,))
    assert not outside.may_hit(np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).any()


def test_shadows_soften_within_a_geom_only():
    image = np.zeros((9, 12), np.float32)
    image[:, 6:] = 1.0
    one, two = np.zeros(image.shape, int), np.zeros(image.shape, int)
    two[:, 6:] = 1
    soft = raycast.soften(image, one)
    assert np.all(np.diff(soft[4]) >= 0) and 0.0 < soft[4, 5] < 0.5 < soft[4, 6] < 1.0
    assert np.allclose(soft, soft[0])
    assert np.allclose(raycast.soften(image.T, one.T), soft.T)
    assert np.array_equal(raycast.soften(image, two), image)


def test_edges_are_both_sides_of_a_step():
    colour = np.zeros((5, 6, 3))
    colour[:, 3:, 1] = 0.5
    found = raycast.edges(colour)
    assert found[:, 2:4].all() and not found[:, :2].any() and not found[:, 4:].any()
    assert np.array_equal(raycast.edges(colour.transpose(1, 0, 2)), found.T)
