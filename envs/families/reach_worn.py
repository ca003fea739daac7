"""Reach with worn drives: the goal is in sight, but what the joints make of a command is hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.core.tasks import Categories, Range
from envs.families.reach import Reach

JOINTS = 7
GOAL_LOW, GOAL_HIGH = (0.40, -0.25, 0.25), (0.60, 0.25, 0.55)  # m
LATENCY = 2  # control steps until a command arrives


def each(value: float) -> tuple[float, ...]:
    """The same value for every joint."""
    return (value,) * JOINTS


def every_second(first: int, chosen: float, other: float) -> tuple[float, ...]:
    """One value for every second joint, from the first-th on (0 or 1), and another for those between."""
    return tuple(chosen if index % 2 == first else other for index in range(JOINTS))


class ReachWorn(Reach):
    """The arm of `Reach` with drives that are weak, that drift, or that are stuck, reaches goals it sees; horizon 25.

    Observation (D = 13, with `goal_visible` 34; float32):

    | index | meaning                                                | unit | source                         |
    |-------|--------------------------------------------------------|------|--------------------------------|
    | 0-6   | joint positions                                        | rad  | qpos                           |
    | 7-9   | grip point, world frame                                | m    | sensor grip_position, 5 ms old |
    | 10-12 | goal, drawn anew in every episode                      | m    | generator                      |
    | 13-33 | only with `goal_visible` (an oracle): for every joint  | 1    | task                           |
    |       | its gain; then its bias; then whether it is stuck      |      |                                |

    Everybody sees the goal; here `goal_visible` shows the hidden numbers. Joint velocities and targets are left out: a
    target that moves without a command tells the drift in one instant.

    Action (A = 7): change of the joint targets, which comes two control steps (0.1 s) late, as over a slow field bus.
    A joint's target moves by gain * (action + bias) * 0.1 rad per control step, that of a stuck joint by nothing.
    Without the delay a stiff reaction to the present error would do, whatever the drives are like.

    Reward terms and success are those of `Reach`. Feedback (`sparse`): 1 where the grip point is within 5 cm of the
    goal, which the robot sees anyhow.

    Task parameters (hidden):

    | name          | meaning                                   | unit   | train and test       | ood            |
    |---------------|-------------------------------------------|--------|----------------------|----------------|
    | `drive_gain`  | share of a command that happens, by joint | 1      | 0.4 to 1             | 0.25 to 0.4    |
    | `drive_bias`  | what is added to a command, by joint      | action | -0.6 to 0.6          | 0.6 to 0.75,   |
    |               |                                           |        |                      | either way     |
    | `stuck_joint` | the joint that does not move              |        | none, joint3, joint5 | joints 1, 4, 6 |

    In ood every second joint's gain or bias leaves the range. Joint 2 is always needed, and joint 7 does not move the
    grip point.
    """

    name = "reach_worn"
    feedback = "sparse"
    horizon, observation_size, action_size, hidden_size = 25, 13, JOINTS, 3 * JOINTS
    parameters = {
        "drive_gain": Range(
            each(0.4),
            each(1.0),
            ood=[(every_second(first, 0.25, 0.4), every_second(first, 0.4, 1.0)) for first in (0, 1)],
            within=(0.0, 2.0),
        ),
        "drive_bias": Range(
            each(-0.6),
            each(0.6),
            ood=[
                (every_second(first, low, -0.6), every_second(first, high, 0.6))
                for first in (0, 1)
                for low, high in ((0.6, 0.75), (-0.75, -0.6))
            ],
            unit="action",
            within=(-1.0, 1.0),
        ),
        "stuck_joint": Categories(("none", "joint3", "joint5"), ood=("joint1", "joint4", "joint6")),
    }

    def bind(self) -> None:
        super().bind()
        self.marker = self.simulator.field("mocap_pos")  # the state says where the goal is, whoever set it
        # Not in `apply_tasks`: others may get a task while an episode runs here.
        self.goal = torch.zeros(self.num_simulations, 3)
        self.pending = torch.zeros(LATENCY, self.num_simulations, JOINTS)

    def apply_tasks(self) -> None:
        self.gain, self.bias = self.assigned["drive_gain"], self.assigned["drive_bias"]
        names = self.distribution.parameters["stuck_joint"]
        assert isinstance(names, Categories)
        flags = torch.tensor([[name == f"joint{index + 1}" for index in range(JOINTS)] for name in names.names])
        self.stuck = flags[self.assigned["stuck_joint"][:, 0].long()]

    def initial_state(self) -> dict[str, Tensor]:
        low, high = torch.tensor(GOAL_LOW), torch.tensor(GOAL_HIGH)
        goal = low + (high - low) * self.uniform(self.num_simulations, 3)
        return super().initial_state() | {"mocap_pos": goal[:, None].double()}

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self.goal[mask] = self.marker[mask, 0].float()
        self.pending[:, mask] = 0.0

    def control(self, action: Tensor) -> None:
        arrived = self.pending[0]
        self.pending = torch.cat([self.pending[1:], action[None]])
        super().control(torch.where(self.stuck, 0.0, self.gain * (arrived + self.bias)))

    def seen(self) -> list[Tensor]:
        return [self.qpos, self.grip, self.goal]

    def hidden(self) -> Tensor:
        """Gains, biases, and 1 for the joint that is stuck; (N, 21)."""
        return torch.cat([self.gain, self.bias, self.stuck.float()], -1)
