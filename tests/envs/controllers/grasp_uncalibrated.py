"""A scripted controller for grasp_uncalibrated: that of grasp, where it believes the object to be, with some force."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.families.grasp_uncalibrated import STRONGEST, WEAKEST, GraspUncalibrated
from tests.envs.controllers import grasp


class Controller:
    """Acts on what nobody tells the agent: where the object is and what it bears; or on what it believes of these.

    Args:
        force: with which it closes, (N,) or one number in N; None: between what holds the object and what breaks it.
        calibrated: whether it knows the camera's error; if not, it goes where the camera shows the object.
        speed: of going down and lifting, as a share of the fastest.
    """

    def __init__(
        self,
        env: GraspUncalibrated,
        force: Tensor | float | None = None,
        calibrated: bool = True,
        speed: float = 0.7,
    ) -> None:
        place = None if calibrated else lambda: env.camera()[0]
        self.grasper = grasp.Controller(env, place, hover=0.05, speed=speed, patience=3)
        if force is None:
            force = 0.9 * env.breaking_force
        force = torch.as_tensor(force).double().expand(env.num_simulations)
        middle, span = (WEAKEST * STRONGEST) ** 0.5, (STRONGEST / WEAKEST) ** 0.5
        self.force = (force / middle).log() / math.log(span)

    def act(self) -> Tensor:
        """The action (N, 5) for the present state."""
        return torch.cat([self.grasper.act(), self.force[:, None].float()], -1)
