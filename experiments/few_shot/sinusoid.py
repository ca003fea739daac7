"""Sinusoid regression: the protocols of MAML (Finn et al. 2017, arXiv 1703.03400, sec. 5.1) and of Reptile's demo.

A task is y = a sin(x - p) with a in [0.1, 5] and x in [-5, 5]. There are infinitely many tasks: those to test on are
drawn from a stream of their own.

MAML: p in [0, pi], trained with 10 shots, a meta-batch of 25, an inner step of 0.01 and Adam at 1e-3; the error of 5
shots after 1, 5 and 10 gradient steps of the rate that it was trained with. The paper gives 0.67, 0.38 and 0.35, and
2.41, 2.23 and 2.19 for a network pretrained on all tasks, whose step size is tuned: here for the error after 10 steps,
on tasks that are neither trained nor tested on. Both train for the paper's 70,000 iterations, here with a rate that
falls to 0. MAML is measured with inner gradients of norm 50 at most: without a limit one task in some two thousand
diverges in ten steps on five points. (Trained with that limit too, it is worse: 0.43 after 5 steps.) Without adaptation
no network can be expected to be better than 3.01, and the function 0 misses by 4.25. The Transformers' training is
shorter, with a rate that rises before it falls.

Reptile: p in [0, 2 pi], 50 equidistant points in minibatches of 10, an inner step of 0.02, one task per interpolation
of 0.1, which falls to 0; the error on the 50 points after 32 gradient steps on 10 of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from experiments.few_shot.learners import (
    Contender,
    Examples,
    Learner,
    Recipe,
    Track,
    reptile,
    squared_error,
    tuned,
)
from experiments.few_shot.networks import MLP, Transformer
from experiments.few_shot.report import Row
from metarl.evaluation.statistics import Interval, mean_interval

PAPER = "Sinusoids, MAML's protocol: squared error of 5 shots after gradient steps (MAML's paper: 0.67, 0.38, 0.35)"
DEMO = "Sinusoids, Reptile's demo: squared error before and after 32 gradient steps on 10 points"
TEST_TASKS, CHUNK = 2000, 500  # and how many of them are adapted at once, for the memory
HELD_OUT = 1_000_000  # the seeds of test tasks begin here
GRID = torch.linspace(-5.0, 5.0, 50)


def curves(x: torch.Tensor, phase: float, generator: torch.Generator) -> Examples:
    """A sinusoid with a phase up to `phase` for each row of x (M, n)."""
    amplitude, shift = torch.rand(2, len(x), 1, generator=generator).unbind()
    return Examples(x[..., None], ((0.1 + 4.9 * amplitude) * torch.sin(x - phase * shift))[..., None])


def anywhere(phase: float, points: int, generator: torch.Generator, tasks: int) -> Examples:
    """Random points of random sinusoids."""
    return curves(10.0 * torch.rand(tasks, points, generator=generator) - 5.0, phase, generator)


def on_grid(phase: float, points: int, generator: torch.Generator, tasks: int) -> Examples:
    """Different points of the grid, in any order."""
    order = torch.rand(tasks, len(GRID), generator=generator).argsort(-1)[:, :points]
    return curves(GRID[order], phase, generator)


def demo_test(shots: int, generator: torch.Generator, tasks: int) -> Examples:
    """Some points of the grid, and then all of them."""
    order = torch.rand(tasks, len(GRID), generator=generator).argsort(-1)
    return curves(GRID[torch.cat([order[:, :shots], order], -1)], 2 * math.pi, generator)


def errors(learner: Learner, examples: Examples, shots: int, steps: Sequence[int]) -> dict[str, Interval]:
    """Mean squared error over tasks by number of gradient steps, with 95% intervals."""
    parts = [examples.select(slice(start, start + CHUNK)) for start in range(0, len(examples.x), CHUNK)]
    found = [(learner.predictions(part, shots, steps), part.y[:, shots:]) for part in parts]
    return {
        f"{step} step{'s' * (step != 1)}": mean_interval(
            torch.cat([(predictions[step] - y).square().mean((1, 2)) for predictions, y in found]), bounded=False
        )
        for step in steps
    }


CURVE, DEMO_STEPS = (0, 1, 5, 10), (0, 32)
MLP_40, TRANSFORMER = partial(MLP, (1, 40, 40, 1)), partial(Transformer, 1, 1)
GRADIENT, BOTH = "gradient", "gradient and context"
IN_CONTEXT = Contender("in-context Transformer", "context", TRANSFORMER, Recipe(6_000, steps=0, warmup=500))
PAPER_CONTENDERS = (
    Contender(
        "pretrained MLP, fine-tuned",
        GRADIENT,
        MLP_40,
        Recipe(70_000, steps=0),
        steps=CURVE,
        rates=(0.001, 0.002, 0.003, 0.005, 0.01, 0.02),
    ),
    Contender("MAML, MLP", GRADIENT, MLP_40, Recipe(70_000), steps=CURVE, clip=50.0),
    Contender(
        "MAML, Transformer",
        BOTH,
        TRANSFORMER,
        Recipe(2_000, learn_rates=True, warmup=200),
        steps=CURVE,
    ),
    IN_CONTEXT,
)
REPTILE = Recipe(30_000, tasks=1, shots=10, steps=5, rate=0.02, learning_rate=0.1)
DEMO_CONTENDERS = (
    Contender("Reptile, MLP", GRADIENT, partial(MLP, (1, 64, 64, 1), nn.Tanh), REPTILE, reptile, DEMO_STEPS),
    Contender(
        "Reptile, Transformer",
        BOTH,
        TRANSFORMER,
        replace(REPTILE, iterations=2_000),
        reptile,
        DEMO_STEPS,
    ),
    IN_CONTEXT,
)


def rows(quick: bool, seed: int, track: Track) -> Iterator[Row]:
    """Train the contenders one after the other, and give the row of each when it is done."""
    fresh = torch.Generator().manual_seed(HELD_OUT + seed)
    tasks = 50 if quick else TEST_TASKS
    validation = anywhere(math.pi, 5 + 100, fresh, tasks)
    paper, demo = anywhere(math.pi, 5 + 100, fresh, tasks), demo_test(10, fresh, tasks)
    for title, contenders, draw, test, shots in (
        (PAPER, PAPER_CONTENDERS, partial(anywhere, math.pi), paper, 5),
        (DEMO, DEMO_CONTENDERS, partial(on_grid, 2 * math.pi), demo, 10),
    ):
        for one in contenders:
            learner, seconds = one.learner(squared_error, draw, queries=10, seed=seed, track=track, quick=quick)
            if one.rates:
                learner = tuned(learner, one.rates, validation, shots, max(one.steps))
            yield Row(title, one.name, one.family, errors(learner, test, shots, one.steps), seconds, one.record())
