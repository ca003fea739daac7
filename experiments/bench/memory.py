"""Peak memory of a training run of the default reach configuration."""

from __future__ import annotations

from experiments.bench.measure import Row, Target, summary
from experiments.bench.trained import trained

SETTINGS = ("env=reach", "algo=maml", "seed=0", "device=cpu", "budget.iterations=3")


def training(quick: bool) -> list[Row]:
    """Three meta-iterations of MAML, as `metarl.train` runs them."""
    peak, words = trained(SETTINGS).peak, f"metarl.train {' '.join(SETTINGS)}"
    return [summary("memory", "peak of a default reach run", [peak], "GiB", Target("<=", 2.0), words)]


MEASUREMENTS = (training,)
