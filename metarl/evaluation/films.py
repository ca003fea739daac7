"""Videos of a policy on one task: the episodes of its trial, and before and after gradient steps, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from envs.core.environment import Drawer, Environment, MujocoEnvironment, Step
from envs.core.tasks import Tasks
from metarl.algorithms.adaptation import Parameters
from metarl.assembly.build import stream_seed
from metarl.assembly.device import enough_memory
from metarl.assembly.opened import Run, open_run
from metarl.config.settings import RenderSettings
from metarl.errors import RenderError
from metarl.evaluation.curve import adaptation_rounds
from metarl.evaluation.panels import COLOURS, Moment, Panel, film, panel_size
from metarl.evaluation.video import write_video
from metarl.rollouts.rollout import collect

COLUMNS = 5  # episodes of a trial beside each other, at most
PAGE_RATE = 10.0  # pictures per second of a film in a page, at most
PAGE_PICTURES = 160  # of all its panels; longer films have fewer per second


def record(
    run: Run, env: Environment, tasks: Tasks, adapted: Parameters | None, generator: torch.Generator
) -> list[list[Moment]]:
    """The moments of each episode of one trial on one task, acting by the mean action."""
    trial: list[list[Moment]] = []
    over = False

    def listener(t: int, step: Step | None) -> None:
        nonlocal over
        if step is None:
            trial.append([Moment(env.render_state(0), 0.0, 0.0, 0.0, False)])
            over = False
        elif not over:
            told = (float(step.reward[0]), float(step.feedback[0]), bool(step.success[0]))
            trial[-1].append(Moment(env.render_state(0), t * env.step_period, *told))
            over = bool(step.terminated[0])

    env.set_tasks(tasks)
    episodes = run.learner.settings.trial_episodes
    play = partial(collect, generator=generator, trial_episodes=episodes, deterministic=True)
    play(env, run.policy, adapted, listener=listener)
    return trial


def layout(trials: Mapping[int, Sequence[Sequence[Moment]]], sequences: int) -> list[list[Panel]]:
    """Rows of panels: a row for each gradient step, with the episodes of its trial beside each other.

    Without trials of several episodes the gradient steps stand beside each other. Of long trials some episodes are
    shown, with the first and the last.

    Args:
        trials: the episodes of one trial by the gradient steps taken before.
        sequences: E, the trials of the task from which each gradient step learned.
    """
    rows = []
    for step, episodes in trials.items():
        count, before = len(episodes), step * sequences * len(episodes)
        chosen = np.linspace(0, count - 1, min(count, COLUMNS)).round().astype(int).tolist()
        rows.append([Panel(_title(step, i, len(trials), count), before + i, episodes[i]) for i in chosen])
    return rows if len(rows[0]) > 1 else [[row[0] for row in rows]]


def _title(step: int, episode: int, steps: int, episodes: int) -> str:
    """What tells a panel from the others: its gradient step, its episode of the trial, or both."""
    after = f"after {step} gradient step{'' if step == 1 else 's'}" if step else "before adaptation"
    words = [after if steps > 1 else "", f"episode {episode + 1}" if episodes > 1 or steps == 1 else ""]
    return ", ".join(filter(None, words))


def evaluated(run: Run, split: str) -> int:
    """The most improved task of a split, by the run's evaluation of it.

    Raises:
        RunFolderError: in one line that says how to make it, if there is none.
        RenderError: if it has nothing to compare.
    """
    folder = run.evaluated(split)
    task = most_improved(folder.read_evaluation(split).get("per_task"))
    if task is None:
        place = f"{folder.path}/evaluation/{split}.json"
        raise RenderError(f"task=most_improved: {place} has no values before and after adaptation: choose by task=0")
    return task


def most_improved(per_task: object) -> int | None:
    """The number of the task that gained most from its first to its last value: success, then time, then return.

    The values are of gradient steps, of the episodes of a trial, or of both.

    Args:
        per_task: as in evaluation/<split>.json; tasks without two values are passed over.
    """
    gains = {number: _gain(task) for number, task in enumerate(per_task if isinstance(per_task, list) else [])}
    known = {number: gain for number, gain in gains.items() if gain is not None}
    return max(known, key=known.__getitem__, default=None)


def _gain(task: Any) -> tuple[float, float, float] | None:
    try:
        times = task.get("time_to_success", (0.0, 0.0))  # older evaluations have none
        ends = (task["success"], [-time for time in times], task["return"])
        success, sooner, returns = (round(values[-1] - values[0], 9) for values in ends)
        return (success, sooner, returns) if len(task["success"]) > 1 else None
    except (AttributeError, LookupError, TypeError):  # another's file, or a return that was not finite
        return None


@enough_memory()
def render(
    run: Run,
    *,
    split: str,
    task: int | str,
    out: str | Path | None,
    width: int,
    height: int,
    fps: float | None,
    seed: int,
    threads: int,
    steps: Sequence[int] | None = None,
    page: bool = False,
) -> Path:
    """Adapt to one published task, then write the video (suffix .mp4 or .gif); what it shows, `layout` says.

    Args:
        task: its number, or `most_improved`.
        width, height: of a panel; see `panel_size`.
        steps: gradient steps to show; None: before the first and after as many as an evaluation takes.
        page: as a part of a page: with fewer pictures, without shadows. Drawing then takes a tenth of the time.

    Raises:
        RunFolderError, RenderError: as `evaluated`.
        RenderError: if the file cannot be written or its suffix is unknown.
    """
    task = task if isinstance(task, int) else evaluated(run, split)
    path = Path(out) if out else run.output.path / "videos" / f"{split}-task-{task}.mp4"
    if task < 0:
        raise RenderError(f"task={task}: must be 0 or more")
    tasks = run.held_out(split, task + 1).select(slice(task, task + 1))
    steps = sorted({0, run.gradient_steps} if steps is None else set(steps))
    sequences, base = run.settings.evaluate.episodes_per_step, stream_seed(seed, "evaluation")
    wide = run.environment(sequences, base, threads)
    generator = torch.Generator().manual_seed(base + 1)
    rounds = adaptation_rounds(
        wide, run.policy, run.learner, tasks, steps[-1], generator, adapted=run.adapted, measured=False
    )
    acting = rounds[1]
    single, noise = run.environment(1, base, 1), torch.Generator()
    trials = {step: record(run, single, tasks, acting[step], noise.manual_seed(base + 2)) for step in steps}
    rows = layout(trials, sequences)
    size = panel_size(width, height, len(rows[0]))
    from envs.rendering.frames import plain_pictures  # only drawing loads OpenGL

    with plain_pictures() if page else nullcontext():
        drawn = with_drawers(single, rows, size)
    every = thinned(rows, single.step_period) if page else 1
    rate = (fps or 1.0 / single.step_period) / every
    heading = f"{single.name}, {split} task {task}"
    write_video(path, film(drawn, heading, rate, single.feedback == "sparse", every), rate, COLOURS)
    return path


def with_drawers(
    env: Environment, rows: Sequence[Sequence[Panel]], size: tuple[int, int]
) -> list[list[tuple[Panel, Drawer]]]:
    """Each panel with what draws the environment's first simulation into it."""
    if type(env).drawer is MujocoEnvironment.drawer:  # it knows nothing but the state, so one serves all panels
        drawer = env.drawer(0, *size)
        return [[(panel, drawer) for panel in row] for row in rows]
    return [[(panel, env.drawer(0, *size)) for panel in row] for row in rows]


def thinned(rows: Sequence[Sequence[Panel]], period: float) -> int:
    """Of how many moments, `period` seconds apart, a page shows one."""
    moments = sum(len(panel.moments) for row in rows for panel in row)
    return max(math.ceil(moments / PAGE_PICTURES), math.ceil(1.0 / (period * PAGE_RATE) - 1e-9))


def render_run(settings: RenderSettings) -> None:
    """The `metarl.render` command."""
    run = open_run(settings.run, settings.device, settings.checkpoint, settings.trust)
    options = {name: value for name, value in settings if name not in ("run", "device", "checkpoint", "trust")}
    path = render(run, threads=0, **options)
    Console(highlight=False, soft_wrap=True, markup=False).print(f"video: {path}")
