"""The Panda before a table, its hand moved by Cartesian commands; the base of the families that handle objects."""

from __future__ import annotations

import math
from typing import ClassVar

import mujoco
import torch
from torch import Tensor

from envs.core.environment import ASSETS
from envs.core.models import load_spec
from envs.core.tasks import Categories
from envs.families import shapes
from envs.families.family import MujocoFamily, Vector

# The hand points straight down, the grip point is at (0.5, 0, 0.18) m.
HOME = (0.0, 0.0861, 0.0, -2.3875, 0.0, 2.4735, math.pi / 4)
ARM = 7  # joints, which come first
# Softer than in panda.xml: the contact solver does not see the implicit part of the actuators' damping, and where that
# is large beside the inertia (5 ms x gain against 0.1 to 1.8 kg m^2) a gripped object creeps as the hand accelerates.
STIFFNESS = (2200.0, 2200.0, 2000.0, 2000.0, 450.0, 450.0, 450.0)  # N m / rad
VELOCITY_GAIN = (100.0, 100.0, 90.0, 90.0, 20.0, 20.0, 20.0)  # N m s / rad
GRAVITY = torch.tensor([0.0, 0.0, -9.81], dtype=torch.float64)  # m/s^2
DAMPING = 1e-3  # lambda^2 of the damped least squares
ORIENTATION_GAIN = 0.5
SLACK = 0.04  # m that the commanded point may run ahead of the grip point


def scene(gripper: bool, kinds: tuple[str, ...]) -> mujoco.MjSpec:
    """The arm, the table, and an object that may take any of the shapes; a gripper with fingers, or a closed hand."""
    spec = load_spec(ASSETS / "table.xml")
    spec.delete(spec.body("payload"))
    if gripper:
        for index in range(1, 5):
            spec.delete(spec.geom(f"closed_finger{index}"))
        spec.attach(load_spec(ASSETS / "gripper.xml"), frame=spec.body("hand").add_frame(), prefix="gripper/")
    for actuator, stiffness, gain in zip(spec.actuators, STIFFNESS, VELOCITY_GAIN, strict=False):
        actuator.gainprm[0], actuator.biasprm[1], actuator.biasprm[2] = stiffness, -stiffness, -gain
    shapes.add_meshes(spec, kinds)
    spec.option.gravity = (0.0, 0.0, 0.0)  # see ArmEnvironment
    return spec


class ArmEnvironment(MujocoFamily):
    """An arm that moves its hand in straight steps, and one object whose shape, extents, mass and friction vary.

    The task distribution must have `object_shape` (a category), `object_size` (3 half extents in m, see
    `envs.families.shapes`), `object_mass` (kg) and `friction` (sliding).

    The arm and the fingers carry their own weight (gravcomp), so gravity pulls only the object. A force on it gives the
    same motion at less cost.
    """

    home_angles: ClassVar[tuple[float, ...]] = HOME  # rad, around which an episode starts
    workspace: ClassVar[tuple[Vector, Vector]]  # m, lowest and highest point that the grip point may be commanded to

    def bind(self) -> None:
        model, simulator = self.model, self.simulator
        self.home = torch.tensor(self.home_angles, dtype=torch.float64)
        self.low, self.high = (torch.from_numpy(bound[:ARM].copy()) for bound in model.jnt_range.T)
        self.bounds = tuple(torch.tensor(corner).double() for corner in self.workspace)
        self.grip, self.grip_quat, self.grip_velocity = (
            self.sensor(name) for name in ("grip_position", "grip_orientation", "grip_velocity")
        )
        joint = model.joint("object")
        start, first = int(joint.qposadr[0]), int(joint.dofadr[0])
        self.object_position, self.object_quat = self.qpos[:, start : start + 3], self.qpos[:, start + 3 : start + 7]
        self.object_velocity = self.qvel[:, first : first + 6]
        self.object_start = start
        self.axes, self.anchors = (simulator.field(name)[:, :ARM] for name in ("xaxis", "xanchor"))
        self.object = model.body("object").id
        self.force = torch.zeros(self.num_simulations, model.nbody, 6, dtype=torch.float64)
        self.target = torch.zeros(self.num_simulations, 3, dtype=torch.float64)

    def apply_tasks(self) -> None:
        self.simulator.set_model_fields(self.object_fields())
        self.force[:, self.object, :3] = self.assigned["object_mass"].double() * GRAVITY

    def kinds(self) -> list[str]:
        """The name of each simulation's shape."""
        category = self.distribution.parameters["object_shape"]
        assert isinstance(category, Categories)
        return [category.names[int(index)] for index in self.assigned["object_shape"][:, 0]]

    def object_fields(self) -> dict[str, Tensor]:
        """The model fields (N, ...) that make the object that of the task; sets `rest_height` (N,) in m."""
        kinds = self.kinds()
        extents = self.assigned["object_size"].double()
        mass = self.assigned["object_mass"][:, 0].double()
        moments, self.rest_height = torch.zeros_like(extents), torch.zeros_like(mass)
        for kind in set(kinds):
            chosen = torch.tensor([each == kind for each in kinds])
            moments[chosen] = shapes.inertia_per_mass(kind, extents[chosen])
            self.rest_height[chosen] = shapes.half_height(kind, extents[chosen])
        geom = self.model.geom("object").id
        fields = shapes.geom_fields(self.model, geom, kinds, extents)
        fields |= {name: self.repeated(name) for name in ("body_mass", "body_inertia", "geom_friction")}
        fields["body_mass"][:, self.object] = mass
        fields["body_inertia"][:, self.object] = mass[:, None] * moments
        fields["geom_friction"][:, geom, :1] = self.assigned["friction"].double()
        return fields

    def draw_pose(self, low: tuple[float, float], high: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """A position (N, 2) in m between two corners, and a yaw (N,) within 45 degrees in rad, both uniform."""
        corner, opposite = torch.tensor(low), torch.tensor(high)
        unit = self.uniform(self.num_simulations, 3)
        return corner + (opposite - corner) * unit[:, :2], torch.pi / 2 * (unit[:, 2] - 0.5)

    def start_state(self, position: Tensor, yaw: Tensor, arm_spread: float) -> dict[str, Tensor]:
        """State fields with the object resting at a position (N, 2) in m, turned by yaw (N,) in rad.

        The arm stands at home, give or take `arm_spread` (rad, standard deviation).
        """
        qpos = torch.from_numpy(self.model.qpos0.copy()).repeat(self.num_simulations, 1)
        qpos[:, :ARM] = self.home + arm_spread * self.noise(self.num_simulations, ARM).double()
        pose = qpos[:, self.object_start : self.object_start + 7]
        pose[:, :2], pose[:, 2] = position, self.rest_height
        pose[:, 3], pose[:, 4:6], pose[:, 6] = torch.cos(yaw / 2), 0.0, torch.sin(yaw / 2)
        ctrl = torch.zeros(self.num_simulations, self.model.nu, dtype=torch.float64)
        ctrl[:, :ARM] = qpos[:, :ARM]
        return {"qpos": qpos, "ctrl": ctrl, "xfrc_applied": self.force}

    def on_reset(self, mask: Tensor) -> None:
        self.target[mask] = self.grip[mask]

    def jacobian(self) -> Tensor:
        """(N, 6, 7): velocity (m/s) of the grip point and turning velocity (rad/s) of the hand, per joint velocity.

        It comes from the hinges as the engine has them: of the same instant as the grip point, and at no cost.
        """
        lever = self.grip[:, None] - self.anchors
        return torch.cat([torch.linalg.cross(self.axes, lever), self.axes], -1).mT

    def move(self, step: Tensor) -> None:
        """Command the arm: move the target point by step (N, 3) in m, inside `bounds`, the hand still pointing down.

        One step of damped least squares (Buss 2004, eq. 11) from the present joint angles.
        """
        target = torch.clamp(self.target + step, self.grip - SLACK, self.grip + SLACK)
        self.target = torch.clamp(target, *self.bounds)
        # The hand is as it should be when its quaternion is (0, 1, 0, 0): the difference is a small rotation vector.
        w, x, y, z = self.grip_quat.unbind(-1)
        turn = 2 * ORIENTATION_GAIN * torch.sign(x)[:, None] * torch.stack([w, z, -y], -1)
        twist = torch.cat([self.target - self.grip, turn], -1)
        jacobian = self.jacobian()
        normal = jacobian @ jacobian.mT + DAMPING * torch.eye(6, dtype=torch.float64)
        change = jacobian.mT @ torch.cholesky_solve(twist[..., None], torch.linalg.cholesky(normal))
        self.ctrl[:, :ARM] = torch.clamp(self.qpos[:, :ARM] + change[..., 0], self.low, self.high)
