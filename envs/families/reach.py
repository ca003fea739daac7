"""Reach: bring the hand of a 7-joint arm to a goal that is felt only through the reward."""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from envs.core.environment import ASSETS
from envs.core.models import load_spec
from envs.core.tasks import Range, TaskDistribution
from envs.families.arm import GRAVITY
from envs.families.family import MujocoFamily

PAYLOAD_RADIUS = 0.03  # m, a solid sphere at the grip point
SUCCESS_DISTANCE = 0.05  # m
SUCCESS_STEPS = 5
DELTA = 0.1  # rad per control step at action 1: 2.0 rad/s at 20 Hz, under every joint's velocity limit
WINDUP = 0.2  # rad that a joint target may run ahead of its joint


class Reach(MujocoFamily):
    """A Panda-like arm under joint-position control at 20 Hz reaches a hidden goal; horizon 50 (2.5 s).

    Observation (D = 24, with `goal_visible` 27; float32):

    | index | meaning                                   | unit  | source                         |
    |-------|-------------------------------------------|-------|--------------------------------|
    | 0-6   | joint positions                           | rad   | qpos                           |
    | 7-13  | joint velocities                          | rad/s | qvel                           |
    | 14-20 | joint targets minus joint positions       | rad   | ctrl, qpos                     |
    | 21-23 | grip point, world frame                   | m     | sensor grip_position, 5 ms old |
    | 24-26 | goal, only with `goal_visible` (an oracle)| m     | task                           |

    Action (A = 7): change of the joint targets, 1 is 0.1 rad per control step. Targets stay inside the joint ranges.

    Reward terms: `distance` = -d (d: grip to goal, m), `precision` = 1 - tanh(10 d), `effort` = -0.005 |action|^2.

    Success: d < 5 cm over the last five control steps.

    Task parameters (hidden): `goal` (3, m; held out in blocks of 6 x 14 x 9 cm), `payload_mass` (kg, a sphere of 3 cm
    at the grip point), `damping_scale` (multiplies every joint's damping). ood: goals beyond the region at its sides
    and above it, heavier payloads, stronger damping.
    """

    name = "reach"
    success_criterion = "grip point within 5 cm of the goal over the last five control steps of the episode"
    horizon, observation_size, action_size, hidden_size = 50, 24, 7, 3
    parameters = {
        "goal": Range(
            (0.35, -0.35, 0.15),
            (0.65, 0.35, 0.60),
            ood=[
                ((0.35, 0.35, 0.15), (0.65, 0.45, 0.60)),
                ((0.35, -0.45, 0.15), (0.65, -0.35, 0.60)),
                ((0.35, -0.35, 0.60), (0.60, 0.35, 0.70)),
            ],
            unit="m",
            within=((-0.9, -0.9, 0.0), (0.9, 0.9, 1.2)),
            semantic=True,
        ),
        "payload_mass": Range(0.05, 1.5, ood=[(1.5, 3.0)], unit="kg", within=(0.0, 20.0)),
        "damping_scale": Range(0.5, 2.0, ood=[(2.0, 4.0)], within=(0.0, 100.0)),
    }

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = load_spec(ASSETS / "reach.xml")
        # The arm carries its own weight (gravcomp), so gravity pulls only the payload. A force on it gives the same
        # motion and saves a fifth of the step's cost.
        spec.option.gravity = (0.0, 0.0, 0.0)
        return spec

    def bind(self) -> None:
        self.home = torch.from_numpy(self.model.key("home").qpos.copy())
        self.low, self.high = (torch.from_numpy(bound.copy()) for bound in self.model.jnt_range.T)
        self.grip = self.sensor("grip_position")
        self.force = torch.zeros(self.num_simulations, self.model.nbody, 6, dtype=torch.float64)
        self.last_outside = torch.zeros(self.num_simulations, dtype=torch.int64)

    def apply_tasks(self) -> None:
        payload = self.model.body("payload").id
        mass = self.assigned["payload_mass"][:, 0].double()
        body_mass, body_inertia = self.repeated("body_mass"), self.repeated("body_inertia")
        body_mass[:, payload] = mass
        self.force[:, payload, :3] = mass[:, None] * GRAVITY
        body_inertia[:, payload] = (0.4 * PAYLOAD_RADIUS**2 * mass)[:, None]
        damping = self.repeated("dof_damping") * self.assigned["damping_scale"].double()
        self.simulator.set_model_fields({"body_mass": body_mass, "body_inertia": body_inertia, "dof_damping": damping})
        self.goal = self.assigned["goal"]

    def initial_state(self) -> dict[str, Tensor]:
        spread = 0.02 * self.noise(self.num_simulations, self.action_size).double()
        start = self.home + spread
        goal = self.goal[:, None].double()
        return {"qpos": start, "ctrl": start, "mocap_pos": goal, "xfrc_applied": self.force}

    def on_reset(self, mask: Tensor) -> None:
        self.last_outside[mask] = 0

    def control(self, action: Tensor) -> None:
        target = torch.add(self.ctrl, action, alpha=DELTA)
        target = torch.clamp(target, self.qpos - WINDUP, self.qpos + WINDUP)
        torch.clamp(target, self.low, self.high, out=self.ctrl)

    def sense(self) -> None:
        self.distance = torch.linalg.vector_norm(self.grip.float() - self.goal, dim=-1)
        self.inside = self.distance < SUCCESS_DISTANCE
        self.last_outside = torch.where(self.inside, self.last_outside, self.elapsed)

    def seen(self) -> list[Tensor]:
        return [self.qpos, self.qvel, self.ctrl - self.qpos, self.grip]

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {
            "distance": -self.distance,
            "precision": 1.0 - torch.tanh(10.0 * self.distance),
            "effort": -0.005 * action.square().sum(-1),
        }

    def success(self) -> Tensor:
        return self.elapsed - self.last_outside >= SUCCESS_STEPS

    def signal(self) -> Tensor:
        return self.inside
