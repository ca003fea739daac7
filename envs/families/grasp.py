"""Grasp: pick up an object of unknown shape, mass and friction, and hold it in the air."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from envs.core.tasks import Categories, Range, TaskDistribution
from envs.families.arm import ARM, ArmEnvironment, scene
from envs.families.shapes import KINDS

DELTA = 0.03  # m per control step at action 1
OBJECT_LOW, OBJECT_HIGH = (0.42, -0.12), (0.58, 0.12)  # m, where the object starts
HEIGHT, TOLERANCE = 0.15, 0.03  # m, of the object's centre above the table
SUCCESS_STEPS = 5
OPEN = 0.04  # m, half the gripper's opening
FINGER_STEP = 0.01  # m per control step: 0.2 m/s, a hard blow would knock the object away
POSITION_NOISE, TURN_NOISE = 0.003, 0.01  # m and quaternion units, standard deviation


class Grasp(ArmEnvironment):
    """A Panda with a parallel gripper lifts an object at 20 Hz; horizon 60 (3 s).

    Observation (D = 23, with `object_visible` 35; float32):

    | index | meaning                                             | unit | source                          |
    |-------|-----------------------------------------------------|------|---------------------------------|
    | 0-2   | grip point                                          | m    | sensor grip_position, 5 ms old  |
    | 3-5   | its velocity                                        | m/s  | sensor grip_velocity, 5 ms old  |
    | 6-8   | commanded point minus grip point                    | m    | controller                      |
    | 9-11  | object's centre, with noise of 3 mm                 | m    | qpos                            |
    | 12-14 | the same minus the grip point                       | m    | qpos, sensor                    |
    | 15-18 | object's orientation, with noise of 0.01            | 1    | qpos, quaternion w x y z        |
    | 19-20 | fingers' positions                                  | m    | qpos                            |
    | 21-22 | left and right pad touch the object (0 or 1)        | 1    | contact sensors, above 0.5 N    |
    | 23-29 | shape, one-hot, only with `object_visible` (an oracle) | 1 | task                           |
    | 30-34 | half extents (3), mass, friction, likewise          | m, kg, 1 | task                        |

    Action (A = 4): change of the commanded grip point along x, y and z, 1 is 3 cm per control step; fingers, -1 opens
    and 1 closes. The hand points down all the time.

    Reward terms: `approach` = 0.3 (1 - tanh(5 d)) (d: object to grip point, m), `grasped` = 0.3 if both pads touch it,
    `lifted` = 1.5 (1 - |height - z| / height), not below 0, while grasped and off the table, `success` = 0.5 at the
    target height.

    Success: the object's centre 15 cm above the table, give or take 3 cm, between both pads, over the last five
    control steps.

    Task parameters (hidden): `object_shape`, `object_size` (3 half extents, m, see `envs.families.shapes`),
    `object_mass` (kg), `friction` (sliding; of the object, whatever it touches). ood: a capsule, an ellipsoid, a
    hexagonal prism and a wedge; taller and thinner, heavier and more slippery objects. Where it lies is drawn in each
    episode.
    """

    name = "grasp"
    success_criterion = (
        "object's centre 15 cm above the table, give or take 3 cm, gripped, over the last five control steps"
    )
    horizon, observation_size, action_size, hidden_size = 60, 23, 4, len(KINDS) + 5
    parameters = {
        "object_size": Range(
            (0.016, 0.016, 0.018),
            (0.025, 0.025, 0.030),
            ood=[((0.016, 0.016, 0.030), (0.025, 0.025, 0.040)), ((0.012, 0.012, 0.018), (0.016, 0.016, 0.030))],
            unit="m",
            within=(0.005, 0.1),
        ),
        "object_mass": Range(0.05, 0.4, ood=[(0.4, 0.8)], unit="kg", within=(0.001, 20.0)),
        "friction": Range(0.6, 1.2, ood=[(0.4, 0.6)], within=(0.0, 5.0)),
        "object_shape": Categories(
            ("box", "cylinder", "sphere"), ood=("capsule", "ellipsoid", "hexagonal_prism", "wedge")
        ),
    }
    workspace = (0.35, -0.25, 0.012), (0.65, 0.25, 0.35)
    touch_force = 0.5  # N on a pad that counts as contact

    def __init__(
        self,
        num_simulations: int,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        object_visible: bool = False,
        tasks_override: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(num_simulations, seed, threads, horizon, object_visible, tasks_override)

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = scene(gripper=True, kinds=KINDS)
        for side in ("left", "right"):
            _add_touch(spec, side)
        return spec

    def bind(self) -> None:
        super().bind()
        self.fingers = self.qpos[:, ARM : ARM + 2]
        self.forces = self.sensor("left_touch"), self.sensor("right_touch")
        self.last_loose = torch.zeros(self.num_simulations, dtype=torch.int64)

    def initial_state(self) -> dict[str, Tensor]:
        position, yaw = self.draw_pose(OBJECT_LOW, OBJECT_HIGH)
        state = self.start_state(position, yaw, arm_spread=0.02)
        state["qpos"][:, ARM : ARM + 2] = state["ctrl"][:, ARM:] = OPEN
        # The goal is a disc above the object, drawn for people.
        state["mocap_pos"] = torch.cat([position, torch.full_like(position[:, :1], HEIGHT)], -1)[:, None].double()
        return state

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self.last_loose[mask] = 0

    def control(self, action: Tensor) -> None:
        self.move(DELTA * action[:, :3])
        fingers, wanted = self.ctrl[:, ARM:], 0.5 * OPEN * (1 - action[:, 3:].double())
        fingers += torch.clamp(wanted - fingers, -FINGER_STEP, FINGER_STEP)

    def camera(self) -> tuple[Tensor, Tensor]:
        """The object's position (N, 3) in m and orientation (N, 4) as the camera has them, before its noise."""
        return self.object_position, self.object_quat

    def feel(self) -> None:
        """Set which pads press on the object, `touching` (N, 2) bool, left and right; and whether it is `grasped`."""
        self.touching = torch.stack([force.square().sum(-1) > self.touch_force**2 for force in self.forces], -1)
        self.grasped = self.touching.all(-1)

    def safe(self) -> Tensor:
        """(N,) bool: whether the object is in the gripper as it should be."""
        return self.grasped

    def sense(self) -> None:
        noise = self.noise(self.num_simulations, 7).double()
        position, quat = self.camera()
        self.noisy_position = position + POSITION_NOISE * noise[:, :3]
        self.noisy_quat = quat + TURN_NOISE * noise[:, 3:]
        self.feel()
        self.error = (self.object_position[:, 2] - HEIGHT).abs()
        self.held = self.safe() & (self.error < TOLERANCE)
        self.last_loose = torch.where(self.held, self.last_loose, self.elapsed)

    def seen(self) -> list[Tensor]:
        hand = [self.grip, self.grip_velocity, self.target - self.grip]
        thing = [self.noisy_position, self.noisy_position - self.grip, self.noisy_quat]
        return [*hand, *thing, self.fingers, self.touching]

    def hidden(self) -> Tensor:
        shape = one_hot(torch.tensor([KINDS.index(kind) for kind in self.kinds()]), len(KINDS))
        return torch.cat([shape, *(self.assigned[name] for name in ("object_size", "object_mass", "friction"))], -1)

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        distance = torch.linalg.vector_norm(self.object_position - self.grip, dim=-1).float()
        lifted = self.grasped & (self.object_position[:, 2] > self.rest_height + 0.005)
        return {
            "approach": 0.3 * (1.0 - torch.tanh(5.0 * distance)),
            "grasped": 0.3 * self.grasped.float(),
            "lifted": 1.5 * lifted * (1.0 - self.error / HEIGHT).clamp(min=0.0).float(),
            "success": 0.5 * self.held.float(),
        }

    def success(self) -> Tensor:
        return self.elapsed - self.last_loose >= SUCCESS_STEPS

    def signal(self) -> Tensor:
        return self.held


def _add_touch(spec: mujoco.MjSpec, side: str) -> None:
    """A sensor of the net contact force (N) between one pad and the object; a touch sensor would feel the table too."""
    geom = mujoco.mjtObj.mjOBJ_GEOM
    spec.add_sensor(
        name=f"{side}_touch",
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=geom,
        objname=f"gripper/{side}_pad",
        reftype=geom,
        refname="object",
        intprm=[2, 3, 1],  # data "force", reduced to the net force, one slot
    )
