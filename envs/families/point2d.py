"""Point2d: the 2D navigation of the MAML paper, without a physics engine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from envs.core.environment import Drawer, Step
from envs.core.tasks import Range
from envs.errors import TaskError
from envs.families.family import Family

SPEED = 0.1  # length per control step at action 1
GOAL_RADIUS = 0.01
# Around the square of the training goals, for ood goals.
FRAME = [
    ((0.5, -0.5), (0.8, 0.5)),
    ((-0.8, -0.5), (-0.5, 0.5)),
    ((-0.5, 0.5), (0.5, 0.8)),
    ((-0.5, -0.8), (0.5, -0.5)),
]


class Point2d(Family):
    """A point on the plane moves to a hidden goal (Finn et al. 2017, arXiv 1703.03400, section 5.3 and appendix A.2).

    Observation (D = 2, with `goal_visible` 4; float32):

    | index | meaning                                     | unit   |
    |-------|---------------------------------------------|--------|
    | 0-1   | position x, y                               | length |
    | 2-3   | goal x, y, only with `goal_visible` (an oracle) | length |

    Action (A = 2): displacement, 1 is 0.1 (the paper clips the displacement to +-0.1). The point starts at the origin.

    Reward terms: `distance` = -|position - goal|^2 after the move. The episode ends within 0.01 of the goal or at
    horizon 100.

    Success: within 0.01 of the goal. Task parameter (hidden): `goal` (2), uniform in [-0.5, 0.5]^2.
    """

    name = "point2d"
    success_criterion = "the point came within 0.01 of the goal, which ends the episode"

    horizon, observation_size, action_size, hidden_size = 100, 2, 2, 2
    control_period = 0.05
    edition = 1  # the recipe was chosen on the first
    parameters = {"goal": Range((-0.5, -0.5), (0.5, 0.5), ood=FRAME, unit="length", within=(-10.0, 10.0))}

    def __init__(
        self,
        num_simulations: int,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        goal_visible: bool = False,
        tasks_override: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(num_simulations, self.task_distribution(tasks_override), seed)
        self.take_options(horizon, goal_visible)
        self.position = torch.zeros(num_simulations, 2)

    def apply_tasks(self) -> None:
        self.goal = self.assigned["goal"]

    def reset(self, mask: Tensor | None = None) -> Tensor:
        if self.tasks is None:
            raise TaskError(f"{self.name}: call set_tasks before reset")
        self.position = (
            torch.zeros_like(self.position) if mask is None else self.position.masked_fill(mask[:, None], 0.0)
        )
        self.begun = True
        return self.observe()

    def seen(self) -> list[Tensor]:
        return [self.position]

    def step(self, action: Tensor) -> Step:
        self.require_reset()
        failed = ~torch.isfinite(action).all(-1)
        move = torch.where(failed[:, None], 0.0, action.clamp(-1.0, 1.0))
        self.position = torch.add(self.position, move, alpha=SPEED)
        squared = (self.position - self.goal).square().sum(-1)
        reward = torch.where(failed, 0.0, -squared)
        success = (squared < GOAL_RADIUS**2) & ~failed
        if failed.any():
            self.reset(failed)
        feedback = self.felt(reward, lambda: success)
        return Step(self.observe(), reward, {"distance": reward}, success, success | failed, failed, feedback)

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        return {"position": self.position[simulation].numpy().copy(), "goal": self.goal[simulation].numpy().copy()}

    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        from envs.rendering.paint import paint_plane

        trail: list[np.ndarray] = []

        def draw(state: dict[str, np.ndarray]) -> np.ndarray:
            trail.append(state["position"])
            return paint_plane(state["position"], state["goal"], np.array(trail), 0.9, width, height)

        return draw
