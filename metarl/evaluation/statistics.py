"""Means with honest confidence intervals: over tasks, over seeds, and over both together.

Sources: B. Efron, R. Tibshirani, "An introduction to the bootstrap" (1993), ch. 14; T. Hesterberg, "What teachers
should know about the bootstrap", The American Statistician 69 (2015), arXiv 1411.5279; E. B. Wilson, "Probable
inference, the law of succession, and statistical inference", JASA 22 (1927), recommended by L. Brown, T. Cai, A.
DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16 (2001); E. Korn, B. Graubard,
"Confidence intervals for proportions with small expected number of positive counts estimated from survey data", Survey
Methodology 24 (1998); A. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007), arXiv 0712.1111; F.
Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2 (1946).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import special
from torch import Tensor

from metarl.errors import MetaRLError

Values = np.ndarray | Tensor | Sequence[float]
NORMAL = NormalDist()
# Resampled values that are in memory at once (8 bytes each, twice).
CHUNK = 4_000_000
CERTAIN = 1 - 2**-52  # of all the means that were drawn, the least and the greatest


class Interval(NamedTuple):
    """A mean and its confidence interval: low <= mean <= high."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: Values,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
    *,
    bounded: bool | None = None,
    episodes: int = 1,
) -> Interval:
    """Mean over tasks and a confidence interval for the mean over all tasks of the distribution.

    A bias-corrected and accelerated bootstrap (Efron and Tibshirani 1993) whose quantiles are widened for few tasks
    (Hesterberg 2015). A bootstrap alone calls 20 successes in 20 tasks certain. For values in [0, 1] the result is
    therefore the union with Wilson's score interval for a proportion, in which each task counts as one success or
    failure (see `success_interval`). That union is never too narrow, but too wide where tasks are all alike and far
    from 0 and 1: pass `episodes`.

    What it covers at 95% with 5, 10, 20 and 100 tasks, in 1,500 simulated experiments each: of normal values 0.905,
    0.935, 0.942, 0.949; of exponential ones 0.864, 0.927, 0.927, 0.961; of log-normal ones (sigma 1) 0.794, 0.868,
    0.904, 0.916. With few tasks, returns with rare, large losses deserve wider intervals than these; take 100 tasks.

    Values that are all equal (or one task alone) say nothing about their spread; unless bounded, the interval is then
    the mean itself and must not be read as certainty.

    Args:
        values: (M,), one for each task, in any unit.
        confidence: the share of repetitions of the experiment whose interval holds the true mean.
        resamples: bootstrap samples; time and memory grow with resamples * M.
        seed: of the resampling; the same input gives the same interval.
        bounded: the values are rates in [0, 1]. None: taken to be so if all of them lie there.
        episodes: the number E of successes or failures whose mean each value is; only used if bounded.

    Raises:
        MetaRLError: for no values, values that are not finite, or settings out of range.
    """
    data = _checked(values, confidence)
    if resamples < 1 or episodes < 1:
        raise MetaRLError(f"resamples and episodes must be at least 1, got {resamples} and {episodes}")
    inside = bool(((data >= 0) & (data <= 1)).all())
    if bounded and not inside:
        raise MetaRLError(f"bounded values must lie in [0, 1], got {data.min():g} to {data.max():g}")
    mean = float(data.mean())
    low, high = _bootstrap(data, confidence, resamples, seed)
    if bounded or (bounded is None and inside):
        rate_low, rate_high = success_interval(data, confidence, episodes)
        low, high = min(low, rate_low), max(high, rate_high)
    return Interval(mean, min(low, mean), max(high, mean))


def success_interval(
    values: Float64[np.ndarray, " M"], confidence: float = 0.95, episodes: int = 1
) -> tuple[float, float]:
    """Wilson's score interval with the effective sample size of Korn and Graubard (1998).

    The effective size is n = p (1 - p) / Var(p): the number of independent trials that would spread the mean p as much
    as the tasks do. It is kept between M (the episodes of a task all end alike) and M * E (they are independent), and
    is M when all values are 0 or all are 1, so that no finite number of successes is certainty.

    Args:
        values: (M,) success rates in [0, 1], each over E episodes.
        episodes: E.

    Returns:
        Low and high in [0, 1].
    """
    tasks, rate = len(values), float(values.mean())
    spread = rate * (1 - rate)
    # A single task has no variance to estimate: its episodes count as one trial.
    variance = float(values.var(ddof=1)) / tasks if tasks > 1 else spread
    if spread <= 0:
        size = float(tasks)
    else:
        size = tasks * episodes if variance <= 0 else min(max(spread / variance, tasks), tasks * episodes)
    z = NORMAL.inv_cdf((1 + confidence) / 2)
    centre = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(spread / size + z**2 / (4 * size**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def crossed_interval(
    groups: Sequence[np.ndarray],
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
    *,
    bounded: bool = False,
    episodes: int = 1,
) -> Interval:
    """Mean over seeds and tasks together, and an interval for other seeds and other tasks.

    Each group holds independent training runs (its seeds), and all runs of all groups met the same M tasks; what is
    estimated is the sum of the groups' means. One group is a contender, or, paired by seed and by task, the differences
    of two; the groups `[ours, -theirs]` are a difference that is paired by task alone.

    A bootstrap: the seeds' means, group by group, and the tasks' means are drawn with replacement, independently of
    each other (Owen 2007, without the interaction of seed and task, which is in both). Its standard error is corrected
    as in `mean_interval` for the few that are drawn from, and multiplied by Student's t, whose degrees of freedom are
    Satterthwaite's. They count the tasks too, which says too much where a few seeds happen to agree, so that the
    interval is nowhere narrower than Student's t over the seeds alone (Welch's, of two groups). Noise of each seed on
    each task is counted twice: where there is nothing else, the interval is 40% too wide.

    What it covers with 100 tasks and 2, 3, 5 seeds, in 400 simulated experiments each: where seeds differ far more than
    tasks 0.96, 0.94, 0.93 at 95%, and 0.99, 0.99, 0.98 at 99%; where both count as much 0.99, 0.97, 0.96, and 1.00,
    1.00, 0.99.

    A group of one seed tells nothing of other seeds; if all groups are such, this is `mean_interval` over the tasks.

    Args:
        groups: of (S, M) values, one for each seed and task; S may differ.
        bounded: the values are rates in [0, 1], each over `episodes` successes or failures; for one group only.

    Raises:
        MetaRLError: for no values, values that are not finite, or a confidence out of range.
    """
    if not groups or any(np.ndim(group) != 2 for group in groups):
        raise MetaRLError("an interval over seeds and tasks needs values by seed and task, in two dimensions")
    by_task = _checked(np.sum([group.mean(0) for group in groups], 0), confidence)
    if all(len(group) == 1 for group in groups):
        return mean_interval(by_task, confidence, resamples, seed, bounded=bounded, episodes=episodes)
    mean, generator = float(by_task.mean()), np.random.default_rng(seed)
    samples = [part for part in (*(group.mean(1) for group in groups), by_task) if len(part) > 1]
    drawn = sum(_resampled_deviation(part, resamples, generator) for part in samples)
    spread = [float(part.var(ddof=1)) / len(part) for part in samples]
    sizes = [len(part) for part in samples]
    half = student_quantile((1 + confidence) / 2, satterthwaite(spread, sizes)) * float(np.std(drawn))
    if len(by_task) > 1:  # the last of them: without it, seeds alone
        spread, sizes = spread[:-1], sizes[:-1]
    half = max(half, student_quantile((1 + confidence) / 2, satterthwaite(spread, sizes)) * math.sqrt(sum(spread)))
    low, high = mean - half, mean + half
    if bounded:
        rate_low, rate_high = success_interval(by_task, confidence, episodes)
        low, high = max(min(low, rate_low), 0.0), min(max(high, rate_high), 1.0)
    return Interval(mean, min(low, mean), max(high, mean))


def _resampled_deviation(
    values: Float64[np.ndarray, " n"], resamples: int, generator: np.random.Generator
) -> Float64[np.ndarray, " b"]:
    """How far the means of `resamples` samples are from that of the values; spread as the means of fresh values are."""
    count = len(values)
    deviation = (values - values.mean()) * math.sqrt(count / (count - 1))
    return deviation[generator.integers(0, count, (resamples, count))].mean(1)


def satterthwaite(spread: Sequence[float], sizes: Sequence[int]) -> float:
    """Degrees of freedom of a sum of means, each with an estimated variance and from so many values; 1 if all are 0."""
    rest = sum(variance**2 / (size - 1) for variance, size in zip(spread, sizes, strict=True))
    return sum(spread) ** 2 / rest if rest > 0 else 1.0


def student_quantile(probability: float, freedom: int | float) -> float:
    """The quantile of Student's t distribution.

    Args:
        probability: in [0.5, 1).
        freedom: degrees of freedom, at least 1.
    """
    return float(special.stdtrit(freedom, probability))


def _bootstrap(data: Float64[np.ndarray, " M"], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Low and high of the bootstrap interval of `mean_interval`; within the range of the data."""
    from scipy import stats  # half a second, for which no command should wait before its work begins

    count, mean = len(data), float(data.mean())
    if count == 1 or float(np.ptp(data)) == 0:
        return mean, mean
    # Resampling n values spreads by sqrt((n - 1) / n) too little and knows no t quantile: put both in (Hesterberg
    # 2015).
    width = math.sqrt(count / (count - 1)) * student_quantile((1 + confidence) / 2, count - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is not finite, which is seen to below
        low, high = stats.bootstrap(
            (data,),
            np.mean,
            method="BCa",
            confidence_level=min(2 * float(special.ndtr(width)) - 1, CERTAIN),
            n_resamples=resamples,
            batch=max(CHUNK // count, 1),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    # Values too small for their third powers, or too few resamples for a bias: nothing is known of the spread's shape.
    return (float(low), float(high)) if low <= high else (float(data.min()), float(data.max()))


def _checked(values: Values, confidence: float = 0.95) -> Float64[np.ndarray, " M"]:
    """The values as float64, after a check of the values and of the confidence."""
    if not 0 < confidence < 1:
        raise MetaRLError(f"confidence must lie between 0 and 1, got {confidence}")
    data = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise MetaRLError(f"a mean needs at least one value in one dimension, got an array of shape {data.shape}")
    if not np.isfinite(data).all():
        raise MetaRLError(
            f"{int((~np.isfinite(data)).sum())} of {len(data)} values are not finite: leave those tasks out"
        )
    return data
