"""In-context meta-reinforcement learning (RL^2), and multi-task training: PPO on the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from metarl.algorithms.learner import Learner
from metarl.algorithms.threads import run_all
from metarl.rollouts.episodes import Batch


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
        learners = self.twins(self.workers)
        total, skipped, count = 0.0, 0, 0
        for index in self.minibatches(len(sequences.tokens)):
            total += shared_gradient(learners, sequences.select(index.to(sequences.tokens.device)))
            skipped += not self.apply()
            count += 1
        std = float(torch.exp(self.policy.log_std.detach()).mean())
        return {"loss": total / count, "updates": float(count), "skipped_updates": float(skipped), "std": std}


def shared_gradient(learners: Sequence[Learner], sequences: Batch) -> float:
    """Set the gradient of the outer loss on sequences (B, T, ...), of which each learner takes a share in a thread of
    its own; returns the loss.

    Args:
        learners: on the same parameters.
    """
    parameters = list(learners[0].parameters.values())
    whole = sequences.valid.sum().clamp(min=1.0)

    def share(learner: Learner, part: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        # Losses are means over valid steps.
        loss = learner.outer_loss({}, part) * (part.valid.sum().clamp(min=1.0) / whole)
        return loss.detach(), torch.autograd.grad(loss, parameters, materialize_grads=True)

    parts = zip(*(x.tensor_split(min(len(learners), len(x))) for x in sequences), strict=True)
    shares = run_all([partial(share, *each) for each in zip(learners, map(Batch._make, parts), strict=False)])
    for parameter, *gradients in zip(parameters, *(gradients for _, gradients in shares), strict=True):
        parameter.grad = torch.stack(gradients).sum(0)
    return float(sum(loss for loss, _ in shares))
