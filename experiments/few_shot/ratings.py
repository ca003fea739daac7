"""Preference prediction for unseen users, on ratings that are made here.

A task is a user: k rated items are the support, other items the queries. A rating is

    b_i + u . v_i + noise      v_i ~ N(0, I / rank), u ~ N(0, I), b_i ~ N(0, 0.5^2), noise ~ N(0, 0.3^2)

for 50 items of rank 4. The users to train on and those to test on are different rows of one table. A learner is told
which item it is (one-hot), never v_i or u. Given v and b, ridge regression with the noise's variance as penalty is the
posterior mean of u, so that no learner can be better in expectation: it is the bound. The in-context
Transformer's gain and rate were tried on another table, of another seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.few_shot.learners import Contender, Examples, Recipe, Track, reptile, squared_error
from experiments.few_shot.networks import MLP, Transformer
from experiments.few_shot.report import Row
from metarl.evaluation.statistics import mean_interval

ITEMS, RANK, NOISE, BIAS = 50, 4, 0.3, 0.5
SCALE = ITEMS**0.5  # of the one-hot inputs, so that their squares sum to what unit variance gives
TRAIN_USERS, TEST_USERS = 2000, 600
SHOTS, QUERIES = 10, 20
HELD_OUT = 1_000_000  # the seeds of test tasks begin here
TITLE = f"Ratings, users never trained on, {SHOTS} known ratings: squared error on the other items"
MAML = Recipe(3_000, shots=SHOTS, steps=3, rate=0.05, learn_rates=True)
REPTILE = Recipe(3_000, tasks=5, shots=SHOTS, steps=5, rate=0.05, learning_rate=0.5)
IN_CONTEXT = Recipe(6_000, shots=SHOTS, steps=0, learning_rate=2e-3, warmup=200)


class World(NamedTuple):
    """The table of ratings, and what only the bound may know."""

    ratings: Tensor  # (users, items); the first TRAIN_USERS are for training
    factors: Tensor  # (items, rank)
    bias: Tensor  # (items,)


def world(generator: torch.Generator) -> World:
    """A table of all users' ratings of all items."""

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    factors, bias = normal(ITEMS, RANK) / RANK**0.5, BIAS * normal(ITEMS)
    users = normal(TRAIN_USERS + TEST_USERS, RANK)
    return World(bias + users @ factors.T + NOISE * normal(len(users), ITEMS), factors, bias)


def rated(ratings: Tensor, items: int, generator: torch.Generator) -> Examples:
    """Examples of different random items for each user; `ratings` is (M, items)."""
    item = torch.rand(len(ratings), ITEMS, generator=generator).argsort(-1)[:, :items]
    return Examples(SCALE * nn.functional.one_hot(item, ITEMS).float(), ratings.gather(-1, item)[..., None])


def some_users(ratings: Tensor, items: int, generator: torch.Generator, tasks: int) -> Examples:
    """Examples of random users."""
    return rated(ratings[torch.randint(len(ratings), (tasks,), generator=generator)], items, generator)


class ItemMean(nn.Module):
    """The mean rating that the training users gave the item, whoever asks."""

    mean: Tensor  # (items, 1)

    def __init__(self, ratings: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", ratings.mean(0)[:, None])

    def forward(self, x: Tensor, y: Tensor, shots: int) -> Tensor:
        return x @ self.mean / SCALE


class Ridge(nn.Module):
    """Ridge regression on given factors and biases: u = (V^T V + s^2 I)^-1 V^T (y - b)."""

    factors: Tensor  # (items, rank)
    bias: Tensor  # (items, 1)

    def __init__(self, factors: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors)
        self.register_buffer("bias", bias[:, None])

    def forward(self, x: Tensor, y: Tensor, shots: int) -> Tensor:
        features, offset = x @ self.factors / SCALE, x @ self.bias / SCALE
        known, rest = features[:shots], (y - offset)[:shots]
        penalty = NOISE**2 * torch.eye(features.shape[-1])
        return offset + features @ torch.linalg.solve(known.mT @ known + penalty, known.mT @ rest)


def contenders(known: World) -> tuple[Contender, ...]:
    """The contenders; only the bound sees more of the world than the training users' ratings."""
    mlp = partial(MLP, (ITEMS, 64, 64, 1))
    return (
        Contender("item mean", "none", partial(ItemMean, known.ratings[:TRAIN_USERS])),
        Contender("MAML, MLP, 10 steps", "gradient", mlp, MAML, steps=(10,)),
        Contender("Reptile, MLP, 10 steps", "gradient", mlp, REPTILE, reptile, steps=(10,)),
        Contender("in-context Transformer", "context", partial(Transformer, ITEMS, 1, gain=1 / SCALE), IN_CONTEXT),
        Contender("ridge on the true factors: the bound", "oracle", partial(Ridge, known.factors, known.bias)),
    )


def rows(quick: bool, seed: int, track: Track) -> Iterator[Row]:
    """Train the contenders one after the other, and give the row of each when it is done."""
    known = world(torch.Generator().manual_seed(seed))
    train, unseen = known.ratings[:TRAIN_USERS], known.ratings[TRAIN_USERS:]
    test = rated(unseen[: 50 if quick else TEST_USERS], ITEMS, torch.Generator().manual_seed(HELD_OUT + seed))
    for one in contenders(known):
        draw = partial(some_users, train)
        learner, seconds = one.learner(squared_error, draw, queries=QUERIES, seed=seed, track=track, quick=quick)
        (prediction,) = learner.predictions(test, SHOTS, one.steps).values()
        error = (prediction - test.y[:, SHOTS:]).square().mean((1, 2))
        yield Row(
            TITLE, one.name, one.family, {"squared error": mean_interval(error, bounded=False)}, seconds, one.record()
        )
