"""Tasks that come again because the policy failed in them."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from envs.core.environment import Step
from envs.core.tasks import Tasks
from metarl.config.composition import compose
from metarl.training.replay import Replay
from metarl.training.trainer import Trainer
from tests.metarl.together import CPU, IN_CONTEXT, ONCE, REACH


def numbered(first: int, count: int) -> Tasks:
    """Tasks by number, of two parameters."""
    number = torch.arange(float(first), float(first + count))[:, None]
    return Tasks({"number": number, "tens": torch.cat([10 * number, -10 * number], 1)})


def numbers(tasks: Tasks) -> list[int]:
    assert torch.equal(tasks["tens"], torch.cat([10 * tasks["number"], -10 * tasks["number"]], 1)), "torn apart"
    return [int(number) for number in tasks["number"][:, 0]]


def failed(*which: int, of: int) -> torch.Tensor:
    return torch.tensor([index in which for index in range(of)])


def test_failed_tasks_take_the_place_of_the_last_ones() -> None:
    replay, generator = Replay(10), torch.Generator().manual_seed(0)
    assert numbers(replay.mix(numbered(0, 4), 0.5, generator)) == [0, 1, 2, 3], "nothing has failed yet"
    replay.note(numbered(0, 4), failed(1, 2, 3, of=4))
    mixed = numbers(replay.mix(numbered(4, 4), 0.5, generator))
    assert mixed[:2] == [4, 5] and len({*mixed[2:]} & {1, 2, 3}) == 2
    rest = numbers(replay.mix(numbered(8, 4), 0.5, generator))
    assert rest[:3] == [8, 9, 10] and {*mixed[2:], rest[3]} == {1, 2, 3}, "each comes once"
    replay.note(numbered(0, 4), failed(of=4))
    assert numbers(replay.mix(numbered(12, 4), 0.5, generator)) == [12, 13, 14, 15]


def test_the_oldest_failures_are_forgotten() -> None:
    replay = Replay(3)
    replay.note(numbered(0, 2), failed(0, 1, of=2))
    replay.note(numbered(2, 2), failed(0, 1, of=2))
    assert len(replay) == 3
    assert set(numbers(replay.mix(numbered(9, 4), 0.75, torch.Generator()))) == {9, 1, 2, 3}


def test_training_meets_what_it_failed_in_again_after_a_resume_too() -> None:
    settings = compose([*REACH, *IN_CONTEXT, "algo.replay=0.5"])  # it succeeds in none of five tasks
    whole = Trainer(settings, CPU)
    seen = [_iterated(whole)]
    resumed = Trainer(settings, CPU)
    resumed.load(*whole.state())
    seen.append(_iterated(whole))
    again = [goal for goal in seen[1].tolist() if goal in seen[0].tolist()]
    assert len(again) == 2 and again == seen[1].tolist()[3:]
    assert torch.equal(_iterated(resumed), seen[1])
    ours, theirs = whole.state()[0], resumed.state()[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "algo", [IN_CONTEXT, [*IN_CONTEXT, "algo.trial_episodes=2"], ["algo=maml", ONCE, "algo.episodes=2"]]
)
def test_a_task_whose_physics_failed_does_not_come_again(algo: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever episode it did: here in the first of a trial, or before the inner step."""
    trainer = Trainer(compose([*REACH, *algo, "algo.replay=0.5"]), CPU)
    (env,) = trainer.environments.values()
    step, calls = env.step, count()

    def fails(action: torch.Tensor) -> Step:
        if next(calls) == 4:
            action = action.clone()
            action[3 * (env.num_simulations // 5)] = torch.nan
        return step(action)

    monkeypatch.setattr(env, "step", fails)
    assert trainer.iterate()["physics_failures"] == 1.0
    assert env.tasks is not None
    assert torch.equal(trainer.replay.failed["goal"], env.tasks["goal"][[0, 1, 2, 4]])


def test_a_run_without_it_draws_as_before() -> None:
    plain, zero = Trainer(compose([*REACH, *IN_CONTEXT]), CPU), Trainer(compose([*REACH, *IN_CONTEXT]), CPU)
    expected = [zero.distribution.sample(5)["goal"] for _ in range(2)]
    assert torch.equal(torch.cat([_iterated(plain), _iterated(plain)]), torch.cat(expected))
    assert not any(name.startswith("replay") for name in plain.state()[0])


def _iterated(trainer: Trainer) -> torch.Tensor:
    """The goals of the tasks of an iteration."""
    trainer.iterate()
    tasks = trainer.environments[5].tasks
    assert tasks is not None
    return tasks["goal"]
