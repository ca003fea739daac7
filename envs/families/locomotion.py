"""What the running robots share: Gymnasium's models, where they start, heavier and lighter bodies, a marker."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import gymnasium
import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.core.models import load_spec
from envs.core.tasks import Range
from envs.families.family import MujocoFamily, Vector

GYMNASIUM_ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
TILES = (1.5, 1.5)  # of a floor without end: the squares are as large as Gymnasium's
EXTENT = 8.0  # m, as with the floor of 80 m: what the distances of views and shadows are measured in
HAZE = (0.50, 0.51, 0.52, 1.0)  # at the horizon, as the sky there; MuJoCo's own is white
MARKER_COLOUR = (0.15, 0.80, 0.30, 0.6)
# Directions alone cannot be held out; bodies that differ a little can.
MASS_SCALE = Range(0.9, 1.1, ood=[(0.7, 0.9), (1.1, 1.3)], within=(0.1, 10.0))


def gymnasium_spec(file: str) -> mujoco.MjSpec:
    """One of Gymnasium's models for editing, its contact and solver settings as they are.

    Its floor of 80 m is drawn without end, its light follows the robot: a good runner leaves both behind.
    """
    spec = load_spec(GYMNASIUM_ASSETS / file)
    floor, light = spec.geom("floor"), spec.lights[0]
    floor.size[:2] = 0.0
    spec.stat.extent, spec.stat.center = EXTENT, (0.0, 0.0, 0.0)
    spec.visual.rgba.haze = HAZE
    kept = ("type", "pos", "dir", "diffuse", "specular", "cutoff", "exponent")
    mode = mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
    spec.body("torso").add_light(mode=mode, **{name: getattr(light, name) for name in kept})
    spec.delete(light)
    for material in spec.materials:
        if material.name == "MatPlane":
            material.reflectance = 0.0  # each reflection draws the whole scene once more
            material.texrepeat = TILES
    for texture in spec.textures:
        if texture.name == "texplane":  # black and near white: they outshine the robot
            texture.rgb1, texture.rgb2 = (0.30, 0.33, 0.36), (0.38, 0.41, 0.44)
    return spec


def add_camera(spec: mujoco.MjSpec, body: str, pos: Vector, forward: Vector, tracks: bool = True) -> None:
    """The camera "viewer", looking along `forward`, z up; one that tracks moves with the body's centre of mass."""
    look = np.asarray(forward) / np.linalg.norm(forward)
    right = np.cross(look, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(right, look), -look], 1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    mode = mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM if tracks else mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    spec.body(body).add_camera(name="viewer", mode=mode, pos=pos, quat=quat, fovy=45)


def add_marker(spec: mujoco.MjSpec, parts: list[dict[str, object]]) -> None:
    """A mocap body "marker" of weightless geoms that touch nothing; only pictures have them."""
    marker = spec.worldbody.add_body(name="marker", mocap=True)
    for index, part in enumerate(parts):
        marker.add_geom(
            name=f"marker_{index}", contype=0, conaffinity=0, mass=0.0, rgba=MARKER_COLOUR, material="", **part
        )


def arrow() -> list[dict[str, object]]:
    """An arrow of 80 cm along x, its middle at the origin: a shaft and two barbs."""
    capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
    ends = [(-0.4, 0.0, 0.0), (0.15, 0.16, 0.0), (0.15, -0.16, 0.0), (0.15, 0.0, 0.16), (0.15, 0.0, -0.16)]
    return [{"type": capsule, "size": (0.025, 0.0, 0.0), "fromto": (*end, 0.4, 0.0, 0.0)} for end in ends]


class LocomotionEnvironment(MujocoFamily):
    """A robot with torques for actions: 5 physics steps of 10 ms per control step (20 Hz), horizon 200 (10 s).

    Episodes begin as Gymnasium's do: every coordinate of `qpos` is off its rest by a uniform number in [-0.1, 0.1],
    every coordinate of `qvel` is a normal number of deviation 0.1. They end at the horizon, and never before.

    A subclass sets `self.goal` in `apply_goal`.
    """

    substeps = 5
    horizon = 200
    root: ClassVar[int]  # the first numbers of qpos that say where the robot is on the floor

    def bind(self) -> None:
        self.rest = torch.from_numpy(self.model.qpos0.copy())
        self.position = self.qpos[:, : self.root]
        self.position_before = torch.zeros_like(self.position)

    @abstractmethod
    def apply_goal(self) -> None:
        """Set `self.goal` (N, G) from `self.assigned`."""

    @abstractmethod
    def marker(self, simulation: int) -> tuple[np.ndarray, float]:
        """Where the marker is drawn (3,), and its heading (rad)."""

    def apply_tasks(self) -> None:
        scale = self.assigned["mass_scale"].double()
        mass, inertia = self.repeated("body_mass"), self.repeated("body_inertia")
        self.simulator.set_model_fields({"body_mass": mass * scale, "body_inertia": inertia * scale[:, None]})
        self.apply_goal()

    def initial_state(self) -> dict[str, Tensor]:
        count = self.num_simulations
        # The error function turns normal numbers into uniform ones.
        uniform = torch.erf(self.noise(count, self.model.nq).double() / math.sqrt(2.0))
        return {"qpos": self.rest + 0.1 * uniform, "qvel": 0.1 * self.noise(count, self.model.nv).double()}

    def control(self, action: Tensor) -> None:
        self.position_before.copy_(self.position)
        self.ctrl.copy_(action)

    def velocity(self) -> Tensor:
        """Mean velocity on the floor over the last control step, (N, root) m/s."""
        return ((self.position - self.position_before) / self.control_period).float()

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        # The physics does not know where the marker is: only pictures need it.
        position, heading = self.marker(simulation)
        quat = np.array([math.cos(heading / 2), 0.0, 0.0, math.sin(heading / 2)])
        return {"qpos": self.qpos[simulation].numpy().copy(), "mocap_pos": position[None], "mocap_quat": quat[None]}
