"""Reach_search: find a goal on a shelf that is felt only when the hand is there, and next time go straight to it."""

from __future__ import annotations

from torch import Tensor

from envs.core.tasks import Range
from envs.families.reach import Reach

FELT_DISTANCE = 0.06  # m


class ReachSearch(Reach):
    """Reach, where nothing but a touch tells of the goal; horizon 50 (2.5 s).

    Nothing but what follows differs from `Reach`: neither the arm and its actions, nor the observation, the other task
    parameters, the reward for training and the success.

    Feedback (sparse, unless set otherwise): 1 while the grip point is within 6 cm of the goal.

    Task parameters (hidden): `goal` lies in a layer of 20 x 60 x 4 cm before the robot, as things on a shelf do. ood:
    goals beyond the shelf's ends, heavier payloads, stronger damping.
    """

    name = "reach_search"
    feedback = "sparse"
    parameters = {
        **Reach.parameters,
        "goal": Range(
            (0.40, -0.30, 0.30),
            (0.60, 0.30, 0.34),
            ood=[((0.40, 0.30, 0.30), (0.60, 0.36, 0.34)), ((0.40, -0.36, 0.30), (0.60, -0.30, 0.34))],
            unit="m",
            within=((-0.9, -0.9, 0.0), (0.9, 0.9, 1.2)),
            semantic=True,
        ),
    }

    def signal(self) -> Tensor:
        return self.distance < FELT_DISTANCE
