"""Which number broke first: the search after an update that was skipped because something was not finite.

Training itself looks at one norm for each update, which costs next to nothing, and keeps a `snapshot` of what the
update began with. Only after a skip does this search repeat the update, up to the step that was skipped, and look there
at everything in the order of causes: parameters, then the data of each round and the inner gradients on it, then what
single tasks add to the outer step. It knows of an algorithm only `update`, `adapt` and two methods that need not be
there: `apply`, which takes the outer step and returns what is false if that is not finite, and `minibatches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from metarl.algorithms.adaptation import Parameters, all_finite, part
from metarl.algorithms.learner import Learner
from metarl.rollouts.episodes import Batch


class Finding(NamedTuple):
    """A sentence with a gap `{task}` for the name of the task, and that task's number if it is about one."""

    sentence: str
    task: int | None = None

    def text(self, tasks: Sequence[str]) -> str:
        """The sentence, given the names of all tasks."""
        return self.sentence.replace("{task}", "" if self.task is None else tasks[self.task])


UNKNOWN = Finding("something was not finite, but every part of it is when it is computed again task by task")


def snapshot(learner: Learner) -> dict[str, Tensor]:
    """Copies of all that the learner's next update depends on, beside its data."""
    policy = {f"policy.{name}": value.detach().clone() for name, value in learner.policy.state_dict().items()}
    own = {f"learner.{name}": value.clone() for name, value in learner.state().items()}
    return policy | own | {"generator": learner.generator.get_state()}


def restore(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Put the learner where it was when a `snapshot` was taken.

    Raises:
        LookupError, RuntimeError, ValueError: if it is another learner's.
    """
    learner.policy.load_state_dict(part(tensors, "policy."))
    learner.load(part(tensors, "learner."))
    learner.generator.set_state(tensors["generator"].cpu())


def search_update(learner: Learner, start: Mapping[str, Tensor], rounds: Sequence[Batch]) -> Finding:
    """What was not finite in an update of the learner, or what became so first. The learner stays as it is.

    Args:
        start: a `snapshot` of the learner before the update.
        rounds: the data of the update (M, E, T, ...), of all processes.
    """
    after = snapshot(learner)
    try:
        restore(learner, start)
        skipped = _first_skipped(learner, rounds)
        if skipped is None:
            restore(learner, start)
        return next(_causes(learner, rounds, skipped), UNKNOWN)
    finally:
        restore(learner, after)


def search_inner_step(learner: Learner, adapted: Parameters | None, batch: Batch) -> Finding:
    """What is not finite in the learner's inner step from `adapted` (M, ...) on `batch` (M, E, ...)."""

    def causes() -> Iterator[Finding]:
        yield from _beginning(learner)
        yield from _data(learner, batch, "")
        yield from _inner_gradients(learner, adapted, batch, "")

    return next(causes(), UNKNOWN)


def search_data(learner: Learner, rounds: Sequence[Batch]) -> Finding:
    """What is not finite in the data (M, E, T, ...) of an iteration, or else the largest number in it."""
    return next((finding for batch in rounds for finding in _data(learner, batch, "")), _largest(learner, rounds))


class _Stop(Exception):
    """Ends an update at a step that is not finite, before anything moves."""

    def __init__(self, step: Parameters) -> None:
        super().__init__()
        self.step = step


def _first_skipped(learner: Learner, rounds: Sequence[Batch]) -> Parameters | None:
    """Update up to the first step that is skipped: what it would have stepped by, or None if there is none."""
    apply: Any = getattr(learner, "apply", None)  # an update without it does not call it either

    def watched(*changes: Parameters) -> Any:
        step = _named(*changes)
        moved = apply(*changes)
        if not moved:
            raise _Stop(step)
        return moved

    return _update_with(learner, rounds, apply=watched)


def _broken_alone(learner: Learner, rounds: Sequence[Batch]) -> Parameters:
    """The outer step from all of these data at once if its entries are not finite, else nothing; it is not taken."""

    def seen(*changes: Parameters) -> Tensor:
        step = _named(*changes)
        if not all_finite(step):
            raise _Stop(step)
        return torch.tensor(True)

    return _update_with(learner, rounds, apply=seen, minibatches=lambda size: [torch.arange(size)]) or {}


def _update_with(learner: Learner, rounds: Sequence[Batch], **methods: Callable[..., Any]) -> Parameters | None:
    """Update with some of the learner's methods replaced; the step at which one of them stopped it."""
    vars(learner).update(methods)
    try:
        with learner.alone():
            learner.update(rounds)
    except _Stop as stop:
        return stop.step
    finally:
        for name in methods:
            del vars(learner)[name]
    return None


def _causes(learner: Learner, rounds: Sequence[Batch], skipped: Parameters | None) -> Iterator[Finding]:
    """Everything that is not finite, in the order of causes; computed only as far as it is asked for."""
    yield from _beginning(learner)
    adapted: Parameters | None = None
    for number, batch in enumerate(rounds):
        yield from _data(learner, batch, f", round {number}" if len(rounds) > 1 else "")
        if number < len(rounds) - 1:
            yield from _inner_gradients(learner, adapted, batch, f" (step {number + 1})")
            adapted = learner.adapt(adapted, batch)
    if skipped is not None:
        yield from _outer_step(learner, rounds, skipped)


def _outer_step(learner: Learner, rounds: Sequence[Batch], skipped: Parameters) -> Iterator[Finding]:
    """The outer step as it would be from the data of one task alone."""
    for m in range(len(rounds[0].tokens)):
        task = [batch.select(slice(m, m + 1)) for batch in rounds]
        if names := _not_finite(_broken_alone(learner, task)):
            yield Finding(f"outer gradient of {{task}}{_sequence(learner, task)} is not finite: {names}", m)
    if names := _not_finite({name: value.square().sum() for name, value in skipped.items()}):
        yield Finding(f"the norm of the outer gradient is not finite, though that of each task is: {names}")


def _sequence(learner: Learner, task: Sequence[Batch]) -> str:
    """Which of a task's sequences (1, E, T, ...) it is, if they are independent: an inner step ties them together."""
    episodes = task[0].valid.shape[1]
    for e in range(episodes if len(task) == 1 and episodes > 1 else 0):
        alone = [Batch(*(x[:, e : e + 1] for x in batch)) for batch in task]
        if _broken_alone(learner, alone):
            return f", sequence {e}"
    return ""


def _inner_gradients(learner: Learner, adapted: Parameters | None, batch: Batch, step: str) -> Iterator[Finding]:
    """The inner gradient of each task, before it is clipped."""
    start = adapted or {name: learner.parameters[name].detach() for name in learner.rate_parameters}
    with torch.no_grad():
        gradients = vmap(grad(learner.inner_loss), in_dims=(0 if adapted else None, 0))(start, batch)
    for m in range(len(batch.tokens)):
        if names := _not_finite({name: value[m] for name, value in gradients.items()}):
            yield Finding(f"inner gradient of {{task}} is not finite{step}: {names}", m)


def _beginning(learner: Learner) -> Iterator[Finding]:
    """What the update began with."""
    if names := _not_finite(learner.policy.state_dict()):
        yield Finding(f"the policy itself is not finite: {names}")
    if names := _not_finite(learner.rates()):
        yield Finding(f"an inner rate is not finite: {names}")


def _data(learner: Learner, batch: Batch, where: str) -> Iterator[Finding]:
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
        yield Finding(f"{what} is not finite in {{task}}, sequence {sequence}, control step {t}{where}", task)
    # Targets first: normalising spreads one number over its task, or over all tasks.
    for value in (batch.target, batch.advantage, batch.inner_advantage):
        rows = (~torch.isfinite(value)).nonzero()
        if len(rows):  # a step spreads to all before it, so the last one is to blame
            task, sequence, t = rows[rows[:, 2].argmax()].tolist()
            yield Finding(f"advantage is not finite in {{task}}, sequence {sequence}, control step {t}{where}", task)


def _largest(learner: Learner, rounds: Sequence[Batch]) -> Finding:
    """The largest number that the policy was to see."""
    tokens = max((batch.tokens for batch in rounds), key=lambda tokens: float(tokens.abs().max()))
    task, sequence, t, entry = map(int, torch.unravel_index(tokens.abs().argmax(), tokens.shape))
    what, value = learner.policy.layout.describe(entry), float(tokens[task, sequence, t, entry])
    place = f"sequence {sequence}, control step {t}: {value:.0e}"
    return Finding(f"{what} is too large to be normalised in {{task}}, {place}", task)


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The names of tensors that are not finite: the first, and how many more; empty if all are."""
    names = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else ""


def _named(step: Parameters, rates: Mapping[str, Tensor] | None = None) -> Parameters:
    """Copies of what `apply` is given, since it may clip in place."""
    named = step | {f"rate of {name}": value for name, value in (rates or {}).items()}
    return {name: value.clone() for name, value in named.items()}
