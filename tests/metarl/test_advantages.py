"""Returns, advantages and the linear baseline against their definitions, summed out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.algorithms.advantages import discounted_returns, generalised_advantage, linear_baseline, normalise

M, E, T, D = 2, 3, 7, 3


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ended_early() -> Tensor:
    """Valid steps (M, E, T) of episodes of different lengths, two of them whole."""
    lengths = torch.tensor([[7, 3, 1], [5, 7, 2]])
    return (torch.arange(T) < lengths[..., None]).double()


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_are_discounted_sums(discount: float) -> None:
    reward = random(M, E, T)
    result = discounted_returns(reward, torch.ones_like(reward), discount)
    for t in range(T):
        expected = sum(discount ** (s - t) * reward[..., s] for s in range(t, T))
        torch.testing.assert_close(result[..., t], expected)


@pytest.mark.parametrize("trace", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_advantages_are_the_double_sum(discount: float, trace: float) -> None:
    """Every lambda-weighted n-step advantage, written out episode by episode over its own length."""
    valid = ended_early()
    reward, value = random(M, E, T) * valid, random(M, E, T, seed=1)
    result = generalised_advantage(reward, value, valid, discount, trace)
    for m in range(M):
        for e in range(E):
            length = int(valid[m, e].sum())
            r, v = reward[m, e, :length].numpy(), np.append(value[m, e, :length].numpy(), 0.0)
            for t in range(length):
                deltas = [r[s] + discount * v[s + 1] - v[s] for s in range(t, length)]
                expected = sum((discount * trace) ** k * delta for k, delta in enumerate(deltas))
                assert float(result[m, e, t]) == pytest.approx(expected, abs=1e-12)
            assert bool((result[m, e, length:] == 0).all())


def test_a_trace_of_one_gives_returns_minus_values() -> None:
    reward, value, valid = random(M, E, T), random(M, E, T, seed=1), torch.ones(M, E, T).double()
    result = generalised_advantage(reward, value, valid, 0.9, 1.0)
    torch.testing.assert_close(result, discounted_returns(reward, valid, 0.9) - value)


def features(observation: np.ndarray) -> np.ndarray:
    """The baseline's features of observations (E, T, D), in the order of its docstring."""
    time = np.broadcast_to(np.arange(observation.shape[1])[:, None] / 100.0, (*observation.shape[:2], 1))
    return np.concatenate([observation, observation**2, time, time**2, time**3, np.ones_like(time)], -1)


def test_the_linear_baseline_recovers_a_linear_value() -> None:
    """Each task its own weights; the steps after an early end hold nonsense that must not count."""
    observation = random(M, 12, T, D)
    valid = torch.ones(M, 12, T).double()
    valid[:, ::3, 4:] = 0.0
    weights = random(M, 2 * D + 4, seed=3)
    returns = torch.stack([torch.from_numpy(features(observation[m].numpy())) @ weights[m] for m in range(M)])
    spoiled = torch.where(valid > 0, returns, 1e3)
    fitted = linear_baseline(observation, spoiled, valid, ridge=1e-9)
    torch.testing.assert_close(fitted * valid, returns * valid, atol=1e-3, rtol=1e-3)


def test_the_linear_baseline_is_ridge_regression() -> None:
    observation, returns = random(M, 12, T, D), random(M, 12, T, seed=4)
    valid = torch.ones(M, 12, T).double()
    valid[1, :5, 3:] = 0.0
    for ridge in (1e-5, 2.0):
        fitted = linear_baseline(observation, returns, valid, ridge=ridge)
        for m in range(M):
            rows = features(observation[m].numpy())
            mask = valid[m].numpy() > 0
            # Ridge regression is plain least squares with one more row for each weight.
            a = np.concatenate([rows[mask], np.sqrt(ridge) * np.eye(rows.shape[-1])])
            b = np.concatenate([returns[m].numpy()[mask], np.zeros(rows.shape[-1])])
            expected = rows @ np.linalg.lstsq(a, b, rcond=None)[0]
            np.testing.assert_allclose(fitted[m].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_linear_baseline_stays_finite_where_nothing_can_be_fitted() -> None:
    observation = torch.full((M, E, T, D), 1e12)
    observation[0] = 0.0
    nothing = torch.zeros(M, E, T)
    assert bool((linear_baseline(observation, torch.ones(M, E, T), nothing) == 0).all())
    fitted = linear_baseline(observation, torch.ones(M, E, T), torch.ones(M, E, T))
    torch.testing.assert_close(fitted, torch.ones(M, E, T), atol=0.05, rtol=0.0)
    assert fitted.dtype == torch.float32


def test_the_linear_baseline_raises_the_ridge_until_it_can_solve() -> None:
    """A singular task (all steps alike, no ridge) is solved too, and to the only value that its data allow."""
    fitted = linear_baseline(torch.zeros(1, 2, 1, D), torch.tensor([[[2.0], [4.0]]]), torch.ones(1, 2, 1), ridge=1e-300)
    assert bool(torch.isfinite(fitted).all())
    torch.testing.assert_close(fitted, torch.full((1, 2, 1), 3.0), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("dims", [(1, 2), (0, 1, 2)])
def test_normalised_advantages_have_mean_0_and_deviation_1(dims: tuple[int, ...]) -> None:
    valid = ended_early()
    advantage = 5.0 + 3.0 * random(M, E, T) + 10.0 * torch.arange(M).double()[:, None, None]
    result = normalise(advantage, valid, dims)
    groups = range(M) if dims == (1, 2) else [slice(None)]
    for m in groups:
        chosen = result[m][valid[m] > 0]
        raw = advantage[m][valid[m] > 0]
        torch.testing.assert_close(chosen, (raw - raw.mean()) / raw.std(unbiased=False))
    assert bool((result[valid == 0] == 0).all())


def test_normalising_equal_or_missing_advantages_gives_zeros() -> None:
    valid = ended_early()
    assert bool((normalise(torch.full((M, E, T), 3.0).double(), valid, (1, 2)) == 0).all())
    assert bool((normalise(random(M, E, T), torch.zeros(M, E, T).double(), (1, 2)) == 0).all())
