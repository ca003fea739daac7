"""Reach_search: find a goal on a shelf that is felt only when the hand is there, and next time go straight to it."""

from __future__ import annotations

from torch import Tensor

from envs.core.tasks import Range
from envs.families.reach import Reach

FELT_DISTANCE = 0.06  # m


class ReachSearch(Reach):
    """Reach, where nothing but a touch tells of the goal; horizon 45 (2.25 s).

    Nothing but what follows differs from `Reach`: neither the arm and its actions, nor the observation, the other task
    parameters, the reward for training and the success.

    Feedback (sparse, unless set otherwise): 1 while the grip point is within 6 cm of the goal.

    Task parameters (hidden): `goal` lies in a layer of 30 x 70 x 4 cm before the robot, as things on a shelf do. ood:
    goals beyond the shelf's ends, heavier payloads, stronger damping.
    """

    name = "reach_search"
    feedback = "sparse"
    horizon = 45
    parameters = {
        **Reach.parameters,
        "goal": Range(
            (0.35, -0.35, 0.30),
            (0.65, 0.35, 0.34),
            ood=[((0.35, 0.35, 0.30), (0.65, 0.42, 0.34)), ((0.35, -0.42, 0.30), (0.65, -0.35, 0.34))],
            unit="m",
            within=((-0.9, -0.9, 0.0), (0.9, 0.9, 1.2)),
            semantic=True,
        ),
    }

    def signal(self) -> Tensor:
        return self.distance < FELT_DISTANCE
