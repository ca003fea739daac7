"""In-context meta-reinforcement learning (RL^2), and multi-task training: PPO on the policy itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metarl.episodes import Batch
from metarl.learner import Learner


class InContext(Learner):
    """PPO over whole sequences; what adapts is the context (Duan et al. 2016, arXiv 1611.02779; Wang et al. 2016).

    A policy without context trained by the same updates is multi-task training, whose adaptation is fine-tuning.
    """

    def entries(self, rounds: Sequence[Batch]) -> list[Batch]:
        """Every sequence by itself: (M * E, 1, T, ...)."""
        return [Batch(*(x.flatten(0, 1)[:, None] for x in batch)) for batch in rounds]

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        (batch,) = rounds
        sequences = Batch(*(x.flatten(0, 1) for x in batch))
        total, skipped, count = 0.0, 0, 0
        for index in self.minibatches(len(sequences.tokens)):
            self.optimiser.zero_grad()
            loss = self.outer_loss({}, sequences.select(index.to(sequences.tokens.device)))
            loss.backward()
            skipped += not self.apply()
            total += float(loss.detach())
            count += 1
        std = float(torch.exp(self.policy.log_std.detach()).mean())
        return {"loss": total / count, "updates": float(count), "skipped_updates": float(skipped), "std": std}
