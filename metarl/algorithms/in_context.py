"""In-context meta-reinforcement learning (RL^2), and multi-task training: PPO on the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.gradient_learner import GradientLearner, OuterGradient
from metarl.algorithms.objectives import mean_valid
from metarl.algorithms.threads import run_all
from metarl.config.algorithms import InContextSettings
from metarl.rollouts.episodes import Batch


class InContext(GradientLearner):
    """PPO over whole sequences; what adapts is the context (Duan et al. 2016, arXiv 1611.02779; Wang et al. 2016).

    A policy without context trained by the same updates is multi-task training, whose adaptation is fine-tuning.
    """

    Settings = InContextSettings
    fused_above = 64

    def outer_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """That of PPO, and beside it the error of the policy's estimate of the task, if it makes one.

        This is task inference (Humplik et al. 2019, arXiv 1905.06424): what the memory should hold is learned from the
        task itself, long before rewards tell.
        """
        if not self.policy.estimates_task:
            return super().outer_loss(parameters, batch)
        output, error = self.policy.task_error(batch.tokens)
        return self.ppo_loss(output, batch) + self.settings.outer.task_coef * mean_valid(error, batch.valid)

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        (batch,) = rounds
        sequences = Batch(*(x.flatten(0, 1) for x in batch))
        learners = self.twins()
        metrics = self.descend([sequences], lambda part: shared_gradient(learners, *part))
        return metrics | {"std": self.action_std()}


def shared_gradient(learners: Sequence[GradientLearner], sequences: Batch) -> OuterGradient:
    """The gradient of the outer loss on sequences (B, T, ...), of which each learner takes a share in a thread of its
    own.

    Args:
        learners: on the same parameters.
    """
    parameters = learners[0].parameters
    whole = sequences.valid.sum().clamp(min=1.0)

    def share(learner: GradientLearner, part: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        # Losses are means over valid steps.
        loss = learner.outer_loss({}, part) * (part.valid.sum().clamp(min=1.0) / whole)
        return loss.detach(), torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)

    parts = zip(*(x.tensor_split(min(len(learners), len(x))) for x in sequences), strict=True)
    shares = run_all([partial(share, *each) for each in zip(learners, map(Batch._make, parts), strict=False)])
    summed = [torch.stack(each).sum(0) for each in zip(*(gradients for _, gradients in shares), strict=True)]
    loss = sum((loss for loss, _ in shares), torch.zeros_like(whole))
    return OuterGradient(dict(zip(parameters, summed, strict=True)), {}, loss)
