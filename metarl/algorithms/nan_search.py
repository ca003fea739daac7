"""Which number broke first: the search after an update that was skipped because something was not finite.

Training itself looks at one norm for each update, which costs nothing. Only when that is not finite does this search
follow the update again, one task after the other and in the order of causes: parameters, then the data of each round
and the inner gradients on it, then the outer gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from metarl.algorithms.adaptation import Loss, Parameters, inner_step
from metarl.algorithms.learner import Learner
from metarl.rollouts.episodes import Batch


class Culprit(NamedTuple):
    """A sentence with a place `{task}` for the name of the task, and that task's number if it is about one."""

    sentence: str
    task: int | None = None

    def text(self, tasks: Sequence[str]) -> str:
        """The sentence, given the names of all tasks."""
        return self.sentence.replace("{task}", "" if self.task is None else tasks[self.task])


UNKNOWN = Culprit("something was not finite, but every part of it is when it is computed again task by task")


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all entries are finite; one sum for each tensor tells."""
    return all(bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all()) for value in tensors.values())


def find_culprit(
    learner: Learner,
    policy: Mapping[str, Tensor],
    log_rates: Parameters,
    rounds: Sequence[Batch],
    index: Tensor | None = None,
) -> Culprit:
    """What is not finite in an update of the learner, or what came to be so first.

    Args:
        policy: the parameters and buffers that the update began with.
        log_rates: the learned rates that it began with.
        rounds: its data (M, E, T, ...).
        index: the minibatch, as numbers of the learner's `entries`; None: all of them.
    """
    parameters = {name: policy[name].detach() for name in learner.parameters}
    return next(_search(learner, policy, parameters, log_rates, rounds, index), UNKNOWN)


def find_inner_culprit(learner: Learner, adapted: Parameters | None, batch: Batch) -> Culprit:
    """What is not finite in the learner's inner step from `adapted` (M, ...) on `batch` (M, E, ...)."""

    def search() -> Iterator[Culprit]:
        own = {name: value.detach() for name, value in learner.parameters.items()}
        yield from _values(own, learner.rates())
        yield from _data(learner, batch, "")
        for m in range(len(batch.tokens)):
            start = own | {name: value[m] for name, value in (adapted or {}).items()}
            yield from _gradient(grad(_inner_loss(learner, start))(_moving(learner, start), batch.select(m)), m, "")

    return next(search(), UNKNOWN)


def find_data_culprit(learner: Learner, rounds: Sequence[Batch]) -> Culprit:
    """What is not finite in the data (M, E, T, ...) of an iteration."""
    return next((culprit for batch in rounds for culprit in _data(learner, batch, "")), UNKNOWN)


def _search(
    learner: Learner,
    policy: Mapping[str, Tensor],
    parameters: Parameters,
    log_rates: Parameters,
    rounds: Sequence[Batch],
    index: Tensor | None,
) -> Iterator[Culprit]:
    """Everything that is not finite, in the order of causes; computed only as far as it is asked for."""
    yield from _values(policy, {name: torch.exp(value) for name, value in log_rates.items()})
    inner, tasks = learner.settings.inner, range(len(rounds[0].tokens))
    adapted = [parameters for _ in tasks]
    steps = len(learner.support(rounds))
    for number, batch in enumerate(rounds):
        yield from _data(learner, batch, f", round {number}" if len(rounds) > 1 else "")
        if number >= steps:
            continue
        factor = inner.later_rate if number else 1.0
        rates = {name: torch.exp(value) * factor for name, value in log_rates.items()}
        for m in tasks:
            loss, moving, data = _inner_loss(learner, adapted[m]), _moving(learner, adapted[m]), batch.select(m)
            yield from _gradient(grad(loss)(moving, data), m, f" (step {number + 1})")
            adapted[m] = adapted[m] | inner_step(loss, moving, rates, data, clip=inner.clip)
    if steps < len(rounds):
        yield from _outer(learner, parameters, log_rates, rounds, index)


def _outer(
    learner: Learner, parameters: Parameters, log_rates: Parameters, rounds: Sequence[Batch], index: Tensor | None
) -> Iterator[Culprit]:
    """Gradients of what each entry of the minibatch adds to the outer loss, and of their sum."""
    entries = learner.entries(rounds)
    size, tasks = len(entries[0].tokens), len(rounds[0].tokens)
    total: Parameters = {}
    for entry in range(size) if index is None else index.tolist():
        data = [batch.select(entry) for batch in entries]
        slopes, rate_slopes = grad(learner.objective, argnums=(0, 1))(parameters, log_rates, data)
        named = slopes | {f"rate of {name}": value for name, value in rate_slopes.items()}
        task = entry // (size // tasks)
        sequence = f", sequence {entry % (size // tasks)}" if size > tasks else ""
        if names := _not_finite(named):
            yield Culprit(f"outer gradient of {{task}}{sequence} is not finite: {names}", task)
        total = {name: total.get(name, torch.zeros_like(value)) + value for name, value in named.items()}
    if names := _not_finite({name: value.square().sum() for name, value in total.items()}):
        yield Culprit(f"the norm of the outer gradient is not finite, though that of each task is: {names}")


def _inner_loss(learner: Learner, parameters: Parameters) -> Loss[Batch]:
    """The inner loss as a function of the parameters that adapt and the data; the others are as given."""
    return lambda moving, data: learner.inner_loss(parameters | moving, data)


def _moving(learner: Learner, parameters: Parameters) -> Parameters:
    return {name: parameters[name] for name in learner.log_rates}


def _gradient(gradient: Parameters, task: int, step: str) -> Iterator[Culprit]:
    """The inner gradient of one task, before it is clipped."""
    if names := _not_finite(gradient):
        yield Culprit(f"inner gradient of {{task}} is not finite{step}: {names}", task)


def _values(policy: Mapping[str, Tensor], rates: Parameters) -> Iterator[Culprit]:
    """What the update began with."""
    if names := _not_finite(policy):
        yield Culprit(f"the policy itself is not finite: {names}")
    if names := _not_finite(rates):
        yield Culprit(f"an inner rate is not finite: {names}")


def _data(learner: Learner, batch: Batch, where: str) -> Iterator[Culprit]:
    """The data of one round: what was seen and done, from the first step on; then what was made of it."""
    seen = {"token": batch.tokens, "action": batch.actions, "log probability": batch.log_probability[..., None]}
    places = []
    for order, (name, value) in enumerate(seen.items()):
        rows = (~torch.isfinite(value)).nonzero()
        if len(rows):
            task, sequence, t, entry = rows[rows[:, 2].argmin()].tolist()
            what = learner.policy.layout.describe(entry) if name == "token" else name
            places.append((t, order, task, sequence, what))
    for t, _, task, sequence, what in sorted(places):
        yield Culprit(f"{what} is not finite in {{task}}, sequence {sequence}, control step {t}{where}", task)
    # Targets first: normalising spreads one number over its task, or over all tasks.
    for value in (batch.target, batch.advantage):
        rows = (~torch.isfinite(value)).nonzero()
        if len(rows):  # a step spreads to all before it, so the last one is to blame
            task, sequence, t = rows[rows[:, 2].argmax()].tolist()
            yield Culprit(f"advantage is not finite in {{task}}, sequence {sequence}, control step {t}{where}", task)


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The names of tensors that are not finite: the first, and how many more; empty if all are."""
    names = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else ""
