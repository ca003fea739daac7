"""Meta-World's parametric variations: fifty of each task in each split, drawn as the package draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from envs.core.tasks import PUBLISHED_BLOCK, SPLITS, Categories, Parameter, Range, TaskDistribution, Tasks
from envs.errors import TaskError
from envs.metaworld.sawyer import SawyerTask

COUNT = 50  # variations of a task
Kinds = Sequence[type[SawyerTask]]


class Variations(TaskDistribution):
    """Fifty variations of each task of a split; with several tasks, `task` says which.

    A list of tasks goes through the kinds in turn, so any number of tasks is divided among them as evenly as it can be.

    Args:
        splits: split -> its tasks, and the seed of its variations: those of `metaworld.ML1` or `ML10` with that seed.
        recombine: draw training tasks that have the placement of one training variation and the goal of another, so
            that a placement does not give its goal away. Lists are the variations themselves.
    """

    def __init__(self, splits: Mapping[str, tuple[Kinds, int]], recombine: bool = False) -> None:
        train, _ = splits["train"]
        self.kinds = list(dict.fromkeys(kind for kinds, _ in splits.values() for kind in kinds))
        super().__init__(_parameters(self.kinds, len(train)))
        self.tables = {split: self._table(*drawn) for split, drawn in splits.items()}
        self.goals_for = self._goals_for(train) if recombine and "goal" in self.parameters else None

    def override(self, changes: Mapping[str, object]) -> Variations:
        if changes:
            given = ", ".join(changes)
            raise TaskError(f"metaworld: its variations are fixed, so there is no range of {given} to set")
        return self

    def sample(self, n: int, split: str = "train", width: float = 1.0) -> Tasks:
        if width < 1.0:
            raise TaskError("metaworld: its variations have no middle: set algo.curriculum=0")
        table = self._of(split)
        kinds = self.count(split)
        rounds = -(-n // len(table))
        order = torch.stack(
            [torch.cat([torch.randperm(COUNT, generator=self.generator) for _ in range(rounds)]) for _ in range(kinds)]
        )
        placed = order.T * kinds + torch.arange(kinds)  # a row has one task of each kind
        if n % kinds:  # of the last row only some: any of them
            last = n // kinds
            placed[last] = placed[last, torch.randperm(kinds, generator=self.generator)]
        rows = placed.flatten()[:n]
        drawn = table.select(rows)
        if split != "train" or self.goals_for is None:
            return drawn
        other = torch.multinomial(self.goals_for[rows], 1, generator=self.generator)[:, 0]
        return Tasks({**drawn.values, "goal": table.values["goal"][other]})

    def published(self, split: str, n: int = PUBLISHED_BLOCK) -> Tasks:
        table = self._of(split)
        if not 1 <= n <= len(table):
            raise TaskError(f"metaworld: a list of {split} tasks has 1 to {len(table)} tasks, not {n}")
        return table.select(slice(0, n))

    def count(self, split: str) -> int:
        """How many tasks, of fifty variations each, a split has."""
        return len(self._of(split)) // COUNT

    def split_of(self, tasks: Tasks) -> list[str]:
        """The split that lists each task; of one in no list `ood` if it is beyond the ranges, else `train`."""
        rows = _rows(tasks)
        found = ["ood" if beyond else "train" for beyond in torch.stack(list(self.moved(tasks).values())).any(0)]
        for split, table in self.tables.items():
            listed = (rows[:, None] == _rows(table)).all(-1).any(-1)
            found = [split if hit else name for hit, name in zip(listed.tolist(), found, strict=True)]
        return found

    def _of(self, split: str) -> Tasks:
        if split not in self.tables:
            valid = ", ".join(name for name in SPLITS if name in self.tables)
            raise TaskError(f"metaworld: has no split '{split}' (valid: {valid})")
        return self.tables[split]

    def _goals_for(self, kinds: Kinds) -> Tensor:
        """Which training variations' goals may go with the placement of each, (50 K, 50 K) 0 or 1: of the same task."""
        values = self.tables["train"].values
        vectors = torch.cat([values["placement"], values["goal"]], -1).double().numpy()
        allowed = torch.zeros(len(vectors), len(vectors))
        for index, vector in enumerate(vectors):
            kind = kinds[index % len(kinds)]
            for other in range(index % len(kinds), len(vectors), len(kinds)):
                together = np.concatenate([vector[:3], vectors[other, 3:]])
                allowed[index, other] = not kind.too_near(together[: len(kind.low)])
        return allowed

    def _table(self, kinds: Kinds, seed: int) -> Tasks:
        """All tasks of a split: the first variation of every kind, then the second of every kind, ..."""
        generator = np.random.RandomState(seed)
        drawn = torch.from_numpy(np.stack([draw(kind, generator) for kind in kinds], 1)).float().flatten(0, 1)
        number = torch.tensor([[float(self.kinds.index(kind))] for kind in kinds]).repeat(COUNT, 1)
        values = {"task": number, "placement": drawn[:, :3], "goal": drawn[:, 3:]}
        return Tasks({name: values[name] for name in self.parameters})


def draw(kind: type[SawyerTask], generator: np.random.RandomState) -> np.ndarray:
    """Fifty variations of a task as the package draws them, (50, 6) in m; what a task does not have is 0.

    A reset in the package draws twice, and keeps the second.
    """
    return np.stack([[_accepted(kind, generator) for _ in range(2)][1] for _ in range(COUNT)])


def _accepted(kind: type[SawyerTask], generator: np.random.RandomState) -> np.ndarray:
    while True:
        vector = generator.uniform(kind.low, kind.high)
        if not kind.too_near(vector):
            return np.concatenate([vector, np.zeros(6 - len(vector))])


def _parameters(kinds: Kinds, trained: int) -> dict[str, Parameter]:
    """What varies; of a single task without a drawn target there is no goal."""
    low, high = ([(*getattr(kind, end), 0.0, 0.0, 0.0)[:6] for kind in kinds] for end in ("low", "high"))
    low, high = np.min(low, 0).tolist(), np.max(high, 0).tolist()
    names = tuple(kind.task for kind in kinds)
    found: dict[str, Parameter] = {"placement": Range(low[:3], high[:3], unit="m")}
    if len(kinds) > 1:
        found = {"task": Categories(names[:trained], ood=names[trained:]), **found}
    if any(len(kind.low) > 3 for kind in kinds):
        found["goal"] = Range(low[3:], high[3:], unit="m")
    return found


def _rows(tasks: Tasks) -> Tensor:
    return torch.cat(list(tasks.values.values()), -1)
