"""What a policy sees at each control step: the layout of a token, which stands here alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NORMALISED = ("observation", "previous reward")


@dataclass(frozen=True)
class TokenLayout:
    """A token (F = D + A + 2) is [observation (D), previous action clipped to [-1, 1] (A), previous reward (1), first
    flag (1)]; the flag is 1 at the first step of an episode."""

    observation_size: int  # D
    action_size: int  # A

    @classmethod
    def of_size(cls, size: int, action_size: int) -> TokenLayout:
        """The layout of tokens with `size` entries (F)."""
        return cls(size - cls(0, action_size).size, action_size)

    @property
    def size(self) -> int:
        """F."""
        return self.observation_size + self.action_size + 2

    @property
    def parts(self) -> dict[str, slice]:
        """Where each part of a token stands, in order."""
        action, reward, flag = self.observation_size, self.size - 2, self.size - 1
        return {
            "observation": slice(0, action),
            "previous action": slice(action, reward),
            "previous reward": slice(reward, flag),
            "first flag": slice(flag, self.size),
        }

    def join(self, observation: Tensor, previous_action: Tensor, previous_reward: Tensor, first: bool) -> Tensor:
        """Tokens (..., F) of observations (..., D), clipped actions (..., A) and rewards (...,)."""
        reward = previous_reward[..., None]
        return torch.cat([observation, previous_action, reward, torch.full_like(reward, float(first))], -1)

    def observation(self, tokens: Tensor) -> Tensor:
        """The observations (..., D) in tokens (..., F); a view."""
        return tokens[..., : self.observation_size]

    def without_history(self, tokens: Tensor) -> Tensor:
        """Tokens (..., F) in which everything but the observation is 0."""
        return F.pad(self.observation(tokens), (0, self.size - self.observation_size))

    def normalised(self) -> Tensor:
        """(F,) 1.0 at the entries that are normalised, 0.0 at the others."""
        mask = torch.zeros(self.size)
        for name in NORMALISED:
            mask[self.parts[name]] = 1.0
        return mask

    def describe(self, entry: int) -> str:
        """An entry of a token in words."""
        name = next(name for name, part in self.parts.items() if entry < part.stop)
        return f"{name} entry {entry}" if name == "observation" else name
