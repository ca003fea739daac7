"""A scripted controller for grasp: above the object, down, close, lift."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from envs.families.grasp import DELTA, HEIGHT, Grasp

ABOVE, DOWN, CLOSE, LIFT = range(4)


class Controller:
    """Acts on what nobody tells the agent: the object's true position; or on what `place` (N, 3) says of it, in m.

    Args:
        hover: m between the object's centre and the grip point before going down.
        speed: of going down and lifting, as a share of the fastest.
        patience: control steps that the fingers close before the hand lifts.
    """

    def __init__(
        self,
        env: Grasp,
        place: Callable[[], Tensor] | None = None,
        hover: float = 0.07,
        speed: float = 0.5,
        patience: int = 5,
    ) -> None:
        self.env = env
        self.hover, self.speed, self.patience = hover, speed, patience
        self.place = place or (lambda: env.object_position)
        self.phase = torch.zeros(env.num_simulations, dtype=torch.int64)
        self.waited = torch.zeros(env.num_simulations, dtype=torch.int64)

    def act(self) -> Tensor:
        """The action (N, 4) for the present state."""
        env = self.env
        place = self.place()
        offset = place - env.grip
        ahead = env.target - env.grip  # what the arm is about to do anyway
        apart = torch.linalg.vector_norm(offset[:, :2], dim=-1)
        slow = torch.linalg.vector_norm(env.grip_velocity, dim=-1) < 0.1
        low = offset[:, 2].clamp(min=env.bounds[0][2] - env.grip[:, 2])
        heights = torch.stack([offset[:, 2] + self.hover, low, low, HEIGHT - place[:, 2]], -1)
        rise = heights.gather(1, self.phase[:, None])
        move = (torch.cat([offset[:, :2], rise], -1) - ahead) / DELTA
        move[self.phase >= CLOSE, :2] = 0.0
        move = move.clamp(-1, 1)
        move[self.phase >= DOWN] *= self.speed
        done = [
            (apart < 0.004) & slow,
            (low.abs() < 0.005) & slow,
            self.waited >= self.patience,
            torch.zeros_like(slow),
        ]
        done = torch.stack(done, -1).gather(1, self.phase[:, None])[:, 0]
        self.waited = torch.where(self.phase == CLOSE, self.waited + 1, 0)
        close = torch.where(self.phase >= CLOSE, 1.0, -1.0)[:, None]
        self.phase = torch.where(done, self.phase + 1, self.phase)
        return torch.cat([move.float(), close], -1)
