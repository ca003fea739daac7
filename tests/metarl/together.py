"""Small trainings that one process or several do, under torchrun: what each ends with.

torchrun --standalone --nproc-per-node=2 -m tests.metarl.together FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.core.environment import Step
from metarl.algorithms.learner import Learner
from metarl.config.composition import compose
from metarl.distributed import ALONE, Ranks, joined
from metarl.rollouts.episodes import Batch, Episodes
from metarl.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = ["recipe=none", "device=cpu", "threads=1", "env.horizon=10", "algo.tasks=5"]
SMALL += ["agent=transformer", "agent.width=8", "agent.layers=1"]
REACH = ["env=reach", *SMALL]
ONCE = "algo.outer.n_epochs=1"
IN_CONTEXT = ["algo=in_context", ONCE, "algo.outer.minibatches=3"]
WARM = [
    "algo.warm_start.iterations=1",
    "algo.warm_start.settings.outer.n_epochs=1",
    "algo.warm_start.settings.tasks=10",
]  # 10 x 1 simulations, then 5 x 2


class Spoiled(NamedTuple):
    """What goes wrong in a task: in its `data` or its `physics`."""

    what: str
    task: int


class Case(NamedTuple):
    """A training: its settings, how many iterations, and what goes wrong in it."""

    settings: list[str]
    iterations: int = 1
    spoiled: Spoiled | None = None
    resumes: bool = False  # whether another trainer takes over after each iteration


CASES = {
    "maml": Case(
        [*REACH, "algo=maml", ONCE, "algo.episodes=2"]
    ),  # a task for each minibatch: the other process has none
    "maml in trials": Case(
        [*REACH, "algo=maml", ONCE, "algo.episodes=2", "algo.trial_episodes=2", "algo.outer.minibatches=2"]
    ),
    "fomaml": Case([*REACH, "algo=fomaml", ONCE, "algo.episodes=2", "algo.outer.minibatches=2"]),
    "reptile": Case([*REACH, "algo=reptile", "algo.episodes=2", "algo.inner.steps=1"]),
    "in_context": Case([*REACH, *IN_CONTEXT]),  # one sequence of a task: advantages are those of all tasks
    "in_context in trials": Case([*REACH, *IN_CONTEXT, "algo.trial_episodes=2"]),
    "multitask": Case([*REACH, "algo=multitask", ONCE, "agent.context=none", "algo.episodes=2"]),
    "a warm start": Case([*REACH, "algo=maml", ONCE, "algo.episodes=2", *WARM], 3),
    "a curriculum": Case([*REACH, *IN_CONTEXT, "algo.curriculum=4"]),
    "failed tasks again": Case([*REACH, *IN_CONTEXT, "algo.replay=0.5"], 2),
    "numbers drawn in another order": Case(["env=navigate", *SMALL, *IN_CONTEXT]),
    "a resume": Case([*REACH, "algo=maml", ONCE, "algo.episodes=2", *WARM], 3, resumes=True),
    "an algorithm that knows of no others": Case([*REACH, "algo=tests.metarl.together:Nudge", "algo.episodes=2"]),
    "a gradient that is not finite": Case([*REACH, "algo=maml", ONCE, "algo.episodes=2"], 1, Spoiled("data", 3)),
    "a physics that fails": Case([*REACH, "algo=maml", ONCE, "algo.episodes=2"], 1, Spoiled("physics", 3)),
}


class Nudge(Learner):
    """Moves every parameter by the mean advantage; it was written for one process."""

    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        assert len(rounds[0].tokens) == 5
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter += 0.01 * rounds[0].target.mean()
        return {"updates": 1.0, "skipped_updates": 0.0}


def train(case: Case, ranks: Ranks = ALONE) -> dict[str, Any]:
    """The state after a case, with its last row of metrics and what is told of troubles."""
    torch.manual_seed(ranks.rank)  # nothing may come from here
    trainer = Trainer(compose(case.settings), CPU, ranks)
    if case.spoiled is not None:
        _spoil(trainer, case.spoiled, ranks)
    rows = []
    for _ in range(case.iterations):
        if case.resumes:
            state, trainer = trainer.state(), Trainer(compose(case.settings), CPU, ranks)
            trainer.load(*state)
        rows.append(trainer.iterate())
    tensors, _ = trainer.state()
    failure = trainer.failure
    return {
        "tensors": tensors,
        "row": {name: value for name, value in rows[-1].items() if "seconds" not in name},
        "troubles": trainer.troubles,
        "failed": None if failure is None else [tuple(batch.valid.shape) for batch in failure.rounds],
    }


def _spoil(trainer: Trainer, spoiled: Spoiled, ranks: Ranks) -> None:
    """Let it go wrong in the process that has the task."""
    env = next(iter(trainer.environments.values()))
    task = spoiled.task - ranks.share(5).start
    if not 0 <= task < len(range(*ranks.share(5).indices(5))):
        return
    calls: list[int] = []
    if spoiled.what == "data":
        prepare: Callable[[Episodes], Batch] = trainer.learner.prepare

        def broken(episodes: Episodes) -> Batch:
            batch = prepare(episodes)
            calls.append(1)
            if len(calls) == 2:  # in the last round
                batch.advantage[task, 0, 0] = torch.nan
            return batch

        trainer.learner.prepare = broken
        return
    step = env.step

    def fails(action: Tensor) -> Step:
        calls.append(1)
        if len(calls) == 4:  # in the first round
            action = action.clone()
            action[2 * task] = torch.nan
        return step(action)

    env.step = fails


def main(folder: Path) -> None:
    """Train all cases, and write what each process ends with."""
    torch.set_num_threads(1)
    with joined() as ranks:
        torch.save({name: train(case, ranks) for name, case in CASES.items()}, folder / f"{ranks.size}-{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
