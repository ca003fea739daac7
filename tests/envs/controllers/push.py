"""A scripted controller for push: behind the object as seen from the goal, then along the line to the goal."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.families.push import DELTA, Push

BEHIND = 0.075  # m from the object's centre before pushing
FAST, SLOW = 1.0, 0.35  # shares of the fastest step


class Controller:
    """Acts on what nobody tells the agent: the goal."""

    def __init__(self, env: Push) -> None:
        self.env = env

    def act(self) -> Tensor:
        """The action (N, 2) for the present state."""
        env = self.env
        place, hand, target = env.object_position[:, :2], env.grip[:, :2], env.target[:, :2]
        way = env.goal.double() - place
        far = torch.linalg.vector_norm(way, dim=-1, keepdim=True)
        along = way / far.clamp(min=1e-6)
        across = torch.stack([-along[:, 1], along[:, 0]], -1)
        offset = hand - place
        ahead = (offset * along).sum(-1, keepdim=True)  # above 0: on the goal's side of the object
        aside = (offset * across).sum(-1, keepdim=True)
        side = torch.where(aside >= 0, 1.0, -1.0)
        # Around the object first, then behind it, then through it towards the goal.
        around = place + BEHIND * side * across - 0.045 * along
        behind = place - BEHIND * along
        lined_up = (aside.abs() < 0.012) & (ahead < 0)
        push = place - 0.02 * along - aside * across
        goal = torch.where(ahead > -0.03, around, behind)
        goal = torch.where(lined_up, push, goal)
        move = (goal - target) / DELTA
        limit = torch.where(lined_up, torch.clamp(far / 0.12, SLOW / 2, SLOW + 0.25), FAST)
        size = torch.linalg.vector_norm(move, dim=-1, keepdim=True)
        move = move * torch.clamp(limit / size.clamp(min=1e-6), max=1.0)
        stop = far < 0.015
        return torch.where(stop, torch.zeros_like(move), move).float().clamp(-1, 1)
