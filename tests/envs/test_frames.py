"""Pictures of MuJoCo models: every backend draws the same scene, ray casting even without a graphics library."""

import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from envs.errors import ModelError
from envs.rendering import opengl
from envs.rendering.frames import FrameRenderer, plain_pictures

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 160, 120
SCENE = """
<mujoco>
  <statistic extent="1" center="0 0 0.2"/>
  <visual><headlight ambient="0.4 0.4 0.4" diffuse="0.3 0.3 0.3" specular="0 0 0"/></visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.3 0.5 0.7" rgb2="0.8 0.9 1" width="32" height="192"/>
    <texture name="checker" type="2d" builtin="checker" rgb1="0.9 0.9 0.9" rgb2="0.4 0.4 0.4" width="64" height="64"/>
    <material name="checker" texture="checker" texrepeat="2 2" texuniform="true" specular="0"/>
  </asset>
  <worldbody>
    <light type="directional" pos="0.8 -0.6 2" dir="-0.4 0.3 -1" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
    <camera name="viewer" pos="0 -1.6 0.8" xyaxes="1 0 0 0 0.4 1" fovy="45"/>
    <camera name="top" pos="0 0 2" fovy="45"/>
    <geom type="plane" size="2 2 0.1" material="checker"/>
    <geom name="box" type="box" size="0.12 0.12 0.12" pos="-0.4 0.1 0.12" rgba="0.9 0.1 0.1 1"/>
    <geom name="capsule" type="capsule" size="0.08 0.15" pos="0.45 0.2 0.23" rgba="0.1 0.1 0.9 1"/>
    <body name="slider"><joint type="slide" axis="1 0 0"/>
      <geom name="ball" type="sphere" size="0.12" pos="0 0.1 0.3" rgba="0.1 0.8 0.2 1"/>
    </body>
    <body name="mark" mocap="true" pos="0 -0.5 0.15">
      <geom name="mark" type="sphere" size="0.08" rgba="0.9 0.8 0.1 0.4"/>
    </body>
    <geom name="unseen" type="sphere" size="0.3" pos="0 -0.6 0.5" group="4"/>
  </worldbody>
</mujoco>
"""
REST = np.zeros(1)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(SCENE)


@pytest.fixture(scope="module")
def renderer(model):
    with_rays = FrameRenderer(model, WIDTH, HEIGHT, backend="raycast")
    yield with_rays
    with_rays.close()


def pixel_of(model: mujoco.MjModel, point: np.ndarray) -> tuple[int, int]:
    """Row and column at which the camera "viewer" sees a point (3,): a pinhole camera, written out anew."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = model.camera("viewer").id
    x, y, z = data.cam_xmat[camera].reshape(3, 3).T @ (point - data.cam_xpos[camera])
    focal = HEIGHT / 2 / np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    return int(HEIGHT / 2 + y / z * focal), int(WIDTH / 2 - x / z * focal)


def opengl_picture(backend: str, folder: Path) -> np.ndarray:
    """The scene drawn by OpenGL in a process of its own: one process can use one OpenGL platform only."""
    script = (
        "import sys, mujoco, numpy as np\n"
        "from envs.rendering import opengl\n"
        "from envs.rendering.frames import FrameRenderer\n"
        "opengl.PROBE_SECONDS = 200.0\n"  # a busy machine is no machine without OpenGL
        "model = mujoco.MjModel.from_xml_path(sys.argv[1])\n"
        "if not opengl.usable(sys.argv[2]): sys.exit(3)\n"
        f"renderer = FrameRenderer(model, {WIDTH}, {HEIGHT}, backend=sys.argv[2])\n"
        "assert renderer.backend == sys.argv[2], renderer.backend\n"
        "wide = FrameRenderer(model, 700, 20, 'top', backend=sys.argv[2])\n"
        "assert wide.render(np.zeros(1)).shape == (20, 700, 3)\n"
        "np.save(sys.argv[3], renderer.render(np.zeros(1)))\n"
    )
    scene, out = folder / "scene.xml", folder / "picture.npy"
    scene.write_text(SCENE)
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    command = [sys.executable, "-c", script, str(scene), backend, str(out)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode == 3:
        pytest.skip(f"this machine cannot create an OpenGL context by {backend}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return np.load(out)


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_opengl_and_ray_casting_draw_the_same(backend, renderer, tmp_path):
    picture, cast = opengl_picture(backend, tmp_path).astype(float), renderer.render(REST).astype(float)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    difference = np.abs(picture - cast)
    # They differ at edges, in the softness of shadows and in the haze, and nowhere else.
    assert difference.mean() < 2.5
    assert (difference.max(-1) > 40).mean() < 0.01
    assert np.abs(picture - cast[:, ::-1]).mean() > 10.0  # a mirror image would be seen


def test_ray_casting_gives_a_picture(renderer):
    picture = renderer.render(REST)
    assert renderer.backend == "raycast"
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert picture.std() > 20
    assert np.array_equal(picture, renderer.render(REST))
    assert not np.shares_memory(picture, renderer.render(REST))


@pytest.mark.parametrize(("geom", "channel"), [("box", 0), ("ball", 1), ("capsule", 2)])
def test_objects_stand_where_the_camera_sees_them(geom, channel, model, renderer):
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    colour = renderer.render(REST)[pixel_of(model, data.geom(geom).xpos)].astype(int)
    others = np.delete(colour, channel)
    assert colour[channel] > 1.5 * others.max()


def test_joints_and_mocap_bodies_move(model, renderer):
    before = renderer.render(REST)
    moved = renderer.render(np.array([0.25]))
    row, column = pixel_of(model, np.array([0.25, 0.1, 0.3]))
    assert moved[row, column, 1] > 1.5 * moved[row, column, [0, 2]].max()
    elsewhere = renderer.render(REST, np.array([[0.3, -0.5, 0.15]]), np.array([[1.0, 0.0, 0.0, 0.0]]))
    row, column = pixel_of(model, np.array([0.3, -0.5, 0.15]))
    assert not np.array_equal(elsewhere[row, column], before[row, column])
    assert np.array_equal(renderer.render(REST), before)


def test_translucent_geoms_let_the_background_through(model):
    def centre(alpha: float) -> np.ndarray:
        changed = copy.copy(model)
        changed.geom("mark").rgba = [0.0, 0.0, 1.0, alpha]
        changed.geom("mark").size = 0.1
        drawn = FrameRenderer(changed, WIDTH, HEIGHT, backend="raycast").render(REST)
        return drawn[pixel_of(model, np.array([0.0, -0.5, 0.15]))].astype(float)

    solid, glass, nothing = centre(1.0), centre(0.5), centre(0.0)
    assert solid[0] < glass[0] < nothing[0]  # more red, the less blue glass is before the grey floor


def test_shadows_fall_away_from_the_light(model, renderer):
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    away = np.array([-0.4, 0.3]) / 1.0  # the light's sideways motion per metre down
    ball = data.geom("ball").xpos
    spot = np.array([*(ball[:2] + ball[2] * away), 0.0])
    no_ball = {"geom_rgba": model.geom_rgba.copy()}
    no_ball["geom_rgba"][model.geom("ball").id, 3] = 0.0
    pixel = pixel_of(model, spot)
    lit, shaded = renderer.render(REST, model_fields=no_ball)[pixel], renderer.render(REST)[pixel]
    assert shaded.astype(float).mean() < 0.8 * lit.mean()


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("box", (0.2, 0.1, 0.05)),
        ("cylinder", (0.1, 0.2, 0)),
        ("capsule", (0.1, 0.2, 0)),
        ("ellipsoid", (0.1, 0.15, 0.2)),
    ],
)
def test_a_simulation_with_shapes_of_its_own(kind, size, model, renderer):
    compiled = SCENE.replace('type="sphere" size="0.12"', f'type="{kind}" size="{" ".join(map(str, size))}"')
    expected = FrameRenderer(mujoco.MjModel.from_xml_string(compiled), WIDTH, HEIGHT, backend="raycast").render(REST)
    plain = renderer.render(REST)
    fields = {"geom_type": model.geom_type.copy(), "geom_size": model.geom_size.copy()}
    ball = model.geom("ball").id
    fields["geom_type"][ball] = int(getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}"))
    fields["geom_size"][ball] = size
    assert np.array_equal(renderer.render(REST, model_fields=fields), expected)
    assert not np.array_equal(expected, plain)
    assert np.array_equal(renderer.render(REST), plain)  # fields not named are as compiled again


def test_the_callers_model_stays_as_it_is(model):
    before = copy.copy(model)
    FrameRenderer(model, 20, 20, backend="raycast").render(REST, model_fields={"geom_size": 2 * model.geom_size})
    for field in ("geom_group", "geom_size", "geom_rbound", "geom_rgba"):
        assert np.array_equal(getattr(model, field), getattr(before, field))
    assert model.vis.quality.shadowsize == before.vis.quality.shadowsize


def test_cameras(model):
    pictures = [
        FrameRenderer(model, 40, 30, camera, backend="raycast").render(REST) for camera in ("viewer", "top", 0, None)
    ]
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"camera": "side"}, "viewer, top"),
        ({"camera": 2}, "no camera 2"),
        ({"width": 0}, "positive width"),
        ({"backend": "vulkan"}, "egl, osmesa"),
    ],
)
def test_a_renderer_that_cannot_be_says_so_in_one_line(arguments, message, model):
    with pytest.raises(ModelError, match=message) as failure:
        FrameRenderer(model, **{"backend": "raycast", **arguments})
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qpos": np.zeros(2)}, r"'qpos' has shape \(1,\), got \(2,\)"),
        ({"qpos": np.array([np.nan])}, "'qpos' is not finite"),
        ({"qpos": REST, "mocap_pos": np.zeros(3)}, "mocap_pos"),
        ({"qpos": REST, "model_fields": {"geom_colour": np.zeros(3)}}, "geom_colour"),
        ({"qpos": REST, "model_fields": {"geom_size": np.zeros(3)}}, "geom_size"),
    ],
)
def test_a_wrong_state_says_so_in_one_line(arguments, message, renderer):
    with pytest.raises(ModelError, match=message) as failure:
        renderer.render(**arguments)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("asked", ["", "on", "egl", "osmesa", "glx"])
def test_a_backend_that_fails_is_passed_over_in_silence(asked, model, monkeypatch, capfd):
    def broken(*arguments: object) -> None:
        raise mujoco.FatalError("no driver")

    monkeypatch.setenv("MUJOCO_GL", asked)
    monkeypatch.setattr(opengl, "usable", lambda backend: True)
    monkeypatch.setattr(opengl, "OpenGLPainter", broken)
    renderer = FrameRenderer(model, 20, 20)
    assert renderer.backend == "raycast"
    assert renderer.render(REST).shape == (20, 20, 3)
    assert capfd.readouterr() == ("", "")


def test_the_order_of_the_backends(model, monkeypatch):
    tried = []
    monkeypatch.setattr(opengl, "usable", lambda backend: bool(tried.append(backend)))
    monkeypatch.setattr(sys, "platform", "linux")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(variable, raising=False)
    assert FrameRenderer(model, 20, 20).backend == "raycast"
    assert tried == ["egl", "osmesa"]
    for asked, expected in (("osmesa", ["osmesa"]), ("disable", []), ("EGL", ["egl"])):
        tried.clear()
        monkeypatch.setenv("MUJOCO_GL", asked)
        FrameRenderer(model, 20, 20)
        assert tried == expected
    tried.clear()
    FrameRenderer(model, 20, 20, backend="raycast")
    assert tried == []


def test_without_the_library_no_process_is_started(monkeypatch):
    monkeypatch.setattr(opengl, "_loads", lambda library: False)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **settings: pytest.fail("a process was started"))
    opengl.usable.cache_clear()
    assert not opengl.usable("egl")
    opengl.usable.cache_clear()


def test_a_plain_picture_shows_the_same_without_shadows(model):
    full = FrameRenderer(model, WIDTH, HEIGHT, backend="raycast").render(REST).astype(int)
    with plain_pictures():
        renderer = FrameRenderer(model, WIDTH, HEIGHT, backend="raycast")
    plain = renderer.render(REST).astype(int)  # plain because of when it was made, not of when it draws
    assert plain.shape == full.shape
    difference = np.abs(plain - full).max(-1)
    assert np.median(difference) <= 1 and (difference > 25).mean() < 0.15
    darker = (plain - full > 25).all(-1)
    assert darker.sum() > 600, "shadows are there in the full picture alone; 406 if the plain one has them too"
    assert (full - plain > 60).all(-1).mean() < 0.02, "nothing bright is missing; the floor's pattern is coarser"


def test_a_plain_picture_casts_few_rays(model, monkeypatch):
    def rays() -> int:
        counted = []
        cast = mujoco.mj_multiRay
        with monkeypatch.context() as patch:
            patch.setattr(mujoco, "mj_multiRay", lambda *given: (counted.append(given[-2]), cast(*given)))
            FrameRenderer(model, WIDTH, HEIGHT, "top", "raycast").render(REST)
        return sum(counted)

    full = rays()
    with plain_pictures():
        assert rays() < full / 2


@pytest.mark.parametrize("plain", [False, True])
def test_opengl_is_told_to_draw_plainly(plain, model, monkeypatch):
    told = []

    def painter(*given: object) -> None:
        told.append(given[4:])
        raise RuntimeError

    monkeypatch.setattr(opengl, "usable", lambda backend: True)
    monkeypatch.setattr(opengl, "OpenGLPainter", painter)
    with plain_pictures() if plain else contextlib.nullcontext():
        FrameRenderer(model, 20, 20, backend="egl")
    assert told == [(plain,)]


def test_closing_twice(model):
    renderer = FrameRenderer(model, 20, 20, backend="raycast")
    renderer.close()
    renderer.close()
