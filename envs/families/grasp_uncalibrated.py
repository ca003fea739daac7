"""Grasp a fragile object, firmly but not too firmly, where a camera shows it that is off by an unknown amount."""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from envs.core.tasks import Range, TaskDistribution
from envs.families.arm import ARM, GRAVITY
from envs.families.grasp import Grasp
from envs.families.shapes import KINDS

SHIFT, TURN = 0.05, 0.1  # m and rad, largest errors of the camera
CENTRE = (0.5, 0.0)  # m, about which the camera's view is turned
WEAKEST, STRONGEST = 0.8, 30.0  # N, with which a finger may close
DEPTH = 0.004  # m inside the pads, where the light barrier begins and ends
GRASPED = 1  # the geom group of the object, which is all that the light barrier sees
SOFT = 0.5  # N, up to which the scale of what the pads feel is about linear
REGULATION = 0.2  # of the way to the commanded force that the fingers' drives go in a control step


class GraspUncalibrated(Grasp):
    """Grasp with a camera that is off, and an object that breaks; 20 Hz, horizon 45 (2.25 s).

    Observation (D = 31, with `object_visible` 47; float32), the object's centre and orientation as the camera has them:
    it sees a position p at c + R(p - c) + s, with c = (0.5, 0) m the middle of the workspace, R the turn by
    `camera_turn` about the vertical and s the `camera_shift`; heights are right. A pad counts as touching above 0.25 N.
    The pads and the light barrier are ideal: they sense the object alone, and without noise.

    | index | meaning                                    | unit     |
    |-------|--------------------------------------------|----------|
    | 0-8   | as in `envs.families.grasp`                |          |
    | 9-11  | object's centre as the camera has it, with noise of 3 mm | m |
    | 12-14 | the same minus the grip point              | m        |
    | 15-18 | object's orientation as the camera has it, with noise of 0.01 | 1 |
    | 19-22 | as in `envs.families.grasp`                |          |
    | 23    | natural logarithm of the force with which each finger closes at most | ln N |
    | 24-26 | force of the left pad on the object along the world's x, y and z, 5 ms old, as arsinh(f / 0.5 N) | 1 |
    | 27-29 | the same of the right pad                  | 1        |
    | 30    | the object interrupts a light barrier from pad to pad through the grip point (0 or 1) | 1 |
    | 31-37 | shape, one-hot, only with `object_visible` (an oracle), like all that follows | 1 |
    | 38-42 | half extents (3), mass, friction           | m, kg, 1 |
    | 43-44 | where the camera sees the object, less where it is, along x and y | m |
    | 45    | `camera_turn`                              | rad      |
    | 46    | natural logarithm of the breaking force    | ln N     |

    Action (A = 5): as in grasp, and the force with which each finger closes at most: -1 is 0.8 N, 1 is 30 N, and the
    logarithm is linear between them. The drives go 0.2 of the way there in a control step, from 0.8 N at the start: a
    pressure that is regulated, which averages what shakes the command.

    The object breaks when both pads touch it and the fingers' drives press with more than its breaking force, which is
    `strength` times what just holds it at rest, mass * 9.81 / (2 friction) N; to lift it swiftly takes 2 to
    2.5 times that. An episode in which it broke cannot succeed.

    Reward terms: as in grasp, with three times the `success`; whoever cannot lift learns to lift first, and then to be
    gentle: of an object that is broken, `lifted` is as many times less as the force is more than what breaks it;
    `close` = 0.3 (1 - tanh(25 d)); `force` = 0.3 (1 - tanh e) with e how far the logarithm of the force lies below that
    of 0.7 times what breaks the object, or four times how far above: who does not know what it bears closes gently;
    `broken` = -1 in the step in which it breaks. Success: as in grasp, and unbroken. Feedback: 1 while it is held at
    the target height, -1 in the step in which it breaks.

    Task parameters (hidden): `camera_shift` (2, m), `camera_turn` (rad, counterclockwise as seen from above),
    `strength`, and `object_shape`, `object_size`, `object_mass`, `friction` as in grasp, the latter two over wider
    ranges: by the best single force a swift script lifts half of the objects; the others slip or break. ood:
    shapes and sizes as in grasp, heavier and more slippery objects. Where it lies is drawn in each episode.
    """

    name = "grasp_uncalibrated"
    edition = 3  # the camera, what breaks an object, the reward and the time were chosen with the first two at hand
    feedback = "sparse"
    success_criterion = (
        "object's centre 15 cm above the table, give or take 3 cm, gripped and never broken, over the last five control"
        " steps"
    )
    horizon, observation_size, action_size, hidden_size = 45, Grasp.observation_size + 8, 5, len(KINDS) + 9
    parameters = {
        "camera_shift": Range((-SHIFT, -SHIFT), (SHIFT, SHIFT), unit="m", within=(-0.2, 0.2), semantic=True),
        "camera_turn": Range(-TURN, TURN, unit="rad", within=(-3.2, 3.2), semantic=True),
        "strength": Range(3.0, 5.0, within=(1.0, 100.0)),
        "object_size": Grasp.parameters["object_size"],
        "object_mass": Range(0.1, 0.8, ood=[(0.8, 1.0)], unit="kg", within=(0.001, 20.0)),
        "friction": Range(0.3, 1.2, ood=[(0.25, 0.3)], within=(0.01, 5.0)),
        "object_shape": Grasp.parameters["object_shape"],
    }
    touch_force = 0.25

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = super().build_spec(distribution)
        spec.geom("object").group = GRASPED
        return spec

    def bind(self) -> None:
        super().bind()
        self.opening_axes = self.simulator.field("xaxis")[:, ARM : ARM + 2]
        self.drive = self.simulator.field("actuator_force")[:, ARM:]
        self.drive_limits = self.simulator.limits("actuator_forcerange")[:, ARM:]
        self.broken = torch.zeros(self.num_simulations, dtype=torch.bool)
        self.broken_before = self.broken.clone()
        self.level = torch.full((self.num_simulations,), -1.0, dtype=torch.float64)
        self._regulate()

    def apply_tasks(self) -> None:
        super().apply_tasks()
        holding = self.assigned["object_mass"] * -GRAVITY[2] / (2 * self.assigned["friction"])
        self.breaking_force = (self.assigned["strength"] * holding)[:, 0]
        half = 0.5 * self.assigned["camera_turn"][:, 0].double()
        self.half_turn = torch.stack([half.cos(), half.sin()], -1)
        self._limit()  # which the family's other model fields have set back

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self.broken[mask] = self.broken_before[mask] = False
        self.level[mask] = -1.0
        self._regulate()

    def control(self, action: Tensor) -> None:
        self.broken_before = self.broken.clone()
        self.level += REGULATION * (action[:, 4].double() - self.level)
        self._regulate()
        self._limit()
        super().control(action[:, :4])

    def _regulate(self) -> None:
        middle, span = (WEAKEST * STRONGEST) ** 0.5, (STRONGEST / WEAKEST) ** 0.5
        self.closing_force = middle * span**self.level

    def _limit(self) -> None:
        limit = self.closing_force[:, None].expand(-1, 2)
        self.drive_limits.copy_(torch.stack([-limit, limit], -1))

    def sense(self) -> None:
        super().sense()
        # From within one pad to within the other, so that what lies flush with the pads is met.
        ends = self.grip[:, None] + (self.fingers + DEPTH)[..., None] * self.opening_axes
        distance = self.simulator.rays(ends[:, :1], ends[:, 1:] - ends[:, :1], group=GRASPED)
        self.between = distance[:, 0] < 1.0

    def seen(self) -> list[Tensor]:
        # A robot knows its grip's pressure; else the memory would have to add up all that was commanded.
        pads = [torch.asinh(force / SOFT) for force in self.forces]
        return [*super().seen(), self.closing_force.log()[:, None], *pads, self.between[:, None]]

    def camera(self) -> tuple[Tensor, Tensor]:
        cosine, sine = self.half_turn.unbind(-1)
        centre = torch.tensor(CENTRE, dtype=torch.float64)
        x, y = (self.object_position[:, :2] - centre).unbind(-1)
        # Of the whole turn, from half of it.
        along, across = cosine**2 - sine**2, 2 * cosine * sine
        turned = torch.stack([along * x - across * y, across * x + along * y], -1)
        seen = centre + turned + self.assigned["camera_shift"]
        w, i, j, k = self.object_quat.unbind(-1)
        quat = [cosine * w - sine * k, cosine * i - sine * j, cosine * j + sine * i, cosine * k + sine * w]
        return torch.cat([seen, self.object_position[:, 2:]], -1), torch.stack(quat, -1)

    def feel(self) -> None:
        super().feel()
        pressed = -self.drive.mean(-1)
        self.broken = self.broken | (self.grasped & (pressed > self.breaking_force))

    def safe(self) -> Tensor:
        return self.grasped & ~self.broken

    def hidden(self) -> Tensor:
        # Shift and turn alone would leave it to the policy, and to what estimates the task, to turn them into this.
        off = (self.camera()[0] - self.object_position)[:, :2].float()
        return torch.cat([super().hidden(), off, self.assigned["camera_turn"], self.breaking_force.log()[:, None]], -1)

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        distance = torch.linalg.vector_norm(self.object_position - self.grip, dim=-1).float()
        error = (self.closing_force / (0.7 * self.breaking_force)).log().float()
        error = torch.where(error > 0.0, 4.0 * error, -error)
        gentle = (self.breaking_force / self.closing_force).clamp(max=1.0).float()
        terms = super().reward_terms(action)
        return {
            **terms,
            "lifted": torch.where(self.broken, gentle * terms["lifted"], terms["lifted"]),
            "success": 3.0 * terms["success"],
            "close": 0.3 * (1.0 - torch.tanh(25.0 * distance)),
            "force": 0.3 * (1.0 - torch.tanh(error)),
            "broken": -1.0 * self.breaks(),
        }

    def breaks(self) -> Tensor:
        """(N,) float32: 1 in the step in which the object breaks."""
        return (self.broken & ~self.broken_before).float()

    def signal(self) -> Tensor:
        return self.held.float() - self.breaks()
