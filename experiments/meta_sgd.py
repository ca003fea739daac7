"""Meta-SGD (Li et al. 2017, arXiv 1707.09835): what is learned is the start, and the rate of every single parameter.

    python -m metarl.train env=cheetah_dir algo=experiments.meta_sgd:MetaSGD agent.context=none \\
        algo.inner.unadapted_weight=0 algo.tasks=20 algo.episodes=10 algo.outer.learning_rate=1e-3 \\
        algo.baseline=linear budget.iterations=40

This is an example of your own algorithm: MAML, but for what its rates are made of. After the command above one gradient
step on ten episodes takes the return on 100 held-out tasks from -11 to 404 (seed 0; seed 1: from 9 to 521).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.maml import MAML
from metarl.config.algorithms import MAMLSettings, MetaInnerLoop, Share, setting
from metarl.rollouts.episodes import Batch


class MetaSGDSettings(MAMLSettings):
    """Those of MAML, with a range of rates to begin with."""

    inner: MetaInnerLoop = MetaInnerLoop(rate=0.1, rate_multiplier=1.0)
    rate_spread: Share = setting(
        0.5, "the rates begin anywhere from inner.rate * (1 - this) to inner.rate * (1 + this)"
    )


class MetaSGD(MAML):
    """theta' = theta - alpha * grad L(theta), entry by entry; alpha is learned with theta, by the same outer gradient.

    The rates alpha begin at random, small and positive, as in the paper. They may become negative: that is why they are
    the rate parameters themselves, and not their exponentials.
    """

    Settings = MetaSGDSettings

    def initial_rate_parameters(self) -> Parameters:
        inner, spread = self.settings.inner, self.settings.rate_spread
        low, high = inner.rate * (1.0 - spread), inner.rate * (1.0 + spread)
        names = self.policy.parameter_names(inner.adapt)
        adapting = {name: value.detach() for name, value in self.parameters.items() if name in names}
        return {name: torch.empty_like(value).uniform_(low, high) for name, value in adapting.items()}

    def rates_of(self, rate_parameters: Parameters) -> Parameters:
        return rate_parameters

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        metrics = super().update(rounds)
        rates = torch.cat([rate.flatten() for rate in self.rates().values()])
        return metrics | {"rate_deviation": float(rates.std()), "negative_rates": float((rates < 0).float().mean())}
