"""Two compiled models of one MJCF: the physics' and the pictures'."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from envs.core.environment import ASSETS
from envs.core.models import PictureModel, load_spec, physics_model
from envs.errors import ModelError

SCENE = """
<mujoco model="scene">
  <worldbody>
    <geom name="floor" type="plane" size="1 1 0.1"/>
    <body name="block" pos="0 0 0.3">
      <freejoint/>
      <inertial mass="1" pos="0 0 0" diaginertia="0.01 0.01 0.01"/>
      <geom name="paint" type="sphere" size="0.1" contype="0" conaffinity="0"/>
      <geom name="block" type="box" size="0.1 0.1 0.1"/>
    </body>
  </worldbody>
</mujoco>
"""


def test_the_physics_does_without_what_is_only_drawn() -> None:
    spec = load_spec(ASSETS / "reach.xml")
    bare, whole = physics_model(spec), spec.compile()
    assert bare.ngeom == 0 < whole.ngeom
    moving = whole.body_treeid >= 0
    for name in ("body_mass", "body_inertia", "body_ipos"):
        np.testing.assert_array_equal(getattr(bare, name)[moving], getattr(whole, name)[moving], err_msg=name)
    ends = []
    for model in (bare, whole):
        data = mujoco.MjData(model)
        mujoco.mj_resetDataKeyframe(model, data, 0)
        data.ctrl[:] += 0.3
        mujoco.mj_step(model, data, nstep=200)
        ends.append(data.qpos.copy())
    np.testing.assert_array_equal(*ends)


MOVING = """
<mujoco model="moving"> {0}
  <option density="200"/>
  <worldbody>
    <site name="hook" pos="0.5 0 1"/> <site name="side" pos="0 0.2 0.5"/>
    <body name="bob" pos="0 0 0.5">
      <joint type="slide" axis="1 0 0"/> <joint type="slide" axis="0 0 1"/>
      <inertial mass="1" pos="0 0 0" diaginertia="0.01 0.01 0.01"/>
      <geom name="shell" type="sphere" size="0.1" contype="0" conaffinity="0" {1}/> <site name="eye" pos="0.2 0 0"/>
    </body>
    <body name="post" pos="1 0 0.4"><geom name="disc" size="0.1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <tendon> <spatial name="rope" stiffness="50"><site site="hook"/> {2} <site site="eye"/></spatial> </tendon>
  <sensor> <framepos objtype="body" objname="bob"/> {3} </sensor>
</mujoco>
"""


@pytest.mark.parametrize(
    "parts",
    [
        ('<compiler inertiafromgeom="true"/>', "", "", ""),
        pytest.param(
            ('<compiler settotalmass="7"/>', "", "", ""), marks=pytest.mark.filterwarnings("ignore:.*settotalmass")
        ),
        ("", 'fluidshape="ellipsoid"', "", ""),
        ("", "", '<geom geom="shell" sidesite="side"/>', ""),
        ("", "", "", '<rangefinder site="eye"/>'),
        ("", "", "", '<distance body1="bob" body2="post" cutoff="5"/>'),
    ],
)
def test_what_acts_on_bodies_or_sensors_is_kept(parts: tuple[str, ...]) -> None:
    spec, ends = mujoco.MjSpec.from_string(MOVING.format(*parts)), []
    for model in (physics_model(spec), spec.compile()):
        data = mujoco.MjData(model)
        mujoco.mj_step(model, data, nstep=200)
        ends.append(np.concatenate([data.qpos, data.sensordata]))
    np.testing.assert_array_equal(*ends)


def test_a_picture_shows_a_simulation_s_own_geom() -> None:
    spec = mujoco.MjSpec.from_string(SCENE)
    physics = physics_model(spec)
    own = physics.geom("block").id
    assert own != spec.compile().geom("block").id  # the geom before it is only drawn
    physics.geom_type[own] = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
    physics.geom_size[own] = [0.05, 0.2, 0.0]
    pictures = PictureModel(spec)
    variant = pictures.variant(physics)
    assert variant.geom("block").type == int(mujoco.mjtGeom.mjGEOM_CAPSULE)
    np.testing.assert_array_equal(variant.geom("block").size, [0.05, 0.2, 0.0])
    np.testing.assert_array_equal(variant.geom("paint").size[0], 0.1)
    np.testing.assert_array_equal(pictures.model.geom("block").size, [0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "broken.xml"),
        ("<mujoco><worldbod></mujoco>", "broken.xml"),
        (SCENE.replace("0.1 0.1 0.1", "-1 1 1"), "scene"),
    ],
)
def test_a_model_that_does_not_compile_is_named_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "broken.xml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError) as caught:
        physics_model(load_spec(path))
    assert said in str(caught.value) and "\n" not in str(caught.value)
