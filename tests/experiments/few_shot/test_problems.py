"""The tasks: their ranges, and that nothing that is tested on was trained on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from experiments.few_shot import digits, ratings, sinusoid
from experiments.few_shot.learners import Examples, squared_error, untrained


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_sinusoids_lie_in_their_ranges() -> None:
    x, y = sinusoid.anywhere(math.pi, 200, generator(), 300)
    assert float(x.min()) < -4.9 and float(x.max()) > 4.9 and float(x.abs().max()) <= 5.0
    peak = y.abs().amax((1, 2))
    assert 0.0 < float(peak.min()) < 0.3 and 4.5 < float(peak.max()) <= 5.0
    # y = a sin(x - p) = c sin x + s cos x, from which least squares has the phase p.
    basis = torch.cat([x.sin(), x.cos()], -1)
    c, s = torch.linalg.lstsq(basis, y).solution[..., 0].unbind(-1)
    phase = torch.atan2(-s, c)
    assert -1e-3 <= float(phase.min()) < 0.1 and 3.0 < float(phase.max()) <= math.pi + 1e-3


def test_the_demo_asks_for_the_whole_grid() -> None:
    x, y = sinusoid.demo_test(10, generator(), 4)
    for points, values in zip(x[..., 0], y[..., 0], strict=True):
        assert len(set(points[:10].tolist())) == 10
        assert torch.equal(points[10:].sort().values, sinusoid.GRID)
        place = {float(p): float(v) for p, v in zip(points[10:], values[10:], strict=True)}
        assert [place[float(p)] for p in points[:10]] == values[:10].tolist()


def test_every_digit_is_unseen_in_two_splits_and_never_seen_there() -> None:
    splits = [digits.split(number) for number in range(digits.SPLITS)]
    for seen, unseen in splits:
        assert not set(seen) & set(unseen) and set(seen) | set(unseen) == set(range(10)) and len(unseen) == 4
    counts = torch.tensor([digit for _, unseen in splits for digit in unseen]).bincount()
    assert counts.tolist() == [2] * 10


def test_episodes_are_balanced_and_have_no_image_twice() -> None:
    pool = torch.arange(5.0 * 20).view(5, 20, 1)  # an image is its number
    x, y = digits.episodes(pool, 12, generator(), 30)
    label, number = y.argmax(-1), x[..., 0].long()
    for task in range(30):
        assert len(set(number[task].tolist())) == 12
        for start in range(0, 12, digits.WAYS):
            assert sorted(label[task, start : start + digits.WAYS].tolist()) == [0, 1, 2]
        classes = [set((number[task] // 20)[label[task] == one].tolist()) for one in range(3)]
        assert [len(found) for found in classes] == [1, 1, 1] and len(set.union(*classes)) == 3
    assert len({tuple(row) for row in label.tolist()}) > 20, "the order of the labels never changes"
    first = {int(number[task][label[task] == 0][0]) // 20 for task in range(30)}
    assert len(first) > 3, "a class has the same label every time"


def test_symmetries_are_eight_classes_and_the_first_is_the_image() -> None:
    pool = torch.rand(2, 3, 64, generator=generator())
    turned = digits.symmetries(pool)
    assert turned.shape == (16, 3, 64)
    assert torch.equal(turned[:2], pool)
    assert len({tuple(image.tolist()) for image in turned[:, 0]}) == 16
    torch.testing.assert_close(turned.sum(-1), pool.sum(-1).repeat(8, 1))


def test_no_digit_is_trained_and_tested_on_in_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image of a digit is filled with its number, and what is drawn is written down."""
    pool = torch.arange(10.0)[:, None, None].expand(10, 174, 64)
    drawn: list[tuple[int, set[float]]] = []
    draw = digits.episodes

    def noted(pool: Tensor, examples: int, generator: torch.Generator, tasks: int) -> Examples:
        drawn.append((len(pool), set(pool.unique().tolist())))
        return draw(pool, examples, generator, tasks)

    monkeypatch.setattr(digits, "images", lambda: pool)
    monkeypatch.setattr(digits, "episodes", noted)
    monkeypatch.setattr("experiments.few_shot.learners.QUICK", 1)
    rows = digits.rows(True, 0, lambda title, iterations: range(iterations))
    for _ in range(5):  # without training, from scratch, prototypes, Transformer
        next(rows)
    trained = [found for classes, found in drawn if classes == 48]
    tested = [found for classes, found in drawn if classes == 4]
    assert len(trained) >= 4 and len(tested) == 10
    assert {frozenset(found) for found in tested} == {frozenset({0, 1, 2, 3}), frozenset({4, 5, 6, 7})}
    assert {frozenset(found) for found in trained} == {frozenset({4, 5, 6, 7, 8, 9}), frozenset({0, 1, 2, 3, 8, 9})}
    assert len(drawn) == len(trained) + len(tested)


def test_the_digits_are_the_bundled_ones() -> None:
    pool = digits.images()
    assert pool.shape == (10, 174, 64)
    assert float(pool.min()) == 0.0 and float(pool.max()) == 1.0


def error(module: torch.nn.Module, test: Examples) -> float:
    prediction = untrained(module, squared_error).predictions(test, ratings.SHOTS, [0])[0]
    return float(squared_error(prediction, test.y[:, ratings.SHOTS :]))


def test_ridge_on_the_true_factors_is_the_bound() -> None:
    known = ratings.world(generator())
    test = ratings.rated(known.ratings[ratings.TRAIN_USERS :], ratings.ITEMS, generator())
    bound = error(ratings.Ridge(known.factors, known.bias), test)
    # Bayes: noise^2 + v^T S v, with S = s^2 (V^T V + s^2 I)^-1 the posterior covariance of each user.
    features = test.x / ratings.SCALE @ known.factors
    support, query = features[:, : ratings.SHOTS], features[:, ratings.SHOTS :]
    penalty = ratings.NOISE**2 * torch.eye(ratings.RANK)
    spread = ratings.NOISE**2 * torch.linalg.inv(support.mT @ support + penalty)
    expected = ratings.NOISE**2 + float((query @ spread * query).sum(-1).mean())
    assert bound == pytest.approx(expected, rel=0.03)
    assert error(ratings.ItemMean(known.ratings[: ratings.TRAIN_USERS]), test) > 4 * bound
    shift = 0.3 * torch.randn(ratings.ITEMS, ratings.RANK, generator=torch.Generator().manual_seed(1))
    for factors, bias in ((known.factors + shift, known.bias), (known.factors, known.bias + shift[:, 0])):
        assert error(ratings.Ridge(factors, bias), test) > 1.1 * bound


def test_users_are_tested_on_whom_nobody_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users to train on give 0 everywhere, those to test on 1: the item mean misses by exactly 1."""
    known = ratings.world(generator())
    table = torch.zeros_like(known.ratings)
    table[ratings.TRAIN_USERS :] = 1.0
    monkeypatch.setattr(ratings, "world", lambda generator: known._replace(ratings=table))
    monkeypatch.setattr("experiments.few_shot.learners.QUICK", 100)
    rows = ratings.rows(True, 0, lambda title, iterations: range(iterations))
    assert next(rows).cells["squared error"].mean == 1.0


def test_a_user_rates_different_items() -> None:
    known = ratings.world(generator())
    x, y = ratings.rated(known.ratings[:7], ratings.ITEMS, generator())
    item = x.argmax(-1)
    assert torch.equal(item.sort(-1).values, torch.arange(ratings.ITEMS).expand(7, -1))
    assert torch.equal(known.ratings[:7].gather(-1, item), y[..., 0])
