"""Find the dock by a fixed sweep of the region, knowing obstacles and motor gains; drive to it once it was recognised."""

import torch
from torch import Tensor

from envs.families.navigate_search import NavigateSearch
from tests.envs.controllers import navigate

REACHED, PATIENCE = 0.35, 15  # m from a waypoint, or control steps without coming nearer, and the next is due
WAYPOINTS = torch.tensor([[-0.4, 1.1], [1.2, 1.1], [1.2, -1.1], [-0.4, -1.1], [0.4, 0.0]])


class Sweep:
    """One sweep in each simulation, begun anew with each episode."""

    def __init__(self, env: NavigateSearch, waypoints: Tensor = WAYPOINTS) -> None:
        self.env, self.waypoints = env, waypoints
        self.found = torch.zeros(env.num_simulations, dtype=torch.bool)

    def begin(self) -> None:
        """Start at the first waypoint; a dock that was recognised before stays known."""
        self.leg = torch.zeros(self.env.num_simulations, dtype=torch.int64)
        self.nearest = torch.full((self.env.num_simulations,), torch.inf)
        self.waited = torch.zeros_like(self.leg)

    def act(self) -> Tensor:
        """The action (N, 2) of the present state."""
        env = self.env
        self.found |= env.recognised
        away = torch.linalg.vector_norm(self.waypoints[self.leg] - env.qpos[:, :2].float(), dim=-1)
        self.waited = torch.where(away < self.nearest - 0.02, 0, self.waited + 1)
        self.nearest = torch.minimum(self.nearest, away)
        done = (away < REACHED) | (self.waited > PATIENCE)  # an obstacle may stand on a waypoint
        self.leg = torch.where(done, (self.leg + 1) % len(self.waypoints), self.leg)
        self.nearest, self.waited = self.nearest.masked_fill(done, torch.inf), self.waited.masked_fill(done, 0)
        return navigate.act(env, torch.where(self.found[:, None], env.goal, self.waypoints[self.leg]))
