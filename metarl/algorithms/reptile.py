"""Reptile: move the initialisation towards the adapted parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agents.policy import Policy
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.learner import Learner
from metarl.algorithms.objectives import surrogate, value_loss
from metarl.config.settings import ReptileSettings
from metarl.rollouts.episodes import Batch


def interpolate(parameters: Parameters, adapted: Parameters, epsilon: float) -> Parameters:
    """theta + epsilon * mean_m(theta_m - theta) (Nichol et al. 2018, arXiv 1803.02999, algorithm 2).

    Args:
        parameters: theta. adapted: theta_m with a leading M, by the same names.
    """
    return {name: torch.lerp(value, adapted[name].mean(0), epsilon) for name, value in parameters.items()}


class Reptile(Learner):
    """Inner gradient steps on fresh episodes each, critic included; then one interpolation.

    With K steps between rounds the last round's episodes serve one step more, so nothing that was collected is wasted.
    """

    def __init__(self, policy: Policy, settings: ReptileSettings, generator: torch.Generator) -> None:
        super().__init__(policy, settings, generator)
        self.rounds = settings.inner.steps + 1
        rate = next(iter(self.log_rates.values()))
        self.log_rates |= {name: rate.clone() for name in policy.critic_names()}

    def inner_loss(self, parameters: Parameters, batch: Batch) -> torch.Tensor:
        output = self.outputs(parameters, batch)
        return surrogate(output, batch) + self.settings.outer.value_coef * value_loss(
            output, batch, self.policy.critic.deviation
        )

    def support(self, rounds: Sequence[Batch]) -> Sequence[Batch]:
        return rounds

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        adapted: Parameters | None = None
        for batch in rounds:
            adapted = self.adapt(adapted, batch)
        assert adapted is not None
        start = {name: self.parameters[name].detach() for name in adapted}
        moved = interpolate(start, adapted, self.settings.outer.meta_step_size)
        distance = sum(float((moved[name] - start[name]).square().sum()) for name in moved) ** 0.5
        finite = all(bool(torch.isfinite(value).all()) for value in moved.values())
        if finite:
            with torch.no_grad():
                for name, value in moved.items():
                    self.parameters[name].copy_(value)
        else:
            self.keep_skipped()
        std = float(torch.exp(self.policy.log_std.detach()).mean())
        return {"step_length": distance, "updates": 1.0, "skipped_updates": float(not finite), "std": std}
