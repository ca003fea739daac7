"""Three families of few-shot learners from one training loop: the meta-gradient of `metarl.algorithms.maml`.

What differs is the network and the number of inner gradient steps:

    MAML                    any network, at least one step
    in-context Transformer  a network that looks at the support, no step
    prototypes              a network that compares with the support, no step
    joint training          a network that does neither, no step

Reptile has a loop of its own. Nothing in `maml`, `reptile` and `adaptation` of `metarl.algorithms` knows whether
its data are episodes or examples.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metarl.algorithms.adaptation import Loss, Parameters, inner_step, step_tasks
from metarl.algorithms.maml import compiled, meta_gradient, meta_loss, reverse
from metarl.algorithms.reptile import interpolate

# Iterations from which on compiling (20 to 60 s on one core) pays for itself.
COMPILE_FROM = 20_000
# Learned rates move in log space, this many times faster than Adam's rate for the parameters.
RATE_FACTOR = 10.0
QUICK = 20  # iterations that show that everything runs


class Examples(NamedTuple):
    """The examples of a task; its first ones are the support. Outside of a network with a leading M (tasks)."""

    x: Tensor  # (..., n, D)
    y: Tensor  # (..., n, C); a class is one-hot

    def select(self, index: slice) -> Examples:
        """Some of the tasks."""
        return Examples(self.x[index], self.y[index])

    def part(self, start: int, stop: int) -> Examples:
        """Some of the examples of each task."""
        return Examples(self.x[..., start:stop, :], self.y[..., start:stop, :])


Sample = Callable[[int], Examples]  # of a number of tasks
Criterion = Callable[[Tensor, Tensor], Tensor]  # of predictions and targets; a scalar
Track = Callable[[str, int], Iterable[int]]  # a range that shows its progress


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error."""
    return (prediction - target).square().mean()


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy of logits and one-hot classes."""
    return -(torch.log_softmax(prediction, -1) * target).sum(-1).mean()


@dataclass(frozen=True)
class Recipe:
    """How a learner is meta-trained; the defaults are those of the MAML paper's sinusoids, except that the
    outer rate falls.

    Attributes:
        iterations: of meta-training. tasks: M per iteration. shots: support examples; Reptile: per minibatch.
        steps: inner gradient steps. rate: of those. learn_rates: one for each tensor, as in Meta-SGD.
        clip: norm limit of the inner gradient.
        learning_rate: of the outer step (Adam's; Reptile: its epsilon), which falls linearly to 0: at a constant one
            the last parameters are a noisy draw, and some draws let a test task diverge.
        warmup: first iterations, in which it rises linearly.
    """

    iterations: int
    tasks: int = 25
    shots: int = 10
    steps: int = 1
    rate: float = 0.01
    learn_rates: bool = False
    clip: float | None = None
    learning_rate: float = 1e-3
    warmup: int = 0

    def outer_rate(self, number: int) -> float:
        """The outer learning rate in an iteration."""
        rise = min(1.0, (number + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * (1 - number / self.iterations)

    @property
    def compile(self) -> bool:
        """Whether compiling pays, and there is a compiler to do it."""
        return self.iterations >= COMPILE_FROM and shutil.which(os.environ.get("CXX", "g++")) is not None


@dataclass(frozen=True)
class Learner:
    """A network, the parameters that it starts a task with, and the rates of its gradient steps."""

    network: nn.Module
    criterion: Criterion
    parameters: Parameters
    rates: Parameters
    clip: float | None = None

    def predictions(self, examples: Examples, shots: int, steps: Iterable[int]) -> dict[int, Tensor]:
        """Of the examples (M, n, .) after the support, (M, n - shots, C), by number of gradient steps taken."""
        inner, _ = losses(self.network, self.criterion, shots)
        gradient_step = partial(inner_step, inner, max_norm=self.clip)
        support, found, adapted = examples.part(0, shots), {}, self.parameters
        wanted = set(steps)

        def predict(parameters: Parameters, task: Examples) -> Tensor:
            return functional_call(self.network, parameters, (*task, shots))[shots:]

        for step in range(max(wanted) + 1):
            if step:
                adapted = step_tasks(gradient_step, adapted, self.rates, support, per_task=step > 1)
            if step in wanted:
                with torch.no_grad():
                    found[step] = vmap(predict, in_dims=(0 if step else None, 0))(adapted, examples)
        return found

    def at_rate(self, rate: float) -> Learner:
        """The same with another rate for all gradient steps."""
        return replace(self, rates={name: torch.tensor(rate) for name in self.parameters})


def untrained(network: nn.Module, criterion: Criterion) -> Learner:
    """A learner with its network's initial parameters: a baseline without meta-training."""
    return Learner(network, criterion, _plain(dict(network.named_parameters())), {})


def losses(network: nn.Module, criterion: Criterion, shots: int) -> tuple[Loss[Examples], Loss[Examples]]:
    """The inner loss, on one task's support, and the outer one, on the examples that follow the support."""

    def inner(parameters: Parameters, support: Examples) -> Tensor:
        return criterion(functional_call(network, parameters, (*support, shots)), support.y)

    def outer(parameters: Parameters, examples: Examples) -> Tensor:
        prediction = functional_call(network, parameters, (*examples, shots))
        return criterion(prediction[shots:], examples.y[shots:])

    return inner, outer


def maml(network: nn.Module, criterion: Criterion, sample: Sample, recipe: Recipe, ticks: Iterable[int]) -> Learner:
    """Adam on the meta-gradient (Finn et al. 2017, arXiv 1703.03400, algorithm 2); no inner step: on the loss itself.

    Args:
        network: of (x, y, shots), see `experiments.few_shot.networks`.
        sample: gives the examples of so many training tasks, more than `recipe.shots` for each.
        ticks: the iterations.
    """
    inner, outer = losses(network, criterion, recipe.shots)
    step = partial(inner_step, inner, max_norm=recipe.clip)

    def task_loss(
        parameters: Parameters, log_rates: Parameters, support: Sequence[Examples], query: Examples
    ) -> Tensor:
        rates = {name: torch.exp(value) for name, value in log_rates.items()}
        return meta_loss(step, outer, parameters, [rates] * len(support), support, query)

    differentiate = functools.cache(compiled) if recipe.compile else reverse
    leaves = _plain(dict(network.named_parameters()))
    log_rates = {name: torch.tensor(recipe.rate).log() for name in leaves} if recipe.steps else {}
    groups = [{"params": list(leaves.values()), "factor": 1.0}]
    if recipe.learn_rates:
        groups.append({"params": list(log_rates.values()), "factor": RATE_FACTOR})
    optimiser = torch.optim.Adam(groups, lr=recipe.learning_rate, fused=True)
    for number in ticks:
        examples = sample(recipe.tasks)
        support = [examples.part(0, recipe.shots)] * recipe.steps
        *gradients, _ = meta_gradient(
            task_loss,
            leaves,
            log_rates,
            support,
            examples,
            tasks=recipe.tasks,
            chunk=recipe.tasks,
            differentiate=differentiate,
        )
        for values, gradient in zip((leaves, log_rates), gradients, strict=True):
            for name, value in gradient.items():
                values[name].grad = value
        for group in optimiser.param_groups:
            group["lr"] = recipe.outer_rate(number) * group["factor"]
        optimiser.step()
    rates = {name: torch.exp(value.detach()) for name, value in log_rates.items()}
    return Learner(network, criterion, _plain(leaves), _plain(rates), recipe.clip)


def reptile(network: nn.Module, criterion: Criterion, sample: Sample, recipe: Recipe, ticks: Iterable[int]) -> Learner:
    """Interpolation towards the parameters after gradient steps on minibatches (Nichol et al. 2018, arXiv 1803.02999).

    Args:
        sample: gives, for so many training tasks, the examples of `recipe.steps` minibatches of `recipe.shots`.
    """
    inner, _ = losses(network, criterion, recipe.shots)
    parameters = _plain(dict(network.named_parameters()))
    rates = {name: torch.tensor(recipe.rate) for name in parameters}
    gradient_step = partial(inner_step, inner, max_norm=recipe.clip)

    def descend(adapted: Parameters, examples: Examples) -> Parameters:
        for step in range(recipe.steps):
            minibatch = examples.part(step * recipe.shots, (step + 1) * recipe.shots)
            adapted = step_tasks(gradient_step, adapted, rates, minibatch, per_task=step > 0)
        return adapted

    if recipe.compile:
        descend = torch.compile(descend)
    for number in ticks:
        adapted = descend(parameters, sample(recipe.tasks))
        parameters = interpolate(parameters, adapted, recipe.outer_rate(number))
    return Learner(network, criterion, parameters, rates, recipe.clip)


@dataclass(frozen=True)
class Contender:
    """A line of a table: how its learner is made, and after how many gradient steps it is measured.

    Attributes:
        family: what adapts. build: makes the network. recipe: None leaves the network as it is made.
        steps: at which it is measured. rates: of those steps, tried on training tasks; none: the recipe's.
        clip: norm limit of the gradient of those steps; None: the recipe's.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    recipe: Recipe | None = None
    train: Callable[[nn.Module, Criterion, Sample, Recipe, Iterable[int]], Learner] = maml
    steps: Sequence[int] = (0,)
    rates: Sequence[float] = ()
    clip: float | None = None

    def learner(
        self,
        criterion: Criterion,
        draw: Callable[[int, torch.Generator, int], Examples],
        *,
        queries: int,
        seed: int,
        track: Track,
        quick: bool = False,
    ) -> tuple[Learner, float]:
        """The learner to measure, and the seconds that its meta-training took.

        Args:
            draw: training tasks, of (examples, generator, tasks).
            queries: for each training task. seed: of the network and the tasks, alike for all contenders.
            quick: only a few iterations.
        """
        torch.manual_seed(seed)
        network, recipe, started = self.build(), self.recipe, time.monotonic()
        if recipe is None:
            return untrained(network, criterion), 0.0
        if quick:
            recipe = replace(recipe, iterations=QUICK)
        examples = recipe.steps * recipe.shots if self.train is reptile else recipe.shots + queries
        sample = partial(draw, examples, torch.Generator().manual_seed(seed))
        learner = self.train(network, criterion, sample, recipe, track(self.name, recipe.iterations))
        spent = time.monotonic() - started
        return (learner if self.clip is None else replace(learner, clip=self.clip)), spent

    def record(self) -> dict[str, Any]:
        """What it is trained with, for the results."""
        measured = {} if self.clip is None else {"measured_clip": self.clip}
        return {"algorithm": self.train.__name__} | asdict(self.recipe) | measured if self.recipe else {}


def tuned(learner: Learner, rates: Sequence[float], examples: Examples, shots: int, step: int) -> Learner:
    """The learner with the one of the rates that gives the lowest loss after so many gradient steps."""

    def loss(candidate: Learner) -> float:
        prediction = candidate.predictions(examples, shots, [step])[step]
        value = float(learner.criterion(prediction, examples.y[:, shots:]))
        return value if math.isfinite(value) else math.inf

    return min((learner.at_rate(rate) for rate in rates), key=loss)


def _plain(values: Parameters) -> Parameters:
    return {name: value.detach().clone() for name, value in values.items()}
