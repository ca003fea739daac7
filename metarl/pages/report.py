"""A page about one run, or about several side by side: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console

from metarl.assembly.opened import Run, open_run
from metarl.assembly.trust import words
from metarl.config.settings import ReportSettings
from metarl.errors import KNOWN, ConfigError, Interrupted, MetaRLError
from metarl.evaluation.curve import moved_table, table
from metarl.evaluation.plots import PANELS
from metarl.pages import space
from metarl.pages.charts import adaptation_charts, learning_chart
from metarl.pages.evaluations import SPLITS, Evaluation, differences
from metarl.pages.footage import Footage, film_runs
from metarl.pages.subject import Subject, facts, learning_curves, phase_marks, repeat, setting_rows, subjects
from metarl.pages.templating import FOLDER, templates
from metarl.run_folder import atomic_write, one_line
from metarl.run_folder.files import check_writable, guard
from metarl.training.signals import Terminated, interruptible
from metarl.version import __version__

NAME = "report.html"


def write_report(
    runs: Sequence[Run],
    out: str | Path | None = None,
    footage: Sequence[Footage] = (),
    trouble: str | None = None,
) -> Path:
    """Write the page; returns its path.

    Args:
        out: an .html file, or a folder; None: the run's folder, of several runs the working folder.
        footage: films to show; without any the page says how to make them.
        trouble: or why there cannot be any.

    Raises:
        RunFolderError: if a run's files are unreadable, or the page cannot be written.
        ConfigError: if a run is given twice.
    """
    path = _place(runs, out)
    content = page(subjects(runs), footage, trouble)
    with guard(f"make the folder {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content.encode())
    return path


def _place(runs: Sequence[Run], out: str | Path | None) -> Path:
    folder = runs[0].output.path if len(runs) == 1 else Path()
    path = folder / NAME if out is None else Path(out)
    return path if path.suffix == ".html" else path / NAME


def page(shown: Sequence[Subject], footage: Sequence[Footage], trouble: str | None) -> str:
    """The page as HTML text."""
    first = shown[0]
    names = [subject.label for subject in shown]
    title = first.title if len(shown) == 1 else " and ".join((", ".join(names[:-1]), names[-1]))
    settings = setting_rows(shown)
    trusted = words(*(subject.run.settings for subject in shown))
    content = {
        "title": title,
        "version": __version__,
        "css": Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        "names": names,
        "facts": facts(shown),
        "criteria": sorted({e.content.get("success_criterion", "") for s in shown for e in s.evaluations.values()}),
        "adaptation": list(adaptation(shown)),
        "missing": [split for split in SPLITS[:2] if not any(split in s.evaluations for s in shown)],
        "pairs": pairs(shown),
        "first": first.label,
        "footage": footage,
        "trouble": trouble,
        "report_command": f"python -m metarl.report {_listed(shown)}{trusted}",
        "evaluate_command": f"python -m metarl.evaluate {shlex.quote(f'run={first.path}')}{words(first.run.settings)}",
        "tasks": task_space(shown),
        "learning": learning(shown),
        "settings": settings,
        "differing": [row for row in settings if len(set(row[1:])) > 1],
        "repeat": [(subject.label, repeat(subject)) for subject in shown],
    }
    return templates().get_template("report.html").render(content)


def _listed(shown: Sequence[Subject]) -> str:
    paths = ",".join(str(subject.path) for subject in shown)
    return shlex.quote(f"run={paths}" if len(shown) == 1 else f"run=[{paths}]")


def adaptation(shown: Sequence[Subject]) -> Iterator[dict[str, Any]]:
    """By split: the charts of the adaptation curves, and their tables by run."""
    for split in SPLITS:
        found = {subject.label: subject.evaluations[split] for subject in shown if split in subject.evaluations}
        if found:
            curves = {label if len(shown) > 1 else "": evaluation.curve for label, evaluation in found.items()}
            yield {
                "split": split,
                "charts": adaptation_charts(curves),
                "tables": [
                    (label, table(evaluation.curve), _protocol(evaluation)) for label, evaluation in found.items()
                ],
                "moved": [
                    (label, moved_table(moved))
                    for label, evaluation in found.items()
                    if (moved := evaluation.content.get("by_moved"))
                ],
            }


def _protocol(evaluation: Evaluation) -> str:
    content = evaluation.content
    words = [
        f"{content.get('tasks')} tasks, {evaluation.episodes} episodes of each at each point",
        f"{content.get('actions', 'sampled')} actions",
        f"after iteration {content.get('iteration')}",
    ]
    failures = content.get("physics_failures")
    return ", ".join(words) + (
        f"; {failures} episodes failed: {content.get('first_physics_failure')}" if failures else ""
    )


def pairs(shown: Sequence[Subject]) -> list[tuple[str, str, str, int, str]]:
    """What each further run has more than the first on the same tasks, as rows of text."""
    first, rows = shown[0], []
    for subject in shown[1:]:
        for split in [split for split in SPLITS if split in first.evaluations and split in subject.evaluations]:
            for found in differences(first.evaluations[split], subject.evaluations[split]):
                mean, low, high = found.interval
                form = "+.3f" if found.measure == "success" else "+.2f"
                text = f"{mean:{form}} [{low:{form}}, {high:{form}}]"
                rows.append((subject.label, split, PANELS[found.measure], found.tasks, text))
    return rows


def task_space(shown: Sequence[Subject]) -> dict[str, Any]:
    """Charts of success over the hidden parameters, or in `why` why there are none."""
    distribution = shown[0].env.distribution
    axes = space.axes_of(distribution)
    runs = {subject.label: [subject.realised(each) for each in subject.measured()] for subject in shown}
    measured = [evaluation for evaluations in runs.values() for evaluation in evaluations]
    axes = [axis for axis in axes if all(axis.parameter in evaluation.tasks for evaluation in measured)]
    enough = [len(e.values["success"]) for e in measured]
    if not measured or min(enough) < space.FEWEST:
        why = f"An evaluation on {space.FEWEST} tasks or more would say it."
    elif not axes:
        why = "The tasks are numbered objects without parameters in common."
    else:
        order = space.most_telling(axes, measured)
        return {
            "why": None,
            "maps": space.maps(distribution, measured) if len(shown) == 1 else [],
            "charts": [space.chart(axis, runs) for axis in order[: space.SHOWN]],
            "others": [axis.title for axis in order[space.SHOWN :]],
            "large": space.large(distribution),
        }
    return {"why": why, "maps": [], "charts": [], "others": [], "large": []}


def learning(shown: Sequence[Subject]) -> list[Markup]:
    """Charts of metrics over environment steps; of a single iteration there is nothing to draw."""
    marks = phase_marks(shown[0]) if len(shown) == 1 else None
    charts = []
    for label, names, rate in (
        ("success", ("success_before", "success_after"), True),
        ("return", ("return_before", "return_after"), False),
        ("standard deviation of actions", ("std",), False),
    ):
        curves = learning_curves(shown, names)
        if any(len(steps) > 1 for steps, _ in curves.values()):
            charts.append(learning_chart(curves, label, marks, rate))
    return charts


def end_with_page(run: Run, console: Console) -> None:
    """Write the page with which a training ends, as the run's settings say; whatever goes wrong, the run is whole.

    The page is there before the films are, and stays if they cannot be made.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM while filming.
    """
    settings, films = run.settings, f"python -m metarl.report run={run.folder.path}"
    split = settings.evaluate.split
    films += ("" if split == "test" else f" split={split}") + words(settings)
    if settings.report == "none":
        return
    try:
        path = write_report([run])
    except MetaRLError as error:
        return console.print(f"warning: no report: {error}", markup=False)
    if settings.report == "page":
        return console.print(f"report: {path}; with films: {films}")
    try:
        with interruptible():
            footage = film_runs(subjects([run]), ReportSettings(run=[str(run.folder.path)], split=split), console)
            write_report([run], footage=footage)
    except KeyboardInterrupt as cause:
        number = signal.SIGTERM if isinstance(cause, Terminated) else signal.SIGINT
        whole = f"the run is whole, and so is its page, {path}; with films: {films}"
        raise Interrupted(f"stopped while filming; {whole}", number) from cause
    except Exception as error:  # a robot of somebody else's is drawn by his code, which may raise anything
        told = str(error) if isinstance(error, KNOWN) else f"{type(error).__name__}: {one_line(error)}"
        console.print(f"warning: no films: {told}", markup=False)
    console.print(f"report: {path}")


def report_runs(settings: ReportSettings) -> None:
    """The `metarl.report` command."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if len(set(settings.run)) < len(settings.run):
        raise ConfigError(f"run=[{','.join(settings.run)}]: names a run twice")
    runs = [open_run(path, settings.device, settings.checkpoint, settings.trust) for path in settings.run]
    footage, trouble = [], None
    check_writable(_place(runs, settings.out))
    if settings.films:
        try:
            footage = film_runs(subjects(runs), settings, console)
        except KNOWN as error:
            trouble = f"no films: {error}"
            console.print(f"warning: {trouble}", markup=False)
    console.print(f"report: {write_report(runs, settings.out, footage, trouble)}")
