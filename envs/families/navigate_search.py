"""Navigate_search: find a dock that is recognised only from near by, and next time drive straight there."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import torch
from torch import Tensor

from envs.core.tasks import TaskDistribution
from envs.families.navigate import GOALS, UPRIGHT, Navigate

RECOGNISED = 0.8  # m, and no obstacle in between


class NavigateSearch(Navigate):
    """Navigate, where nothing but a camera tells of the goal, a dock; horizon 70 (7 s).

    Nothing but what follows differs from `Navigate`: neither the arena, the robot and its actions, nor the other task
    parameters, the reward for training and the success. The horizon is enough to drive straight to any dock, or to
    search half of the region where docks stand.

    The camera looks all around, from the lidar's place. It recognises the dock's marker within 80 cm, unless an
    obstacle stands in between, and says where it is from the robot.

    Observation (D = 43, with `goal_visible` 45; float32):

    | index | meaning                                                               | unit  | source     |
    |-------|-----------------------------------------------------------------------|-------|------------|
    | 0-39  | as in `Navigate`                                                      |       |            |
    | 40-41 | the dock ahead of the robot and to its left; 0 while not recognised   | m     | qpos, task |
    | 42    | 1 while the dock is recognised, else 0                                | 1     | ray casting|
    | 43-44 | goal, only with `goal_visible` (an oracle)                            | m     | task       |

    Feedback (sparse, unless set otherwise): 1 while d < 30 cm, less 1 in a control step in which the bumper touches
    anything.

    Task parameters (hidden): those of `Navigate`. The lidar tells a little of the dock, as no obstacle stands within 35
    cm of it. ood: more obstacles, flat ones, one motor much weaker than the other; the docks' region is the same.
    """

    name = "navigate_search"
    feedback = "sparse"
    horizon, observation_size = 70, Navigate.observation_size + 3
    parameters = {**Navigate.parameters, "goal": replace(GOALS, semantic=True)}

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = super().build_spec(distribution)
        disc = {"type": mujoco.mjtGeom.mjGEOM_CYLINDER, "size": [RECOGNISED, 0.002, 0.0], "pos": [0.0, 0.0, 0.005]}
        spec.body("goal").add_geom(spec.find_default("shown"), name="recognised", rgba=[0.15, 0.8, 0.3, 0.15], **disc)
        return spec

    def sense(self) -> None:
        super().sense()
        # The millimetre upwards gives the ray a length on the dock, too.
        towards = torch.nn.functional.pad(self.goal - self.qpos[:, :2], (0, 1), value=1e-3)[:, None]
        nearest = self.simulator.rays(self.origin[:, :1].contiguous(), towards, group=UPRIGHT)[:, 0]
        self.recognised = (self.distance < RECOGNISED) & (nearest > 1.0)  # in lengths of the way to the dock
        # Conjugating the heading turns the world's frame into the robot's.
        way, heading = (torch.view_as_complex(vector.contiguous()) for vector in (towards[:, 0, :2], self.heading))
        self.dock = torch.view_as_real(way * heading.conj()) * self.recognised[:, None]

    def seen(self) -> list[Tensor]:
        return [*super().seen(), self.dock, self.recognised[:, None]]
