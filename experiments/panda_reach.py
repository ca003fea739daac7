"""Reach with the real robot's MJCF: the Franka Panda with its gripper, meshes and all, from the package gym-hil.

    pip install --no-deps gym-hil
    python -m metarl.train env=experiments.panda_reach:PandaReach algo=in_context

gym-hil asks for an older MuJoCo and for gamepad drivers. Only its files are used here, so it is installed without its
dependencies, and never imported. This is an example of your own environment on a model that somebody else wrote: what
the model lacks for the task is added to its specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from envs.environment import MujocoEnvironment
from envs.errors import ModelError
from envs.models import load_spec
from envs.tasks import Range, TaskDistribution

INSTALL = "pip install --no-deps gym-hil"
JOINTS = 7
HOME = (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)  # rad: hand above the table, fingers down
STIFFNESS, DAMPING = (600.0,) * 4 + (250.0,) * 3, (50.0,) * 4 + (15.0,) * 3  # N m / rad, N m s / rad
DELTA = 0.1  # rad per control step at action 1
WINDUP = 0.2  # rad that a joint target may run ahead of its joint
SUCCESS_DISTANCE = 0.05  # m


def tasks() -> TaskDistribution:
    """The task parameters; see `PandaReach` for their meaning."""
    goal = Range((0.35, -0.3, 0.1), (0.65, 0.3, 0.5), ood=[((0.35, 0.3, 0.1), (0.65, 0.4, 0.5))], unit="m")
    return TaskDistribution({"goal": goal, "payload_mass": Range(0.0, 1.5, ood=[(1.5, 3.0)], unit="kg")})


class PandaReach(MujocoEnvironment):
    """The pinch point of a Panda with a Robotiq 2F-85 gripper goes to a hidden goal at 20 Hz; horizon 50 (2.5 s).

    Observation (D = 24): joint positions (0-6, rad), velocities (7-13, rad/s), targets minus positions (14-20, rad),
    pinch point (21-23, m). Action (A = 7): change of the joint targets, 1 is 0.1 rad; the gripper stays closed.

    Reward terms: `distance` = -d (d: pinch point to goal, m), `precision` = 1 - tanh(10 d). Success: d < 5 cm.

    Task parameters (hidden): `goal` (3, m), `payload_mass` (kg, a point at the pinch point, which the robot's own
    gravity compensation does not know).

    Raises:
        ModelError: with the command that installs the model, if it is absent.
    """

    name = "panda_reach"
    success_criterion = "pinch point within 5 cm of the goal at the end of the episode"
    substeps = 25

    def __init__(
        self,
        num_simulations: int,
        seed: int = 0,
        threads: int = 0,
        horizon: int = 50,
        tasks_override: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(robot(), num_simulations, tasks().override(tasks_override or {}), seed, threads)
        self.horizon, self.action_size, self.observation_size = horizon, JOINTS, 3 * JOINTS + 3
        self.home = torch.from_numpy(self.model.qpos0.copy())
        self.home[:JOINTS] = torch.tensor(HOME, dtype=torch.float64)
        self.low, self.high = (torch.from_numpy(bound.copy()) for bound in self.model.jnt_range[:JOINTS].T)
        self.angles, self.speeds = self.qpos[:, :JOINTS], self.qvel[:, :JOINTS]  # without the gripper's
        self.pinch = self.simulator.field("site_xpos")[:, self.model.site("pinch").id]

    def apply_tasks(self) -> None:
        payload, mass = self.model.body("payload").id, self.assigned["payload_mass"][:, 0].double()
        body_mass, inertia = self.repeated("body_mass"), self.repeated("body_inertia")
        body_mass[:, payload] += mass
        inertia[:, payload] += (0.4 * 0.03**2 * mass)[:, None]  # a solid sphere of 3 cm
        self.simulator.set_model_fields({"body_mass": body_mass, "body_inertia": inertia})
        self.goal = self.assigned["goal"]

    def initial_state(self) -> dict[str, Tensor]:
        start = self.home.repeat(self.num_simulations, 1)
        start[:, :JOINTS] += 0.02 * self.noise(self.num_simulations, JOINTS).double()
        ctrl = torch.zeros_like(self.ctrl)
        ctrl[:, :JOINTS] = start[:, :JOINTS]
        return {"qpos": start, "ctrl": ctrl, "mocap_pos": self.goal[:, None].double()}

    def control(self, action: Tensor) -> None:
        target = torch.add(self.ctrl[:, :JOINTS], action, alpha=DELTA)
        target = torch.clamp(target, self.angles - WINDUP, self.angles + WINDUP)
        self.ctrl[:, :JOINTS] = torch.clamp(target, self.low, self.high)

    def sense(self) -> None:
        self.distance = torch.linalg.vector_norm(self.pinch.float() - self.goal, dim=-1)

    def observe(self) -> Tensor:
        return torch.cat([self.angles, self.speeds, self.ctrl[:, :JOINTS] - self.angles, self.pinch], -1).float()

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {"distance": -self.distance, "precision": 1.0 - torch.tanh(10.0 * self.distance)}

    def success(self) -> Tensor:
        return self.distance < SUCCESS_DISTANCE


def model_file() -> Path:
    """The robot's MJCF in the installed package.

    Raises:
        ModelError: with the command that installs it, if it is absent.
    """
    package = find_spec("gym_hil")
    file = Path(package.origin).parent / "assets" / "panda.xml" if package and package.origin else None
    if file is None or not file.exists():
        found = f"{file} is missing" if file else "the package gym-hil is missing"
        raise ModelError(f"the Panda's model comes from gym-hil, and {found}: {INSTALL}")
    return file


def robot() -> mujoco.MjSpec:
    """The robot for this task: position servos and gravity compensation like the real one's, a payload, a visible goal.

    Raises:
        ModelError: as `model_file`.
    """
    spec = load_spec(model_file())
    spec.option.timestep = 0.002
    spec.visual.headlight.ambient = [0.5] * 3
    for number, (stiffness, damping) in enumerate(zip(STIFFNESS, DAMPING, strict=True), 1):
        servo, limit = spec.actuator(f"actuator{number}"), spec.actuator(f"actuator{number}").ctrlrange.copy()
        servo.set_to_position(kp=stiffness, kv=damping)
        servo.forcerange, servo.ctrlrange = limit, spec.joint(f"joint{number}").range
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0  # nothing is touched here, and contacts cost time
    pinch = spec.site("pinch")
    payload = pinch.parent.add_body(name="payload", pos=pinch.pos, mass=1e-3, inertia=[1e-6] * 3, explicitinertial=True)
    payload.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.01, 0, 0], mass=0, contype=0, conaffinity=0)
    goal = spec.worldbody.add_body(name="goal", mocap=True)
    goal.add_geom(
        type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.03, 0, 0], rgba=[0.2, 0.8, 0.3, 1], contype=0, conaffinity=0
    )
    spec.worldbody.add_camera(name="viewer", pos=[1.4, -1.1, 0.8], xyaxes=[0.62, 0.78, 0, -0.3, 0.24, 0.92])
    return spec
