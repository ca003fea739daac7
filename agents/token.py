"""What a policy sees at each control step: the layout of a token, which stands here alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NORMALISED = ("observation", "previous feedback", "task")


@dataclass(frozen=True)
class TokenLayout:
    """A token (F = D + A + 2 + P) is [observation (D), previous action clipped to [-1, 1] (A), previous feedback (1),
    first flag (1), task (P)]; the flag is 1 at the first step of an episode. The task is for a critic alone, and is
    there only where one asks for it (P > 0): no action may depend on it, and it is 0 where nobody knows it."""

    observation_size: int  # D
    action_size: int  # A
    privileged_size: int = 0  # P

    @classmethod
    def of_size(cls, size: int, action_size: int, privileged_size: int = 0) -> TokenLayout:
        """The layout of tokens with `size` entries (F)."""
        return cls(size - cls(0, action_size, privileged_size).size, action_size, privileged_size)

    @property
    def acting_size(self) -> int:
        """How much of a token actions may depend on: D + A + 2."""
        return self.observation_size + self.action_size + 2

    @property
    def size(self) -> int:
        """F."""
        return self.acting_size + self.privileged_size

    @property
    def parts(self) -> dict[str, slice]:
        """Where each part of a token stands, in order."""
        action, end = self.observation_size, self.acting_size
        return {
            "observation": slice(0, action),
            "previous action": slice(action, end - 2),
            "previous feedback": slice(end - 2, end - 1),
            "first flag": slice(end - 1, end),
            "task": slice(end, self.size),
        }

    def join(
        self,
        observation: Tensor,
        previous_action: Tensor,
        previous_feedback: Tensor,
        first: bool | Tensor,
        task: Tensor | None = None,
    ) -> Tensor:
        """Tokens (..., F) of observations (..., D), clipped actions (..., A), feedback (...,), first flags, for all or
        (...,), and tasks (..., P), or None if nobody knows them."""
        feedback = previous_feedback[..., None]
        flag = first[..., None] if isinstance(first, Tensor) else torch.full_like(feedback, float(first))
        known = [observation, previous_action, feedback, flag]
        if self.privileged_size:
            known.append(feedback.new_zeros(*feedback.shape[:-1], self.privileged_size) if task is None else task)
        return torch.cat(known, -1)

    def observation(self, tokens: Tensor) -> Tensor:
        """The observations (..., D) in tokens (..., F); a view."""
        return tokens[..., : self.observation_size]

    def acting(self, tokens: Tensor) -> Tensor:
        """What of tokens (..., F) actions may depend on, (..., D + A + 2); a view."""
        return tokens[..., : self.acting_size]

    def task(self, tokens: Tensor) -> Tensor:
        """The tasks (..., P) in tokens (..., F); a view."""
        return tokens[..., self.acting_size :]

    def without_history(self, tokens: Tensor) -> Tensor:
        """What actions may depend on (..., D + A + 2), with everything but the observation 0."""
        return F.pad(self.observation(tokens), (0, self.acting_size - self.observation_size))

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
