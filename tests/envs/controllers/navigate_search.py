"""Sweep the region on a fixed path until the dock is recognised, then drive to it; obstacles and gains are known."""

import torch
from torch import Tensor

from envs.families.navigate_search import NavigateSearch
from tests.envs.controllers import navigate

REACHED, PATIENCE = 0.35, 15  # m from a waypoint, or control steps without coming nearer, and the next is due
NORTH = torch.tensor([[0.0, 1.1], [1.3, 1.2], [1.3, 0.0], [0.3, 0.0]])  # m
SOUTH = NORTH * torch.tensor([1.0, -1.0])


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
        return navigate.act(self.env, torch.where(self.found[:, None], self.env.goal, self.waypoints[self.leg]))
