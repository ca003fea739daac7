"""Videos of a policy on one task, before and after adaptation side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from envs.core.environment import Drawer, Environment, Step
from envs.core.tasks import Tasks
from metarl.algorithms.adaptation import Parameters
from metarl.assembly.build import stream_seed
from metarl.assembly.device import enough_memory
from metarl.assembly.opened import Run, open_run
from metarl.config.settings import RenderSettings
from metarl.errors import RenderError
from metarl.evaluation.curve import adaptation_rounds
from metarl.evaluation.video import beside, caption, write_video
from metarl.rollouts.rollout import collect

HOLD_SECONDS = 1.0  # how long the last picture stays
BAND = 32  # grey level of the strip that holds the caption, so that it hides nothing


@dataclass(frozen=True)
class Moment:
    """One picture's worth of an episode."""

    state: dict[str, np.ndarray]
    step: int
    reward: float
    success: bool


def record(
    run: Run, env: Environment, tasks: Tasks, adapted: Parameters | None, generator: torch.Generator
) -> list[list[Moment]]:
    """The moments of each episode of one trial on one task, acting by the mean action."""
    trial: list[list[Moment]] = []
    over = False

    def listener(t: int, step: Step | None) -> None:
        nonlocal over
        if step is None:
            trial.append([Moment(env.render_state(0), 0, 0.0, False)])
            over = False
        elif not over:
            trial[-1].append(Moment(env.render_state(0), t, float(step.reward[0]), bool(step.success[0])))
            over = bool(step.terminated[0])

    env.set_tasks(tasks)
    episodes = run.learner.settings.trial_episodes
    play = partial(collect, generator=generator, trial_episodes=episodes, deterministic=True)
    play(env, run.policy, adapted, listener=listener)
    return trial


def panels(run: Run, tasks: Tasks, adapted: Parameters | None, env: Environment, seed: int) -> dict[str, list[Moment]]:
    """The episodes to show, by title: before and after adaptation by gradient, or the first and last of a trial."""
    generator = torch.Generator().manual_seed(seed)
    before = record(run, env, tasks, None, generator)
    if adapted is not None:
        generator.manual_seed(seed)
        after = record(run, env, tasks, adapted, generator)
        return {"before adaptation": before[0], "after adaptation": after[-1]}
    if len(before) > 1:
        return {"first episode": before[0], f"episode {len(before)}": before[-1]}
    return {"adapting within the episode": before[0]}


def frames(
    shown: Mapping[str, list[Moment]], drawer: Mapping[str, Drawer], heading: str, fps: float
) -> Iterator[np.ndarray]:
    """Captioned pictures of all panels side by side; a shorter episode stays at its last moment."""
    length = max(len(moments) for moments in shown.values())
    last: np.ndarray | None = None
    for t in range(length):
        columns = []
        for title, moments in shown.items():
            moment = moments[min(t, len(moments) - 1)]
            total = sum(m.reward for m in moments[: t + 1])
            mark = "success" if moment.success else ""
            lines = [
                f"{heading}: {title}",
                f"step {moment.step}  reward {moment.reward:+.2f}  return {total:+.2f}  {mark}",
            ]
            picture = drawer[title](moment.state)
            band = np.full((picture.shape[0] // 8, *picture.shape[1:]), BAND, np.uint8)
            columns.append(caption(np.concatenate([band, picture]), lines))
        last = columns[0] if len(columns) == 1 else beside(columns[0], columns[1])
        yield last
    assert last is not None
    for _ in range(round(HOLD_SECONDS * fps)):
        yield last


def evaluated(run: Run, split: str) -> int:
    """The most improved task of a split, by the run's evaluation of it.

    Raises:
        RunFolderError: in one line that says how to make it, if there is none.
        RenderError: if it has nothing to compare.
    """
    # A shipped policy comes with evaluations; one that the user has made of it goes before.
    made = (run.output.path / "evaluation" / f"{split}.json").is_file()
    folder = run.output if made else run.folder
    task = most_improved(folder.read_evaluation(split).get("per_task"))
    if task is None:
        place = f"{folder.path}/evaluation/{split}.json"
        raise RenderError(f"task=most_improved: {place} has no values before and after adaptation: choose by task=0")
    return task


def most_improved(per_task: object) -> int | None:
    """The number of the task whose success, and then return, grew most from its first to its last value.

    Args:
        per_task: as in evaluation/<split>.json; tasks without two values are passed over.
    """
    gains = {number: _gain(task) for number, task in enumerate(per_task if isinstance(per_task, list) else [])}
    known = {number: gain for number, gain in gains.items() if gain is not None}
    return max(known, key=known.__getitem__, default=None)


def _gain(task: Any) -> tuple[float, float] | None:
    try:
        success, returns = (round(task[name][-1] - task[name][0], 9) for name in ("success", "return"))
        return (success, returns) if len(task["success"]) > 1 else None
    except (LookupError, TypeError):  # a file that somebody else wrote, or a return that was not finite
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
) -> Path:
    """Adapt to one published task, then write the video (suffix .mp4 or .gif) of before and after.

    Args:
        task: its number, or `most_improved`.

    Raises:
        RunFolderError, RenderError: as `evaluated`.
        RenderError: if the file cannot be written or its suffix is unknown.
    """
    task = task if isinstance(task, int) else evaluated(run, split)
    path = Path(out) if out else run.output.path / "videos" / f"{split}-task-{task}.mp4"
    if task < 0:
        raise RenderError(f"task={task}: must be 0 or more")
    tasks = run.held_out(split, task + 1).select(slice(task, task + 1))
    steps = run.gradient_steps
    base = stream_seed(seed, "evaluation")
    wide = run.environment(run.settings.evaluate.episodes_per_step, base, threads)
    _, acting = adaptation_rounds(wide, run.policy, run.learner, tasks, steps, torch.Generator().manual_seed(base + 1))
    single = run.environment(1, base, 1)
    shown = panels(run, tasks, acting[-1], single, base + 2)
    rate = fps or 1.0 / single.control_period
    drawers = {title: single.drawer(0, width, height) for title in shown}
    write_video(path, frames(shown, drawers, f"{single.name} {split} task {task}", rate), rate)
    return path


def render_run(settings: RenderSettings) -> None:
    """The `metarl.render` command."""
    run = open_run(settings.run, settings.device, settings.checkpoint, settings.trust)
    options = {name: value for name, value in settings if name not in ("run", "device", "checkpoint", "trust")}
    path = render(run, threads=0, **options)
    Console(highlight=False, soft_wrap=True).print(f"video: {path}")
