"""Push: slide an object of unknown shape, mass and friction over a table to a goal that is felt through the reward."""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from envs.core.tasks import Categories, Range, TaskDistribution
from envs.families.arm import ArmEnvironment, scene

DELTA = 0.03  # m per control step at action 1
OBJECT_LOW, OBJECT_HIGH = (0.45, -0.08), (0.51, 0.08)  # m, where the object starts
SUCCESS_DISTANCE = 0.05  # m
SUCCESS_STEPS = 5


class Push(ArmEnvironment):
    """A Panda with a closed hand, held at one height, pushes an object on a table at 20 Hz; horizon 60 (3 s).

    Observation (D = 23, with `goal_visible` 25; float32):

    | index | meaning                                           | unit  | source                          |
    |-------|---------------------------------------------------|-------|---------------------------------|
    | 0-2   | grip point                                        | m     | sensor grip_position, 5 ms old  |
    | 3-4   | its velocity along x and y                        | m/s   | sensor grip_velocity, 5 ms old  |
    | 5-6   | commanded point minus grip point, x and y         | m     | controller                      |
    | 7-9   | object's centre                                   | m     | qpos                            |
    | 10-11 | the same minus the grip point, x and y            | m     | qpos, sensor                    |
    | 12-14 | object's velocity                                 | m/s   | qvel                            |
    | 15-18 | object's orientation                              | 1     | qpos, quaternion w x y z        |
    | 19-20 | object's turning velocity about x and z           | rad/s | qvel                            |
    | 21    | distance from the object's centre to the goal     | m     | qpos, task: a range beacon      |
    | 22    | distance from the grip point to the goal          | m     | sensor, task: a range beacon    |
    | 23-24 | goal, x and y, only with `goal_visible` (an oracle) | m   | task                            |

    The goal is a range beacon: one distance over the table does not tell where it is, several from different places do.

    Action (A = 2): change of the commanded grip point along x and y, 1 is 3 cm per control step.

    Reward terms, with d from the object's centre to the goal over the table in m: `distance` = -2 d, `closing` =
    -4 dd/dt in m/s (summed over an episode, 80 times the way gained), `precision` = 1 - tanh(10 d), `approach` =
    0.2 (1 - tanh(5 h)) (h: grip point to object, m), `effort` = -0.005 |action|^2.

    Success: d < 5 cm over the last five control steps.

    Task parameters (hidden): `goal` (2, m; held out in blocks of 2.8 x 8 cm), `object_shape`, `object_size` (3 half
    extents, m, see `envs.families.shapes`), `object_mass` (kg), `friction` (sliding; of the object, whatever it
    touches). ood: a hexagonal prism and a wedge; heavier and more slippery objects. Where the object starts is drawn in
    each episode.
    """

    name = "push"
    success_criterion = "object's centre within 5 cm of the goal over the last five control steps of the episode"
    horizon, observation_size, action_size, hidden_size = 60, 23, 2, 2
    parameters = {
        "goal": Range((0.52, -0.20), (0.66, 0.20), unit="m", within=((0.3, -0.4), (0.8, 0.4)), semantic=True),
        "object_size": Range((0.025, 0.025, 0.025), (0.04, 0.04, 0.04), unit="m", within=(0.005, 0.1)),
        "object_mass": Range(0.1, 0.6, ood=[(0.6, 1.2)], unit="kg", within=(0.001, 20.0)),
        "friction": Range(0.3, 0.8, ood=[(0.15, 0.3)], within=(0.0, 5.0)),
        "object_shape": Categories(("box", "cylinder"), ood=("hexagonal_prism", "wedge")),
    }
    home_angles = (0.0, 0.2805, 0.0, -2.8014, 0.0, 3.0820, 0.785398)  # the grip point at (0.36, 0, 0.025) m
    workspace = (0.32, -0.32, 0.025), (0.75, 0.32, 0.025)  # at one height
    stick = 0.095  # m from the hand to where the stick begins to round off

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        shape = distribution.parameters["object_shape"]
        assert isinstance(shape, Categories)
        spec = scene(gripper=False, kinds=shape.names)
        # The closed fingers as one rounded stick, which is what touches.
        spec.body("hand").add_geom(
            name="stick",
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[0, 0, 0.05, 0, 0, self.stick],
            size=[0.014, 0, 0],
            contype=2,
            conaffinity=1,
            rgba=[0.17, 0.18, 0.20, 1],
        )
        return spec

    def bind(self) -> None:
        super().bind()
        self.last_outside = torch.zeros(self.num_simulations, dtype=torch.int64)

    def apply_tasks(self) -> None:
        super().apply_tasks()
        self.goal = self.assigned["goal"]

    def next_goal(self) -> Tensor:
        """The goal (N, 2) in m of the episode that begins."""
        return self.goal

    def initial_state(self) -> dict[str, Tensor]:
        state = self.start_state(*self.draw_pose(OBJECT_LOW, OBJECT_HIGH), arm_spread=0.01)
        goal = self.next_goal()
        state["mocap_pos"] = torch.cat([goal, torch.full_like(goal[:, :1], 0.001)], -1)[:, None].double()
        return state

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self.last_outside[mask] = 0

    def control(self, action: Tensor) -> None:
        self.distance_before = self.distance
        self.move(torch.cat([DELTA * action, torch.zeros_like(action[:, :1])], -1))

    def sense(self) -> None:
        self.distance = torch.linalg.vector_norm(self.object_position[:, :2].float() - self.goal, dim=-1)
        self.last_outside = torch.where(self.distance < SUCCESS_DISTANCE, self.last_outside, self.elapsed)

    def seen(self) -> list[Tensor]:
        position, velocity = self.object_position, self.object_velocity
        hand = [self.grip, self.grip_velocity[:, :2], (self.target - self.grip)[:, :2]]
        thing = [position, (position - self.grip)[:, :2], velocity[:, :3], self.object_quat, velocity[:, 3::2]]
        hand_distance = torch.linalg.vector_norm(self.grip[:, :2] - self.goal, dim=-1)
        return [*hand, *thing, torch.stack([self.distance, hand_distance.float()], -1)]

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        apart = torch.linalg.vector_norm((self.object_position.float() - self.grip)[:, :2], dim=-1).float()
        return {
            "distance": -2.0 * self.distance,
            "closing": 4.0 * (self.distance_before - self.distance) / self.control_period,
            "precision": 1.0 - torch.tanh(10.0 * self.distance),
            "approach": 0.2 * (1.0 - torch.tanh(5.0 * apart)),
            "effort": -0.005 * action.square().sum(-1),
        }

    def success(self) -> Tensor:
        return self.elapsed - self.last_outside >= SUCCESS_STEPS

    def signal(self) -> Tensor:
        return self.distance < SUCCESS_DISTANCE
