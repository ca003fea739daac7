"""The inner loop on fresh data: who acts when, and what each inner step is taken on."""

from __future__ import annotations

import pytest
import torch

from metarl.algorithms.rounds import Adapted, inner_loop
from metarl.rollouts.episodes import Batch

DATA = Batch(*[torch.zeros(1)] * 7)


@pytest.mark.parametrize("start", [None, 10.0])
def test_every_step_is_taken_on_what_the_parameters_before_it_experienced(start: float | None) -> None:
    log: list[tuple[str, float | None]] = []

    def number(adapted: Adapted) -> float | None:
        return None if adapted is None else float(adapted["w"])

    def experience(adapted: Adapted) -> Batch:
        log.append(("experience", number(adapted)))
        return DATA

    def adapt(adapted: Adapted, batch: Batch) -> dict[str, torch.Tensor]:
        assert batch is DATA
        log.append(("adapt", number(adapted)))
        return {"w": torch.tensor(1.0 if adapted is None else float(adapted["w"]) + 1.0)}

    for adapted in inner_loop(adapt, experience, 2, None if start is None else {"w": torch.tensor(start)}):
        log.append(("measure", number(adapted)))
    after, last = (1.0, 2.0) if start is None else (11.0, 12.0)
    steps = [(what, value) for value in (start, after) for what in ("measure", "experience", "adapt")]
    assert log == [*steps, ("measure", last)]


def test_no_steps_experience_nothing() -> None:
    def never(*_: object) -> Batch:
        raise AssertionError

    assert list(inner_loop(never, never, 0)) == [None]  # type: ignore[arg-type]
