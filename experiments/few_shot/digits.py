"""Few-shot classification of unseen classes: scikit-learn's handwritten digits (1797 images of 8 x 8, ten classes).

An episode draws N classes and asks for the class of its queries after k labelled images of each; which class has which
label is random. Six digits are for training, and so is each of them turned and mirrored, as a class of its own; the
other four are only met in the test. Five such splits leave every digit out twice, and a row pools their episodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from experiments.few_shot.learners import Contender, Examples, Recipe, Track, cross_entropy, reptile, tuned
from experiments.few_shot.networks import NearestNeighbour, Prototypes, Transformer, Windows
from experiments.few_shot.report import Row
from metarl.errors import MetaRLError, install
from metarl.evaluation.statistics import mean_interval

WAYS, QUERIES = 3, 10  # classes of an episode, queries of each
CLASSES, UNSEEN = 10, 4
SPLITS, EPISODES = 5, 200  # test episodes of each split
SIDE = 8  # pixels
ITERATIONS = 300
RATES = (0.03, 0.1, 0.3, 1.0)  # of training from scratch, tried on training episodes
HELD_OUT = 1_000_000  # the seeds of test episodes begin here


class MissingPackage(MetaRLError):
    """A package of an extra is not installed."""


try:
    from sklearn.datasets import load_digits
except ImportError:
    raise MissingPackage(f"digits needs scikit-learn: {install('few_shot')}") from None


def images() -> Tensor:
    """(10, 174, 64), pixels in [0, 1]: as many of every digit as there are of the rarest."""
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    rarest = int(labels.bincount().min())
    return torch.stack([pixels[labels == digit][:rarest] for digit in range(CLASSES)]).float() / 16.0


def split(number: int) -> tuple[list[int], list[int]]:
    """The digits to train on, and those to test on: 0-3, 4-7, 8-1, 2-5, 6-9."""
    unseen = [(UNSEEN * number + i) % CLASSES for i in range(UNSEEN)]
    return [digit for digit in range(CLASSES) if digit not in unseen], unseen


def episodes(pool: Tensor, examples: int, generator: torch.Generator, tasks: int) -> Examples:
    """Examples of N classes, no image twice. Each run of N examples has one of each class, in any order.

    Args:
        pool: (classes, images, pixels). examples: of each task; a multiple of N.
    """
    classes, images, _ = pool.shape
    rounds = examples // WAYS
    chosen = torch.rand(tasks, classes, generator=generator).argsort(-1)[:, None, :WAYS].expand(-1, rounds, -1)
    image = torch.rand(tasks, WAYS, images, generator=generator).topk(rounds, -1).indices.mT  # (M, rounds, N)
    label = torch.rand(tasks, rounds, WAYS, generator=generator).argsort(-1)
    pixels = pool[chosen.gather(-1, label), image.gather(-1, label)]
    return Examples(pixels.flatten(1, 2), nn.functional.one_hot(label.flatten(1), WAYS).to(pool.dtype))


def correct(prediction: Tensor, target: Tensor) -> Tensor:
    """(M,): the share of each episode's queries whose class is found."""
    return (prediction.argmax(-1) == target.argmax(-1)).float().mean(-1)


def symmetries(pool: Tensor) -> Tensor:
    """Every class in the eight symmetries of the square, each of which is a class of its own: (8 C, images, pixels)."""
    square = pool.unflatten(-1, (SIDE, SIDE))
    turned = [torch.rot90(image, turns, (-2, -1)) for image in (square, square.mT) for turns in range(4)]
    return torch.cat(turned).flatten(2)


def contenders(shots: int) -> tuple[Contender, ...]:
    """The contenders for episodes with so many images of each class."""
    recipe = Recipe(ITERATIONS, shots=shots * WAYS, steps=0)
    network = partial(Windows, SIDE, WAYS)
    stepping = replace(recipe, steps=3, rate=0.1, learn_rates=True)
    descending = replace(recipe, tasks=5, shots=5 * WAYS, steps=4, rate=0.1, learning_rate=0.5)
    # Without a gradient step or a metric there is more to learn.
    reading = replace(recipe, iterations=5 * ITERATIONS, learning_rate=2e-3, warmup=150)
    return (
        Contender("nearest neighbour, pixels", "none", NearestNeighbour),
        Contender("nearest class mean, pixels", "none", partial(Prototypes, nn.Identity())),
        Contender("from scratch, 50 steps", "none", network, steps=(50,), rates=RATES),
        Contender("prototypes", "metric", lambda: Prototypes(Windows(SIDE, 64)), recipe),
        Contender("in-context Transformer", "model", partial(Transformer, SIDE**2, WAYS, gain=0.25), reading),
        Contender("MAML, 10 steps", "optimisation", network, stepping, steps=(10,)),
        Contender("Reptile, 50 steps", "optimisation", network, descending, reptile, steps=(50,)),
    )


def rows(quick: bool, seed: int, track: Track) -> Iterator[Row]:
    """Train each contender on every split, and give its row when all are done."""
    pool = images()
    splits, count = (2, 20) if quick else (SPLITS, EPISODES)
    for shots in (1, 5):
        title = f"Digits, {WAYS} classes never trained on, {shots} images of each: accuracy"
        support, length = shots * WAYS, (shots + QUERIES) * WAYS
        for one in contenders(shots):
            found, seconds = [], 0.0
            for number in range(splits):
                seen, unseen = split(number)
                training = symmetries(pool[seen])
                learner, spent = one.learner(
                    cross_entropy,
                    partial(episodes, training),
                    queries=5 * WAYS,
                    seed=seed,
                    track=track,
                    quick=quick,
                )
                fresh = torch.Generator().manual_seed(HELD_OUT + seed)
                if one.rates:
                    learner = tuned(learner, one.rates, episodes(training, length, fresh, count), support, *one.steps)
                test = episodes(pool[unseen], length, fresh, count)
                (prediction,) = learner.predictions(test, support, one.steps).values()
                found.append(correct(prediction, test.y[:, support:]))
                seconds += spent
            episodes_of = QUERIES * WAYS
            cells = {
                "accuracy": mean_interval(torch.cat(found), bounded=True, episodes=episodes_of),
                "worst split": mean_interval(min(found, key=Tensor.mean), bounded=True, episodes=episodes_of),
            }
            yield Row(title, one.name, one.family, cells, seconds, one.record())
