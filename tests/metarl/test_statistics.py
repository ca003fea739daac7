"""Confidence intervals: coverage on simulated experiments whose true mean is known, and the edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.errors import MetaRLError
from metarl.evaluation.statistics import (
    crossed_interval,
    mean_interval,
    student_quantile,
    success_interval,
)

EXPERIMENTS = 300


def coverage(experiments: np.ndarray, truth: float, episodes: int = 1) -> float:
    """Share of the experiments (n, M) whose interval holds the truth."""
    intervals = [
        mean_interval(values, resamples=500, seed=i, episodes=episodes) for i, values in enumerate(experiments)
    ]
    return sum(low <= truth <= high for _, low, high in intervals) / len(intervals)


@pytest.mark.parametrize(("tasks", "least"), [(100, 0.92), (10, 0.91)])
def test_coverage_of_normal_returns(tasks: int, least: float) -> None:
    experiments = np.random.default_rng(0).normal(-3.0, 2.0, (EXPERIMENTS, tasks))
    assert least <= coverage(experiments, -3.0) <= 0.98


def test_coverage_of_skewed_returns() -> None:
    experiments = -np.random.default_rng(1).exponential(5.0, (EXPERIMENTS, 40))
    assert 0.92 <= coverage(experiments, -5.0) <= 0.98


@pytest.mark.parametrize(("rate", "tasks"), [(0.5, 20), (0.98, 20), (0.9, 100), (0.98, 100)])
def test_coverage_of_one_success_or_failure_per_task(rate: float, tasks: int) -> None:
    experiments = (np.random.default_rng(2).random((EXPERIMENTS, tasks)) < rate).astype(float)
    assert coverage(experiments, rate) >= 0.92


@pytest.mark.parametrize(("rate", "alike"), [(0.9, 0.5), (0.5, 5.0), (0.9, 1000.0)])
def test_coverage_of_success_rates_that_differ_between_tasks(rate: float, alike: float) -> None:
    generator = np.random.default_rng(3)
    rates = generator.beta(alike * rate, alike * (1 - rate), (EXPERIMENTS, 100))
    experiments = generator.binomial(10, rates) / 10
    assert coverage(experiments, rate) >= 0.92
    assert 0.92 <= coverage(experiments, rate, episodes=10) <= 0.99


def tolerance(nominal: float, experiments: int) -> float:
    """How far a coverage of `nominal` may be off in that many experiments, once in about 10,000 tests."""
    return 3.9 * math.sqrt(nominal * (1 - nominal) / experiments)


def clustered(rate: float, alike: float, tasks: int, experiments: int, seed: int = 9) -> np.ndarray:
    """Success rates over 10 episodes of tasks whose own rates scatter (beta-binomial), more with a small `alike`."""
    generator = np.random.default_rng(seed)
    return generator.binomial(10, generator.beta(alike * rate, alike * (1 - rate), (experiments, tasks))) / 10


@pytest.mark.parametrize(("rate", "alike"), [(0.5, 1.0), (0.9, 5.0)])
def test_coverage_of_few_tasks_whose_episodes_end_alike(rate: float, alike: float) -> None:
    held = coverage(clustered(rate, alike, 20, EXPERIMENTS), rate, episodes=10)
    assert held >= 0.95 - tolerance(0.95, EXPERIMENTS)


# What `mean_interval` says of itself: kind of returns -> tasks -> coverage at 95%, in 1,500 experiments each.
CLAIMED = {
    "normal": {5: 0.905, 10: 0.935, 20: 0.942, 100: 0.949},
    "exponential": {5: 0.864, 10: 0.927, 20: 0.927, 100: 0.961},
    "log-normal": {5: 0.794, 10: 0.868, 20: 0.904, 100: 0.916},
}


@pytest.mark.nightly
@pytest.mark.parametrize("tasks", [5, 10, 20, 100])
@pytest.mark.parametrize("kind", CLAIMED)
def test_coverage_of_returns_is_what_the_documentation_says(kind: str, tasks: int) -> None:
    generator, size = np.random.default_rng(13), (2000, tasks)
    experiments, truth = {
        "normal": (generator.normal(-3.0, 2.0, size), -3.0),
        "exponential": (-generator.exponential(5.0, size), -5.0),
        "log-normal": (-generator.lognormal(0.0, 1.0, size), -math.exp(0.5)),
    }[kind]
    claimed = CLAIMED[kind][tasks]
    both = math.hypot(tolerance(claimed, 1500), tolerance(claimed, 2000))
    assert coverage(experiments, truth) == pytest.approx(claimed, abs=both)


@pytest.mark.nightly
@pytest.mark.parametrize("tasks", [20, 100])
@pytest.mark.parametrize(("rate", "alike"), [(0.5, 1.0), (0.9, 5.0), (0.5, 1000.0), (0.9, 1000.0)])
def test_success_intervals_cover_at_least_what_they_say(rate: float, alike: float, tasks: int) -> None:
    held = coverage(clustered(rate, alike, tasks, 2000, seed=14), rate, episodes=10)
    assert held >= 0.95 - tolerance(0.95, 2000)


def test_no_interval_depends_on_what_was_drawn_before() -> None:
    values = np.random.default_rng(11).normal(size=30)
    rates = (values > 0).astype(float)
    first = mean_interval(values), mean_interval(rates, episodes=10)
    np.random.seed(12)
    torch.manual_seed(12)
    mean_interval(values[:7], seed=3)
    assert (mean_interval(values), mean_interval(rates, episodes=10)) == first


def test_episodes_narrow_the_interval_of_tasks_that_are_alike() -> None:
    rates = np.random.default_rng(4).binomial(10, 0.5, 100) / 10
    plain, informed = mean_interval(rates), mean_interval(rates, episodes=10)
    assert informed.high - informed.low < 0.5 * (plain.high - plain.low)


@pytest.mark.parametrize(("value", "tasks"), [(1.0, 100), (0.0, 100), (1.0, 3), (1.0, 1)])
def test_equal_success_rates_are_not_certainty(value: float, tasks: int) -> None:
    mean, low, high = mean_interval(np.full(tasks, value), episodes=10)
    # Wilson's interval for x = n successes is [n / (n + z^2), 1].
    assert mean == value
    assert high - low == pytest.approx(1.96**2 / (tasks + 1.96**2), abs=1e-3)
    assert (high if value else low) == pytest.approx(value, abs=1e-12)


def test_wilson_interval_of_a_published_example() -> None:
    # 7 of 20 with 95% confidence, as statsmodels.stats.proportion.proportion_confint(7, 20, method="wilson") gives it.
    assert success_interval(np.repeat([1.0, 0.0], [7, 13])) == pytest.approx((0.1811918, 0.5671457), abs=1e-6)


@pytest.mark.parametrize(
    ("rates", "size"),
    # Episodes of a task that all end alike count once; those of tasks that are all alike count each.
    [([1.0, 0.0, 0.0, 1.0], 4), ([0.3, 0.3, 0.3, 0.3], 40), ([1.0] * 4, 4)],
)
def test_effective_sample_size(rates: list[float], size: int) -> None:
    # Wilson's bounds solve |p' - p| = z sqrt(p (1 - p) / n) for p.
    mean = sum(rates) / len(rates)
    for bound in success_interval(np.array(rates), 0.9, episodes=10):
        assert abs(mean - bound) == pytest.approx(1.6448536 * math.sqrt(bound * (1 - bound) / size), abs=1e-7)


def test_one_unbounded_value_is_its_own_interval() -> None:
    assert mean_interval([-3.5]) == (-3.5, -3.5, -3.5)
    assert mean_interval([-3.5] * 7) == (-3.5, -3.5, -3.5)
    assert mean_interval([0.5], bounded=False) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[-3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
def test_few_skewed_values_at_high_confidence_give_their_whole_range(values: list[float]) -> None:
    # The acceleration's pole lies inside the interval here.
    assert mean_interval(values, 0.999)[1:] == (min(values), max(values))


def test_the_same_input_gives_the_same_interval_whatever_its_type() -> None:
    values = np.random.default_rng(5).normal(size=50)
    assert mean_interval(values) == mean_interval(torch.from_numpy(values)) == mean_interval(values.tolist())
    assert mean_interval(values) != mean_interval(values, seed=1)


def test_large_inputs_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).normal(size=50)
    whole = mean_interval(values, resamples=1001)
    monkeypatch.setattr("metarl.evaluation.statistics.CHUNK", 50 * 100)
    assert mean_interval(values, resamples=1001) == whole


def test_confidence_widens_the_interval() -> None:
    values = np.random.default_rng(7).normal(size=50)
    half, most = mean_interval(values, 0.5), mean_interval(values, 0.99)
    assert most.low < half.low < half.high < most.high


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e200, 1e200), min_size=1, max_size=12))
def test_any_finite_values_give_an_ordered_finite_interval(values: list[float]) -> None:
    mean, low, high = mean_interval(values, resamples=200)
    assert low <= mean <= high
    assert all(math.isfinite(x) for x in (mean, low, high))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([],), "at least one value"),
        ((np.ones((1, 2)),), "one dimension"),
        (([1.0, math.nan],), "1 of 2 values are not finite"),
        (([1.0, 2.0], 95.0), "between 0 and 1"),
        (([1.0, 2.0], 0.95, 0), "at least 1"),
    ],
)
def test_bad_input_is_a_one_line_error(arguments: tuple, text: str) -> None:
    with pytest.raises(MetaRLError, match=text) as caught:
        mean_interval(*arguments)
    assert "\n" not in str(caught.value)


def test_rates_outside_zero_and_one_are_refused() -> None:
    with pytest.raises(MetaRLError, match=r"\[0, 1\], got 0 to 3"):
        mean_interval([0.0, 3.0], bounded=True)


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    # Two-sided 95% and 99% columns of any table of Student's t.
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.975, 4, 2.7764), (0.975, 9, 2.2622)]
    + [(0.975, 30, 2.0423), (0.995, 5, 4.0321), (0.995, 120, 2.6174), (0.975, 100_000, 1.9600), (0.5, 3, 0.0)],
)
def test_student_quantile_against_tables(probability: float, freedom: int, quantile: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=5e-5)


def two_way(seeds: float, tasks: float, rest: float, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Experiments (n, S, M) of mean 0 whose seeds, tasks and pairs of both scatter by these deviations."""
    generator, (count, runs, met) = np.random.default_rng(seed), shape
    by_seed, by_task = generator.normal(0, seeds, (count, runs, 1)), generator.normal(0, tasks, (count, 1, met))
    return by_seed + by_task + generator.normal(0, rest, shape)


@pytest.mark.parametrize(
    ("scatter", "least"),
    [((1.0, 0.0, 0.3), 0.92), ((0.1, 1.0, 1.0), 0.93), ((1.0, 3.0, 3.0), 0.93), ((0.0, 0.0, 1.0), 0.95)],
)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_coverage_over_seeds_and_tasks_together(scatter: tuple[float, float, float], least: float, seeds: int) -> None:
    experiments = two_way(*scatter, (EXPERIMENTS, seeds, 50), seed=16)
    intervals = [crossed_interval([values], resamples=500, seed=i) for i, values in enumerate(experiments)]
    assert sum(low <= 0.0 <= high for _, low, high in intervals) / EXPERIMENTS >= least
    # Over the tasks alone, with as many values, other seeds are forgotten.
    if scatter[0] == 1.0 and scatter[1] == 0.0:
        naive = [mean_interval(values.mean(0), resamples=500) for values in experiments]
        assert sum(low <= 0.0 <= high for _, low, high in naive) / EXPERIMENTS < 0.5


def test_the_coverage_of_a_corrected_interval_over_few_seeds() -> None:
    experiments = two_way(1.0, 4.0, 1.0, (EXPERIMENTS, 2, 100), seed=23)
    intervals = [crossed_interval([values], 0.99, resamples=500, seed=i) for i, values in enumerate(experiments)]
    assert sum(low <= 0.0 <= high for _, low, high in intervals) / EXPERIMENTS >= 0.98


def test_coverage_of_the_difference_of_independent_runs_on_the_same_tasks() -> None:
    ours = two_way(0.5, 0.0, 1.0, (EXPERIMENTS, 5, 50), seed=17)
    theirs = two_way(1.0, 0.0, 1.0, (EXPERIMENTS, 3, 50), seed=18)
    tasks = np.random.default_rng(19).normal(0, 5.0, (EXPERIMENTS, 1, 50))  # hard for both
    pairs = zip(ours + tasks, theirs + tasks, strict=True)
    intervals = [crossed_interval([a, -b], resamples=500) for a, b in pairs]
    assert 0.93 <= sum(low <= 0.0 <= high for _, low, high in intervals) / EXPERIMENTS <= 0.99
    assert (
        np.mean([high - low for _, low, high in intervals]) < 5.0
    )  # 2 * 2.8 * sqrt(1 / 3 + 0.25 / 5), and not the tasks'


def test_pairing_by_seed_removes_what_the_seeds_share() -> None:
    shared = two_way(3.0, 1.0, 0.1, (1, 3, 40), seed=20)[0]
    gain = shared + 0.5 + np.random.default_rng(21).normal(0, 0.1, shared.shape)
    paired, unpaired = crossed_interval([gain - shared]), crossed_interval([gain, -shared])
    assert paired.mean == pytest.approx(unpaired.mean)
    assert 0.3 < paired.low < paired.high < 0.7
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)


def test_one_seed_is_an_interval_over_its_tasks() -> None:
    rates = np.random.default_rng(22).binomial(10, 0.5, (2, 30)) / 10
    assert crossed_interval([rates[:1]], bounded=True, episodes=10) == mean_interval(rates[0], episodes=10)
    assert crossed_interval([rates[:1], -rates[1:]]) == mean_interval(rates[0] - rates[1], bounded=False)


def test_seeds_that_always_succeed_are_not_certainty() -> None:
    assert crossed_interval([np.ones((3, 20))], bounded=True, episodes=10) == mean_interval(np.ones(20), episodes=10)
    mean, low, high = crossed_interval([np.repeat([[0.9], [1.0], [1.0]], 20, 1)], bounded=True)
    assert low < mean < high == 1.0


def test_values_without_seeds_are_refused() -> None:
    for groups in ([], [np.ones(3)]):
        with pytest.raises(MetaRLError, match="in two dimensions"):
            crossed_interval(groups)
