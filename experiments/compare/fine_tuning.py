"""Fine-tuning of a policy that was not trained for it: the ways, and how the settings of each are chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor
from torch.func import grad, vmap

from metarl.algorithms.adaptation import Parameters, clip_by_norm
from metarl.algorithms.in_context import InContext
from metarl.algorithms.objectives import clipped_surrogate
from metarl.assembly.build import stream_seed
from metarl.assembly.opened import Run
from metarl.errors import NotFiniteError, RunFolderError
from metarl.evaluation.curve import adaptation_rounds
from metarl.rollouts.episodes import Batch

STEPS = 3  # by default: the rounds of episodes that it learns from
CLIP = 1.0  # limit of the gradient's norm
VALIDATION_TASKS = 20  # on which the settings are chosen
CLIP_RANGE = 0.2  # of PPO's probability ratio
TOGETHER = 10  # tasks whose gradients are in memory at once
BETAS, EPSILON = (0.9, 0.999), 1e-5  # Adam's

Choice = Mapping[str, float]  # settings of fine-tuning by name


class Way(NamedTuple):
    """How to fine-tune.

    Args:
        grid: the settings that are tried. apply: the run with such settings and so many steps.
    """

    grid: tuple[Choice, ...]
    apply: Callable[[Run, Choice, int], Run]


def fine_tuned(run: Run, way: str, console: Console, steps: int = STEPS) -> Run:
    """The run with the settings that give the greatest return on validation tasks; the choice is stored.

    It is the return because that is what the gradient climbs: by success, one more or less among hundreds of failures
    would choose rates that ruin the policy. A new choice discards the evaluations that were made with the last one.
    """
    method = METHODS[way]
    try:
        earlier = run.folder.read_evaluation("fine_tuning")
    except RunFolderError:
        earlier = {}
    wanted = {"iteration": run.iteration, "steps": steps, "clip": CLIP, "split": "validation", "way": way}
    grid = earlier.get("grid", [])
    tried = tuple(settings_in(entry) for entry in grid)
    if tried != method.grid or any(earlier.get(key) != value for key, value in wanted.items()):
        console.print(f"choosing the settings of fine-tuning by {way} on {VALIDATION_TASKS} validation tasks")
        outcomes = [(choice, outcome(method.apply(run, choice, steps))) for choice in method.grid]
        grid = [dict(choice) | {"success": value[0], "return": value[1]} for choice, value in outcomes]
    best = settings_in(max(grid, key=lambda entry: entry["return"]))
    chosen = wanted | best | {"grid": grid}
    if chosen != earlier:
        for split in ("test", "ood"):
            (run.folder.path / "evaluation" / f"{split}.json").unlink(missing_ok=True)
        run.folder.write_evaluation("fine_tuning", chosen)
    return method.apply(run, best, steps)


def settings_in(entry: Mapping[str, Any]) -> dict[str, float]:
    """What of a stored choice, or of an entry of its grid, are settings."""
    return {name: entry[name] for name in ("rate", "passes") if name in entry}


def described(choice: Mapping[str, Any]) -> str:
    """A stored choice in words."""
    told = ", ".join(f"{name} {value:g}" for name, value in settings_in(choice).items())
    return f"{told}, gradient norm at most {choice['clip']:g}"


def outcome(run: Run) -> tuple[float, float]:
    """Success at the end and return on validation tasks after the last step; minus infinity if they are not finite."""
    settings, protocol = run.settings, run.settings.evaluate
    tasks, seed = min(VALIDATION_TASKS, protocol.tasks), stream_seed(settings.seed, "evaluation")
    env = run.environment(tasks * protocol.episodes_per_step, seed, settings.threads)
    generator, steps = torch.Generator().manual_seed(seed + 1), run.learner.settings.inner.steps
    chosen = run.held_out("validation", tasks)
    try:
        rounds, _ = adaptation_rounds(env, run.policy, run.learner, chosen, steps, generator)
    except NotFiniteError:  # the rate is far too large
        return -math.inf, -math.inf
    last = rounds[-1]
    return float(last.success_at_end.double().mean()), float(last.returns.double().mean())


class GradientDescent(InContext):
    """Plain gradient steps on the inner loss at one rate, a few tasks at a time."""

    def adapt(self, adapted: Parameters | None, batch: Batch) -> Parameters:
        def some(part: slice) -> Parameters:
            before = None if adapted is None else {name: value[part] for name, value in adapted.items()}
            return super(GradientDescent, self).adapt(before, batch.select(part))

        return joined([some(part) for part in parts(len(batch.tokens))])


class PPOFineTuning(InContext):
    """Several passes of Adam over each round of a task's episodes, on PPO's clipped surrogate.

    Its advantages are those of the inner loss: at deployment there is only feedback, and no critic knows its value.
    Adam's memory lasts as long as the task: it begins anew with parameters that have not adapted.

    Args:
        passes: over the episodes of a round.
    """

    passes = 1

    def adapt(self, adapted: Parameters | None, batch: Batch) -> Parameters:
        tasks = len(batch.tokens)
        if adapted is None:
            start = {name: self.parameters[name].detach() for name in self.rate_parameters}
            adapted = {name: value.expand(tasks, *value.shape).clone() for name, value in start.items()}
            self._taken, self._moments = 0, tuple({k: torch.zeros_like(v) for k, v in adapted.items()} for _ in BETAS)
        for _ in range(self.passes):
            gradients = [self._gradient(adapted, batch, part) for part in parts(tasks)]
            adapted = self._adam(adapted, joined(gradients))
        return adapted

    def _gradient(self, adapted: Parameters, batch: Batch, part: slice) -> Parameters:
        """That of some tasks, each clipped."""

        def loss(parameters: Parameters, data: Batch) -> Tensor:
            seen = data._replace(advantage=data.inner_advantage)
            return clipped_surrogate(self.outputs(parameters, data), seen, CLIP_RANGE)

        def one(parameters: Parameters, data: Batch) -> Parameters:
            return clip_by_norm(grad(loss)(parameters, data), self.settings.inner.max_grad_norm)

        with torch.no_grad():
            return vmap(one)({name: value[part] for name, value in adapted.items()}, batch.select(part))

    def _adam(self, parameters: Parameters, gradient: Parameters) -> Parameters:
        """A step for all tasks (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1)."""
        self._taken += 1
        unbiased, powers = [], (gradient, {name: value.square() for name, value in gradient.items()})
        for beta, memory, power in zip(BETAS, self._moments, powers, strict=True):
            for name, value in memory.items():
                value.lerp_(power[name], 1 - beta)
            unbiased.append({name: value / (1 - beta**self._taken) for name, value in memory.items()})
        mean, square, rate = *unbiased, self.settings.inner.rate
        return {name: value - rate * mean[name] / (square[name].sqrt() + EPSILON) for name, value in parameters.items()}


def parts(tasks: int) -> list[slice]:
    """The tasks, a few at a time."""
    return [slice(first, first + TOGETHER) for first in range(0, tasks, TOGETHER)]


def joined(each: list[Parameters]) -> Parameters:
    """Parameters of all tasks (M, ...) from those of a few at a time."""
    return {name: torch.cat([one[name] for one in each]) for name in each[0]}


def by_gradient_descent(run: Run, choice: Choice, steps: int) -> Run:
    return dataclasses.replace(run, learner=_learner(GradientDescent, run, choice["rate"], steps))


def by_ppo(run: Run, choice: Choice, steps: int) -> Run:
    learner = _learner(PPOFineTuning, run, choice["rate"], steps)
    learner.passes = int(choice["passes"])
    return dataclasses.replace(run, learner=learner)


def _learner(kind: type[Any], run: Run, rate: float, steps: int) -> Any:
    settings = run.learner.settings
    inner = settings.inner.model_copy(update={"rate": rate, "steps": steps, "max_grad_norm": CLIP})
    return kind(run.policy, settings.model_copy(update={"inner": inner}), torch.Generator())


METHODS = {
    "sgd": Way(tuple({"rate": rate} for rate in (1e-3, 1e-2, 1e-1, 1.0)), by_gradient_descent),
    "ppo": Way(
        tuple({"rate": rate, "passes": passes} for rate in (1e-4, 3e-4, 1e-3, 3e-3) for passes in (4, 16)), by_ppo
    ),
}
