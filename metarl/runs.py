"""What the commands do with runs: train or resume one, open one, evaluate one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agents.policy import Policy
from envs.environment import Environment
from envs.tasks import Tasks
from metarl.assembly import (
    ALGORITHMS,
    build_environment,
    build_policy,
    build_settings,
    stream_seed,
)
from metarl.config import resolve_device
from metarl.errors import CheckpointError, Interrupted, RunFolderError, TrainingError
from metarl.evaluation import adaptation_rounds, report, table
from metarl.learner import Learner
from metarl.plots import curve_png
from metarl.pretrained import PREFIX, is_shipped, locate
from metarl.progress import Progress, clock, print_table
from metarl.rules import longest_trial
from metarl.run_folder import SLIM, RunFolder, atomic_write
from metarl.schedule import Budget, graceful_stop
from metarl.trainer import Trainer, load_policy
from metarl.warm_start import begin

# A run that skips more than this share of its updates is not learning, and says so.
SKIPPED_LIMIT = 0.5


@dataclass(frozen=True)
class Run:
    """A trained run, opened for use: its configuration, its policy and its learner."""

    folder: RunFolder
    config: dict[str, Any]
    iteration: int
    policy: Policy
    learner: Learner
    device: torch.device

    @property
    def output(self) -> RunFolder:
        """Where its evaluations and videos go: its folder, or a shipped policy's name in the working folder."""
        if not is_shipped(self.folder.path):
            return self.folder
        return RunFolder(Path(f"{PREFIX}-{self.folder.path.name}"))

    def environment(self, simulations: int, seed: int, threads: int = 0) -> Environment:
        """The environment it was trained on, with N simulations."""
        return build_environment(self.config["env"], simulations, seed, threads)

    def held_out(self, split: str, tasks: int) -> Tasks:
        """Tasks of a split: the published list for `test` and `ood`, fresh ones for `train`."""
        return self.environment(1, 0, 1).distribution.published(split, tasks)


def open_run(path: str | Path, device: str = "auto") -> Run:
    """Open a run folder's newest good checkpoint; `pretrained/<name>` is a policy that comes with the package.

    Raises:
        RunFolderError, CheckpointError: if the folder or every checkpoint in it is unusable.
    """
    folder = RunFolder.open(locate(path))
    config = folder.read_config()
    iteration, tensors, _ = folder.load_checkpoint()
    where = resolve_device(device)
    torch.set_num_threads(config["torch_threads"])
    settings = build_settings(config["algo"])
    env = build_environment(config["env"], 1, 0, 1)
    policy = build_policy(config["agent"], env, longest_trial(config["algo"]), where)
    learner = ALGORITHMS[config["algo"]["name"]](policy, settings, torch.Generator())
    index = 1 if (config["algo"].get("warm_start") or {}).get("iterations") else 0
    try:
        load_policy(policy, tensors)
        for name, value in learner.log_rates.items():
            value.copy_(tensors[f"learner.{index}.log_rate.{name}"])
    except (KeyError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: the checkpoint does not fit the run's configuration: {text}") from None
    policy.set_attention(learner.attention)
    return Run(folder, config, iteration, policy, learner, where)


def train(config: dict[str, Any]) -> Path:
    """Meta-train as `config` says (see metarl/conf), evaluate on held-out tasks, and return the run folder.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once the checkpoint is written.
        TrainingError: if most updates had to be skipped.
    """
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(config["torch_threads"])
    folder, config, trainer, seconds = _start(config, console)
    path = folder.path
    budget = Budget(**config["budget"])
    first_iteration, started = trainer.iteration, time.monotonic() - seconds

    def save() -> None:
        spent = time.monotonic() - started
        tensors, numbers = trainer.state()
        folder.save_checkpoint(
            trainer.iteration, tensors, numbers | {"seconds": spent}, keep=config["checkpoint"]["keep"]
        )

    if trainer.iteration == 0:
        save()  # a run that is stopped at any moment after this can be resumed
    steps_before = trainer.env_steps
    with graceful_stop() as stop, folder.metrics(trainer.iteration) as metrics, Progress(console) as progress:
        session = time.monotonic()
        while (used := budget.fraction(trainer.iteration, trainer.env_steps, time.monotonic() - started)) < 1.0:
            phase, _ = trainer.phase()
            row = trainer.iterate()
            spent = time.monotonic() - started
            speed = (trainer.env_steps - steps_before) / (time.monotonic() - session)
            metrics.append(row | {"seconds": spent, "steps_per_second": speed})
            used = budget.fraction(trainer.iteration, trainer.env_steps, spent)
            progress.show(phase, row, used, spent, speed)
            if stop.signal is not None or used >= 1.0 or trainer.iteration % config["checkpoint"]["every"] == 0:
                save()
            if stop.signal is not None:
                raise Interrupted(f"stopped; continue with: python -m metarl.train resume={path}", stop.signal)
            if trainer.iteration - first_iteration >= 20 and trainer.skipped_share() > SKIPPED_LIMIT:
                save()
                raise TrainingError(
                    f"{trainer.skipped_share():.0%} of the updates had gradients that are not finite; see {path}"
                )
    spent = time.monotonic() - started
    console.print(f"trained {trainer.iteration} iterations, {trainer.env_steps:,} environment steps in {clock(spent)}")
    settings = config["evaluate"]
    evaluate(
        open_run(path, config["device"]),
        split=settings["split"],
        tasks=settings["tasks"],
        steps=settings["steps"],
        episodes=settings["episodes_per_step"],
        seed=config["seed"],
        deterministic=settings["deterministic"],
        threads=config["threads"],
        console=console,
    )
    console.print(f"files: {path}")
    console.print(
        f"video: python -m metarl.render run={path} split={settings['split']} task=0 out={path}/videos/task-0.mp4"
    )
    return path


def _start(config: dict[str, Any], console: Console) -> tuple[RunFolder, dict[str, Any], Trainer, float]:
    """A fresh run folder and trainer, or those of the run to resume; with the seconds that training took before."""
    if not config["resume"]:
        device = resolve_device(config["device"])
        trainer = Trainer(config, device)
        config = begin(trainer, config)
        name = f"{config['env']['name']}-{config['algo']['name']}"
        folder = RunFolder.create(config["run_dir"], name=name)
        folder.write_config(config)
        console.print(f"run folder {folder.path}, device {device}")
        return folder, config, trainer, 0.0
    folder = RunFolder.open(locate(config["resume"]))
    # What the resumed run is, its folder says; only how long and where it runs may change.
    stored = folder.read_config() | {key: config[key] for key in ("budget", "device") if config[key] is not None}
    trainer = Trainer(stored, resolve_device(stored["device"]))
    iteration, tensors, numbers = folder.load_checkpoint()
    if numbers.get(SLIM):
        remedy = f"begin from its policy with algo.warm_start.run={config['resume']}"
        raise RunFolderError(f"{config['resume']} lacks what training needs to go on; {remedy}")
    trainer.load(tensors, numbers)
    console.print(f"resuming {folder.path} after iteration {iteration}")
    return folder, stored, trainer, float(numbers["seconds"])


def evaluate(
    run: Run,
    *,
    split: str,
    tasks: int,
    steps: int | None,
    episodes: int | None,
    seed: int,
    deterministic: bool,
    threads: int,
    console: Console,
) -> dict[str, Any]:
    """Measure the adaptation curve of a run on tasks of a split, print it, and write it into the run folder.

    Args:
        steps: gradient steps (None: as many as in training). episodes: per step (None: as the run's configuration
            says).
    """
    chosen = run.held_out(split, tasks)
    steps = run.config["evaluate"]["steps"] if steps is None else steps
    steps = run.learner.settings.inner.steps if steps is None else steps
    episodes = int(episodes or run.config["evaluate"]["episodes_per_step"])
    env = run.environment(tasks * episodes, stream_seed(seed, "evaluation"), threads)
    generator = torch.Generator().manual_seed(stream_seed(seed, "evaluation") + 1)
    rounds, _ = adaptation_rounds(env, run.policy, run.learner, chosen, steps, generator, deterministic)
    algo = run.config["algo"]["name"]
    result = report(rounds, chosen, env=env, algo=algo, split=split, seed=seed, deterministic=deterministic)
    result["iteration"] = run.iteration
    path = run.output.write_evaluation(split, result)
    atomic_write(path.with_suffix(".png"), curve_png(result))
    print_table(
        console,
        f"{env.name}, {algo}: {tasks} held-out tasks of split '{split}', {episodes} episodes per step",
        table(result["curve"]),
    )
    console.print(f"success: {env.success_criterion}; brackets are 95% confidence intervals over tasks")
    console.print(f"evaluation: {path}")
    return result


def evaluate_run(config: Mapping[str, Any]) -> None:
    """The `metarl.evaluate` command."""
    evaluate(
        open_run(config["run"], config["device"]),
        console=Console(highlight=False, soft_wrap=True),
        **{key: config[key] for key in ("split", "tasks", "steps", "episodes", "seed", "deterministic", "threads")},
    )
