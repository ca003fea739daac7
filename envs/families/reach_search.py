"""Reach in a shelf: the hand has to search for a goal that is felt only where it is, and then knows it."""

from __future__ import annotations

from torch import Tensor

from envs.core.tasks import Range
from envs.families.reach import Reach

FELT_DISTANCE = 0.06  # m, in which the goal is felt


class ReachSearch(Reach):
    """The arm of `Reach` searches a shelf for a goal that it feels only when the hand is there; horizon 25 (1.25 s).

    Observation, action, reward terms and success are those of `Reach`: D = 24, with `goal_visible` 27; A = 7.

    Feedback (`sparse`): 1 where the grip point is within 6 cm of the goal, else 0. The shaped reward knows where the
    goal is, so only training has it.

    Task parameters (hidden):

    | name            | meaning                            | unit | train and test                | ood              |
    |-----------------|------------------------------------|------|-------------------------------|------------------|
    | `goal`          | in a shelf of 30 x 70 x 4 cm       | m    | (0.35, -0.35, 0.3) to         | up to 7 cm       |
    |                 |                                    |      | (0.65, 0.35, 0.34)            | beyond its ends  |
    | `payload_mass`  | a sphere of 3 cm at the grip point | kg   | 0.05 to 1.5                   | 1.5 to 3         |
    | `damping_scale` | multiplies every joint's damping   | 1    | 0.5 to 2                      | 2 to 4           |

    Goals are held out in blocks of 6 x 14 x 0.8 cm, so that no test goal is further than 2 cm from one that may be
    trained on: what is new of a task is which goal it has, not that region. From one place the hand feels less than a
    tenth of the shelf, and an episode is too short to search all of it.
    """

    name = "reach_search"
    feedback = "sparse"
    horizon = 25
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
