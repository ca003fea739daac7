"""Sweep a room until the dock is recognised, then drive to it; obstacles and gains are known."""

import torch
from torch import Tensor

from envs.families.navigate_search import DOOR, NavigateSearch
from tests.envs.controllers import navigate

REACHED, PATIENCE = 0.35, 15  # m from a waypoint, or control steps without coming nearer, and the next is due
BESIDE = 0.31  # m from the wall between the rooms, where its end is passed
AIM = 0.5  # m from it, at least, where a dock beside it is reached, with room to turn
NORTH = torch.tensor([[-0.4, 1.0], [0.9, 1.0], [1.6, 1.0], [0.3, 1.0]])  # m
SOUTH = NORTH * torch.tensor([1.0, -1.0])


def act(env: NavigateSearch, goal: Tensor) -> Tensor:
    """The action (N, 2) of the present state towards goals (N, 2), through the door."""
    (x, y), (goal_x, goal_y) = env.qpos[:, :2].float().T, goal.T
    side = torch.where(goal_y < 0.0, -1.0, 1.0)
    goal_y = side * goal_y.abs().clamp(min=AIM)
    inside = (x > DOOR - 0.1) & (y * side > 0.0)
    crossing = y + (goal_y - y) * (DOOR + 0.05 - x) / (goal_x - x).clamp(min=0.1)
    door = torch.stack([torch.full_like(x, DOOR + 0.05), side * (side * crossing).clamp(min=BESIDE)], -1)
    return navigate.act(env, torch.where(inside[:, None], torch.stack([goal_x, goal_y], -1), door), DOOR)


class Sweep:
    """What it has recognised it remembers over the episodes.

    Args:
        env: whose simulations it drives.
    """

    def __init__(self, env: NavigateSearch) -> None:
        self.env = env
        self.found = torch.zeros(env.num_simulations, dtype=torch.bool)

    def begin(self, waypoints: Tensor) -> None:
        """Start an episode's sweep along waypoints (W, 2)."""
        self.waypoints = waypoints
        self.leg, self.waited = torch.zeros(2, self.env.num_simulations, dtype=torch.int64)
        self.nearest = torch.full((self.env.num_simulations,), torch.inf)

    def act(self) -> Tensor:
        """The action (N, 2) of the present state."""
        self.found |= self.env.recognised
        away = torch.linalg.vector_norm(self.waypoints[self.leg] - self.env.qpos[:, :2].float(), dim=-1)
        self.waited = torch.where(away < self.nearest - 0.02, 0, self.waited + 1)
        self.nearest = torch.minimum(self.nearest, away)
        due = (away < REACHED) | (self.waited > PATIENCE)  # an obstacle may stand on a waypoint
        self.leg = (self.leg + due) % len(self.waypoints)
        self.nearest, self.waited = self.nearest.masked_fill(due, torch.inf), self.waited.masked_fill(due, 0)
        return act(self.env, torch.where(self.found[:, None], self.env.goal, self.waypoints[self.leg]))
