"""Contrasts between contenders, with intervals that are corrected for their number, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.summary import MEASURES, RATES, values
from metarl.evaluation.statistics import Interval, crossed_interval

CONFIDENCE = 0.95  # of all contrasts of an environment together
BOTH = ("success", "return")  # what contrasts are about
SPLITS = {"test": "", "ood": "beyond the training ranges "}
WAYS = ("sgd", "ppo")  # of fine-tuning the in-context policy
META = ("maml", "fomaml", "reptile")


@dataclass(frozen=True)
class Result:
    """One seed of one contender.

    Args:
        env_steps, seconds: of training, before any test task. evaluations: by split. commands: those that made it.
        root: the run that its training begins with, by which seeds of two contenders are pairs; "": of no other's.
        settings: their fingerprint, see `kept`.
    """

    contender: str
    seed: int
    env_steps: float
    seconds: float
    evaluations: Mapping[str, Mapping[str, Any]]
    commands: Sequence[str]
    note: str = ""
    root: str = ""
    settings: str = ""


Seeds = Mapping[int, Result]


class Side(NamedTuple):
    """The runs of a contender at one place of their curves.

    Args:
        step: of the gradient steps, and episode: of the trial; both as an index, -1 is the last.
    """

    runs: Seeds
    step: int = -1
    episode: int = -1

    def at(self, seed: int, measure: str, split: str) -> np.ndarray:
        """The values of a seed, (M,)."""
        evaluation = self.runs[seed].evaluations[split]
        trial, entries = int(evaluation.get("trial_episodes", 1)), len(evaluation["per_task"][0][measure])
        position = range(entries // trial)[self.step] * trial + range(trial)[self.episode]
        return values([evaluation], measure, position)[0]


class Contrast(NamedTuple):
    """The first minus the second, in words: what is said before the numbers."""

    text: str
    ours: Side
    theirs: Side

    @property
    def seeds(self) -> tuple[list[int], list[int]]:
        """Those of each side that are compared: where there is only one on a side, or where they are pairs, those that
        both have, if any."""
        ours, theirs = sorted(self.ours.runs), sorted(self.theirs.runs)
        both = [seed for seed in ours if seed in theirs]
        if both and (self.paired or min(len(ours), len(theirs)) == 1):
            return both, both
        return ours, theirs

    @property
    def paired(self) -> bool:
        """Whether runs of the same seed have the same beginning."""
        both = set(self.ours.runs) & set(self.theirs.runs)
        runs = [(self.ours.runs[seed], self.theirs.runs[seed]) for seed in both]
        return bool(runs) and all(a is b or (a.root and a.root == b.root) for a, b in runs)

    @property
    def alone(self) -> bool:
        """Whether a side has only one seed, so that the interval is over tasks."""
        return min(map(len, self.seeds)) == 1

    def interval(self, measure: str, split: str = "test", confidence: float = CONFIDENCE) -> Interval:
        """Over seeds and tasks; paired by task, and by seed where runs have the same beginning."""
        sides = self._rows(measure, split)
        ours, theirs = (
            np.stack([row[:count] for row in rows])
            for count in [min(len(row) for rows in sides for row in rows)]
            for rows in sides
        )
        if self.alone:
            ours, theirs = ours.mean(0, keepdims=True), theirs.mean(0, keepdims=True)
        groups = [ours - theirs] if self.paired or self.alone else [ours, -theirs]
        found = crossed_interval(groups, confidence)
        return Interval(found.mean, max(found.low, -1.0), min(found.high, 1.0)) if measure in RATES else found

    def _rows(self, measure: str, split: str) -> list[list[np.ndarray]]:
        sides = zip((self.ours, self.theirs), self.seeds, strict=True)
        return [[side.at(seed, measure, split) for seed in seeds] for side, seeds in sides]

    def splits(self) -> list[str]:
        """Those on which all of its runs are measured."""
        runs = [*self.ours.runs.values(), *self.theirs.runs.values()]
        return [split for split in SPLITS if all(split in result.evaluations for result in runs)]


def contrasts(by_name: Mapping[str, Seeds]) -> list[Contrast]:
    """What is asked of the contenders that there are, in order."""
    found: list[Contrast] = []

    def ask(text: str, ours: Side | None, theirs: Side | None) -> None:
        if ours and theirs:
            found.append(Contrast(text, ours, theirs))

    def side(name: str, step: int = -1, episode: int = -1) -> Side | None:
        return Side(by_name[name], step, episode) if name in by_name else None

    trial = max((episodes(result) for runs in by_name.values() for result in runs.values()), default=1)
    if trial > 1:
        ask(f"in_context in episode {trial} minus episode 1", side("in_context"), side("in_context", episode=0))
        ask(
            f"memory of the trial minus memory of the episode, in episode {trial}",
            side("in_context"),
            side("in_context_episode"),
        )
        for name in ("memoryless", "reactive", "oracle"):
            ask(f"in_context minus {name} in episode {trial}", side("in_context"), side(name))
    for name in by_name:
        base, _, way = name.rpartition("+")
        if way in META or name == "maml_mlp":
            ask(f"{name} after its last gradient step minus before it took any", side(name), side(name, 0))
        if base and way in META:
            equal = "in_context_equal" if "in_context_equal" in by_name else "in_context"
            ask(f"{name} after adaptation minus {equal}", side(name), side(equal))
            for other in WAYS:
                ask(f"{name} minus in_context+{other}, both adapted", side(name), side(f"in_context+{other}"))
        if base and way in WAYS:
            ask(f"{name} after adaptation minus in_context", side(name), side("in_context"))
        if way == "maml":
            ask(f"{name} minus multitask, both adapted", side(name), side("multitask"))
    ask("in_context minus rl2_sb3, trained for as long", side("in_context"), side("rl2_sb3"))
    return found


def sentences(env: str, results: Sequence[Result], measured: Sequence[str] = BOTH) -> list[str]:
    """The contrasts with their numbers, in these measures.

    By Bonferroni's correction the intervals of all contrasts, in one measure on one split, are meant to be right
    together in at least 95 of 100 comparisons.
    """
    by_name: dict[str, dict[int, Result]] = {}
    for result in results:
        by_name.setdefault(result.contender, {})[result.seed] = result
    asked = contrasts(by_name)
    if not asked:
        return []
    number = len(asked)
    confidence = 1 - (1 - CONFIDENCE) / number
    head = f"On {env}, with intervals at {confidence:.2%}, as there are {number} contrasts (1 - 0.05 / {number}):"
    return [head, *(said(contrast, measured, confidence) for contrast in asked)]


def said(contrast: Contrast, measured: Sequence[str], confidence: float) -> str:
    """A contrast in words."""
    parts = [SPLITS[split] + numbers(contrast, split, measured, confidence) for split in contrast.splits()]
    return f"{contrast.text} ({_basis(contrast)}): {'; '.join(parts)}."


def numbers(contrast: Contrast, split: str, measured: Sequence[str], confidence: float) -> str:
    """The differences in these measures, with their intervals."""
    mark = "*" if contrast.alone else ""
    texts = []
    for measure in measured:
        mean, low, high = contrast.interval(measure, split, confidence)
        form = MEASURES[measure]
        texts.append(f"{mean:+{form}} [{low:+{form}}, {high:+{form}}]{mark} in {measure}")
    return " and ".join(texts)


def episodes(result: Result) -> int:
    """The episodes of a trial in which a run was measured."""
    return int(result.evaluations["test"].get("trial_episodes", 1))


def _basis(contrast: Contrast) -> str:
    """The seeds, and, of different runs, what each was trained for."""
    sides, seeds = (contrast.ours, contrast.theirs), contrast.seeds
    words = [f"seed{'s' if len(each) > 1 else ''} {' '.join(map(str, each))}" for each in seeds]
    text = words[0] if seeds[0] == seeds[1] else " and ".join(words)
    if contrast.ours.runs is contrast.theirs.runs:
        return text
    spent = [sum(side.runs[n].env_steps for n in each) / len(each) for side, each in zip(sides, seeds, strict=True)]
    return f"{text}; {spent[0] / 1e6:.2f}M and {spent[1] / 1e6:.2f}M environment steps"
