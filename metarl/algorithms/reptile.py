"""Reptile: move the initialisation towards the adapted parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.policy import Policy
from metarl.algorithms.adaptation import Parameters, all_finite
from metarl.algorithms.learner import Learner
from metarl.algorithms.objectives import value_loss
from metarl.config.algorithms import ReptileSettings
from metarl.rollouts.episodes import Batch


def interpolate(parameters: Parameters, adapted: Parameters, epsilon: float) -> Parameters:
    """theta + epsilon * mean_m(theta_m - theta) (Nichol et al. 2018, arXiv 1803.02999, algorithm 2).

    Args:
        parameters: theta. adapted: theta_m with a leading M, by the same names.
    """
    return {name: torch.lerp(value, adapted[name].mean(0), epsilon) for name, value in parameters.items()}


class Reptile(Learner):
    """Inner gradient steps, each on fresh episodes and with the critic; then one interpolation.

    With K steps between rounds there is one step more, on the episodes of the last round: nothing collected is wasted.
    """

    Settings = ReptileSettings
    shares_tasks = True
    critic_adapts = True

    def __init__(self, policy: Policy, settings: ReptileSettings, generator: torch.Generator) -> None:
        super().__init__(policy, settings, generator)
        self.rounds = settings.inner.steps + 1

    def initial_rate_parameters(self) -> Parameters:
        rates = super().initial_rate_parameters()
        rate = next(iter(rates.values()))
        critic = self.policy.critic_names()
        return rates | {name: rate.clone() for name in self.parameters if name in critic}

    def inner_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        output = self.outputs(parameters, batch)
        weight, unit = self.settings.outer.value_coef, self.policy.critic.deviation
        return self.policy_loss(output, batch) + weight * value_loss(output, batch, unit)

    def apply(self, moved: Parameters) -> bool:
        """Move the policy's parameters to `moved`; if one of these is not finite, nothing moves (False)."""
        if not all_finite(moved):
            return False
        with torch.no_grad():
            for name, value in moved.items():
                self.parameters[name].copy_(value)
        return True

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        adapted: Parameters | None = None
        for batch in rounds:
            adapted = self.adapt(adapted, batch)
        assert adapted is not None
        start = {name: self.parameters[name].detach() for name in adapted}
        moved = interpolate(start, adapted, self.settings.outer.meta_step_size)
        moved = self.ranks.mean(moved, len(rounds[0].tokens))  # it is linear in the adapted parameters
        squares = torch.stack([(moved[name] - start[name]).square().sum() for name in moved])
        skipped = not self.apply(moved)
        return {
            "step_length": float(squares.sum().sqrt()),
            "updates": 1.0,
            "skipped_updates": float(skipped),
            "std": self.action_std(),
        }
