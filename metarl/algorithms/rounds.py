"""The inner loop on fresh data: adapt, act with what has adapted, adapt on that, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from metarl.algorithms.adaptation import Parameters, all_finite
from metarl.algorithms.learner import Learner
from metarl.algorithms.nan_search import search_inner_step
from metarl.errors import NotFiniteError
from metarl.rollouts.episodes import Batch

Adapted = Parameters | None  # parameters with a leading M; None: nothing has adapted yet
Adapt = Callable[[Adapted, Batch], Parameters]


def inner_loop(
    adapt: Adapt, experience: Callable[[Adapted], Batch], steps: int, adapted: Adapted = None
) -> Iterator[Adapted]:
    """The parameters before adaptation, then those after each of `steps` inner steps.

    Each step is taken when the next parameters are asked for, so the caller can act with the present ones first.

    Args:
        adapt: one inner step from parameters on data: `Learner.adapt`, or a `finite_step`.
        experience: the data (M, E, ...) of acting with the given parameters.
        steps: inner steps.
        adapted: where to start.
    """
    yield adapted
    for _ in range(steps):
        adapted = adapt(adapted, experience(adapted))
        yield adapted


def finite_step(learner: Learner, names: Sequence[str]) -> Adapt:
    """The learner's inner step for the tasks of these names, which insists on finite parameters.

    The step raises:
        NotFiniteError: if its result is not finite; names the task and the parameter.
    """

    def step(adapted: Adapted, batch: Batch) -> Parameters:
        after = learner.adapt(adapted, batch)
        if not all_finite(after):
            raise NotFiniteError(search_inner_step(learner, adapted, batch).text(names))
        return after

    return step
