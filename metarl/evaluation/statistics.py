"""Means with honest confidence intervals: over tasks (bootstrap) and over seeds (Student's t).

Sources: B. Efron, R. Tibshirani, "An introduction to the bootstrap" (1993), ch. 14; T. Hesterberg, "What teachers
should know about the bootstrap", The American Statistician 69 (2015), arXiv 1411.5279; E. B. Wilson, "Probable
inference, the law of succession, and statistical inference", JASA 22 (1927), recommended by L. Brown, T. Cai, A.
DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16 (2001); E. Korn, B. Graubard,
"Confidence intervals for proportions with small expected number of positive counts estimated from survey data", Survey
Methodology 24 (1998); R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", arXiv
2108.13264; M. Abramowitz, I. Stegun, "Handbook of mathematical functions" (1964), eqs. 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from metarl.errors import MetaRLError

Values = np.ndarray | Tensor | Sequence[float]
NORMAL = NormalDist()
# Resampled values that are in memory at once (8 bytes each, twice).
CHUNK = 4_000_000


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


def interquartile_mean(values: Values) -> float:
    """Mean of the middle half: a quarter of the values, rounded down, is omitted at each end (Agarwal et al. 2021).

    Raises:
        MetaRLError: for no values, or values that are not finite.
    """
    ordered = np.sort(_checked(values))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def seeds_interval(means: Values, confidence: float = 0.95) -> Interval:
    """Mean over seeds and Student's t interval: mean +- t s / sqrt(n), with n - 1 degrees of freedom.

    With the three to ten seeds of most papers a bootstrap is too narrow. One seed gives the mean itself as the
    interval.

    Args:
        means: (n,), one for each training run.

    Raises:
        MetaRLError: for no values, values that are not finite, or a confidence out of range.
    """
    data = _checked(means, confidence)
    mean, count = float(data.mean()), len(data)
    if count == 1:
        return Interval(mean, mean, mean)
    half = student_quantile((1 + confidence) / 2, count - 1) * float(data.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


@cache
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by bisection of the closed form for whole degrees of freedom.

    Args:
        probability: in [0.5, 1).
        freedom: degrees of freedom, at least 1.
    """
    if freedom > 10_000:  # the normal distribution differs by less than 3e-4 of the quantile
        return NORMAL.inv_cdf(probability)
    low, high = 0.0, 1.0
    while _student_probability(high, freedom) < probability and high < 1e15:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if _student_probability(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_probability(quantile: float, freedom: int) -> float:
    """P(T <= t), from Abramowitz and Stegun, eqs. 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(quantile / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for divisor in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (divisor - 1) / divisor
    between = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + between / 2


def _bootstrap(data: Float64[np.ndarray, " M"], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Low and high of the bootstrap interval of `mean_interval`; within the range of the data."""
    count, mean = len(data), float(data.mean())
    deviation = data - mean
    scale = float(np.abs(deviation).max())
    if count == 1 or scale == 0:
        return mean, mean
    means = _resampled_means(data, resamples, seed)
    # Bias z0 (Efron and Tibshirani 1993, eq. 14.14; ties count half) and acceleration a (eq. 14.15: a mean's jackknife
    # values deviate as the data do; the scale, which cancels, keeps the powers from underflow).
    below = (float((means < mean).mean()) + float((means <= mean).mean())) / 2
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    unit = deviation / scale
    acceleration = float((unit**3).sum()) / (6 * float((unit**2).sum()) ** 1.5)
    # Resampling n values spreads by sqrt((n - 1) / n) too little and knows no t quantile: put both in (Hesterberg
    # 2015).
    width = math.sqrt(count / (count - 1)) * student_quantile((1 + confidence) / 2, count - 1)

    def level(z: float) -> float:  # eq. 14.10
        shrink = 1 - acceleration * (bias + z)
        # Beyond its pole (very few, very skewed values) the formula turns round; the extreme is what it tends to.
        return NORMAL.cdf(bias + (bias + z) / shrink) if shrink > 0 else float(z > 0)

    low, high = np.quantile(means, [level(-width), level(width)])
    return float(low), float(high)


def _resampled_means(data: Float64[np.ndarray, " M"], resamples: int, seed: int) -> Float64[np.ndarray, " R"]:
    """The means of R samples of M values each, drawn with replacement."""
    generator = np.random.default_rng(seed)
    rows = max(CHUNK // len(data), 1)
    parts = []
    for start in range(0, resamples, rows):
        draws = generator.integers(0, len(data), (min(rows, resamples - start), len(data)))
        parts.append(data.take(draws).mean(1))
    return np.concatenate(parts)


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
