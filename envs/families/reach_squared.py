"""Reach with the squared distance as its reward: how steep it is tells a gradient step how far to go."""

from __future__ import annotations

from torch import Tensor

from envs.families.reach import Reach


class ReachSquared(Reach):
    """The arm of `Reach` with a reward that a gradient step can follow to its end; horizon 50 (2.5 s).

    Observation, action, success and task parameters are those of `Reach`: D = 24, with `goal_visible` 27; A = 7.

    Reward terms: `distance` = -10 d^2 (d: grip to goal, m), `effort` = -0.005 |action|^2. The square is that of the
    navigation in the MAML paper: the further the goal, the steeper it is, so that the length of a gradient step can be
    right as well as its direction. The slope of -d is the same everywhere.
    """

    name = "reach_squared"
    edition = 1  # reward and recipe were chosen on the first

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {"distance": -10.0 * self.distance.square(), "effort": -0.005 * action.square().sum(-1)}
