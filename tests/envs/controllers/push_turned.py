"""A scripted controller for push_turned: that of push, in the axes of the hand."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.families.push_turned import PushTurned
from tests.envs.controllers import push


class Controller:
    """Acts on what nobody tells the agent: the turn; or on what it believes of it.

    Args:
        believed: the turn (N,) in rad; None: the true one.
    """

    def __init__(self, env: PushTurned, believed: Tensor | None = None) -> None:
        self.pusher = push.Controller(env)
        self.turn = env.assigned["turn"][:, 0] if believed is None else believed

    def act(self) -> Tensor:
        """The action (N, 2) for the present state."""
        x, y = self.pusher.act().unbind(-1)
        cosine, sine = self.turn.cos(), self.turn.sin()
        action = torch.stack([cosine * x + sine * y, cosine * y - sine * x], -1)
        return action / action.abs().amax(-1, keepdim=True).clamp(min=1.0)
