"""Reach with Cartesian commands: the hand moves in straight steps, and only the reward tells it where to."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.core.tasks import Range
from envs.families.arm import ARM, damped_least_squares
from envs.families.reach import Reach

DELTA = 0.04  # m per control step at action 1: 0.8 m/s at 20 Hz
SLACK = 0.05  # m that the commanded point may run ahead of the grip point


class ReachCartesian(Reach):
    """The arm of `Reach` with its hand commanded along x, y and z, at 20 Hz; horizon 50 (2.5 s).

    Observation, success and task parameters are those of `Reach`: D = 24, with `goal_visible` 27. Goals are held out in
    blocks of 6 x 14 x 9 cm.

    Action (A = 3): change of the commanded grip point along x, y and z, 1 is 4 cm per control step. The joints follow
    by one step of damped least squares from where they are; how the hand is turned is left to them.

    Reward terms: `distance` = -10 d^2 (d: grip to goal, m), `effort` = -0.005 |action|^2. The square is that of the
    navigation in the MAML paper: its slope is the longer the further the goal is, so that the length of a gradient step
    can be right as well. The slope of -d is the same everywhere.
    """

    name = "reach_cartesian"
    action_size = 3
    parameters = {
        **Reach.parameters,
        "goal": Range(
            (0.35, -0.35, 0.15),
            (0.65, 0.35, 0.60),
            ood=Reach.parameters["goal"].ood,
            unit="m",
            within=((-0.9, -0.9, 0.0), (0.9, 0.9, 1.2)),
            semantic=True,
        ),
    }

    def bind(self) -> None:
        super().bind()
        self.axes, self.anchors = (self.simulator.field(name)[:, :ARM] for name in ("xaxis", "xanchor"))
        self.target = torch.zeros(self.num_simulations, 3, dtype=torch.float64)

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {"distance": -10.0 * self.distance.square(), "effort": -0.005 * action.square().sum(-1)}

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self.target[mask] = self.grip[mask]

    def control(self, action: Tensor) -> None:
        step = DELTA * action.double()
        self.target = torch.clamp(self.target + step, self.grip - SLACK, self.grip + SLACK)
        jacobian = torch.linalg.cross(self.axes, self.grip[:, None] - self.anchors).mT
        change = damped_least_squares(jacobian, self.target - self.grip)
        torch.clamp(self.qpos + change, self.low, self.high, out=self.ctrl)
