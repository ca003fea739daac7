"""Films of the best, the median and the worst task, as parts of a page."""

from __future__ import annotations

import base64
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from metarl.assembly.trust import words
from metarl.config.settings import ReportSettings
from metarl.errors import RenderError
from metarl.evaluation.films import render
from metarl.pages.evaluations import Evaluation, ranked
from metarl.pages.subject import Subject


class Film(NamedTuple):
    """A run on a task: its label, the success at the beginning and at the end, and the film as an address of data."""

    label: str
    success: str
    source: str


class Footage(NamedTuple):
    """What a task is among the others, its number and parameters, and a film of it by each run."""

    rank: str
    split: str
    task: int
    parameters: str
    films: list[Film]


def chosen(order: Sequence[int]) -> dict[str, int]:
    """The best, the median and the worst of tasks in the order of their success; of fewer than three all there are."""
    ranks = {"median": len(order) // 2, "worst": len(order) - 1, "best": 0}
    places = {
        place: rank for rank, place in ranks.items() if order
    }  # where two are the same task, the later one counts
    return {rank: order[place] for place, rank in sorted(places.items())}


def film_runs(shown: Sequence[Subject], settings: ReportSettings, console: Console) -> list[Footage]:
    """Film every run on the best, the median and the worst task of a split that all of them were evaluated on.

    Raises:
        RenderError: if there is no such task, or no film can be made.
        EnvsError: if the environment cannot be drawn.
    """
    evaluations = [subject.evaluations[settings.split] for subject in shown if settings.split in subject.evaluations]
    if len(evaluations) < len(shown):
        lacking = next(subject for subject in shown if settings.split not in subject.evaluations)
        command = shlex.join(["python", "-m", "metarl.evaluate", f"run={lacking.path}", f"split={settings.split}"])
        asked = f"{command}{words(lacking.run.settings)}"
        raise RenderError(f"{lacking.path} was not evaluated on '{settings.split}': {asked}")
    picks = chosen(ranked(evaluations))
    if not picks:
        raise RenderError(f"the runs were evaluated on different tasks of '{settings.split}'")
    footage = []
    for rank, task in picks.items():
        films = []
        for subject, evaluation in zip(shown, evaluations, strict=True):
            console.print(f"filming {subject.label} on {settings.split} task {task}, the {rank} one")
            films.append(Film(subject.label, _success(evaluation, task), _filmed(subject, task, settings)))
        footage.append(Footage(rank, settings.split, task, _parameters(shown[0].realised(evaluations[0]), task), films))
    return footage


def _filmed(subject: Subject, task: int, settings: ReportSettings) -> str:
    options: dict[str, Any] = {"width": settings.width, "height": settings.height, "fps": None, "threads": 0}
    with tempfile.TemporaryDirectory(prefix="metarl-report-") as folder:
        out = Path(folder, "film.mp4")
        render(subject.run, split=settings.split, task=task, out=out, seed=settings.seed, page=True, **options)
        return f"data:video/mp4;base64,{base64.b64encode(out.read_bytes()).decode()}"


def _success(evaluation: Evaluation, task: int) -> str:
    values = evaluation.values["success"][task]
    return " → ".join(f"{value:.1f}" for value in (values[[0, -1]] if len(values) > 1 else values))


def _parameters(evaluation: Evaluation, task: int) -> str:
    shown = {name: values[task] for name, values in evaluation.tasks.items() if values.shape[1] <= 7}
    return ", ".join(f"{name} {' '.join(f'{number:.3g}' for number in values)}" for name, values in shown.items())
