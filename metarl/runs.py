"""What the commands do with runs: train or resume one, open one, evaluate one."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

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
from metarl.culprit import find_culprit
from metarl.episodes import Batch
from metarl.errors import CheckpointError, Interrupted, NotFiniteError, RunFolderError, TrainingError
from metarl.evaluation import adaptation_rounds, report, table
from metarl.learner import Learner
from metarl.plots import curve_png
from metarl.pretrained import PREFIX, is_shipped, locate
from metarl.progress import Progress, clock, print_table
from metarl.rules import longest_trial
from metarl.run_folder import SLIM, RunFolder, atomic_write, git_commit, one_line, read_checkpoint, versions
from metarl.schedule import Budget, graceful_stop
from metarl.trainer import WINDOW, Trainer, load_policy
from metarl.warm_start import begin

# A run that skips more than this share of its updates is not learning, and says so.
SKIPPED_LIMIT = 0.5


@dataclass(frozen=True)
class Run:
    """A trained run, opened for use: its configuration, its policy and its learner."""

    folder: RunFolder
    config: dict[str, Any]
    iteration: int
    env_steps: int  # that it was trained on
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
    iteration, tensors, numbers = folder.load_checkpoint()
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
        env_steps = int(numbers["env_steps"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: the checkpoint does not fit the run's configuration: {text}") from None
    policy.set_attention(learner.attention)
    return Run(folder, config, iteration, env_steps, policy, learner, where)


def train(config: dict[str, Any]) -> Path:
    """Meta-train as `config` says (see metarl/conf), evaluate on held-out tasks, and return the run folder.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once the checkpoint is written.
        TrainingError: if most updates had to be skipped; names what was not finite and the dump that reproduces it.
    """
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(config["torch_threads"])
    folder, config, trainer, seconds = _start(config, console)
    path = folder.path
    budget = Budget(**config["budget"])
    started = time.monotonic() - seconds
    told: set[str] = set()

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
            for kind, trouble in ((re.split(" in | of ", text)[0], text) for text in trainer.troubles):
                if kind not in told:  # a thousand simulations can fail in the same way
                    console.print(f"warning: iteration {trainer.iteration}: {trouble}", markup=False)
                told.add(kind)
            if (used >= 1.0 or len(trainer.recent) == WINDOW) and trainer.skipped_share() > SKIPPED_LIMIT:
                save()
                raise _stopped(folder, config, trainer)
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


def _stopped(folder: RunFolder, config: Mapping[str, Any], trainer: Trainer) -> TrainingError:
    """The error that ends a run which skips most updates; writes the dump of the latest one."""
    what = f"{trainer.skipped_share():.0%} of the updates of the last {len(trainer.recent)} iterations were skipped"
    if trainer.failure is None:  # a learner of the user's own that keeps nothing
        return TrainingError(f"{what}: their gradients were not finite; see {folder.path}")
    message, tensors, state = trainer.failure
    made_by = {"config": dict(config), "versions": versions(), "git_commit": git_commit()[0]}
    dump = folder.save_dump(int(state["iteration"]), tensors, state | made_by)
    return TrainingError(f"{what}: {message}; to see it again: python -m metarl.reproduce dump={dump}")


def reproduce(path: str | Path, device: str = "cpu") -> str:
    """Compute an update that was skipped again, from its dump; returns what is not finite in it.

    Raises:
        CheckpointError: if the folder is no dump, is damaged, or belongs to another version of the code.
    """
    where = resolve_device(device)
    _, tensors, state = read_checkpoint(Path(path))
    try:
        config, names, index = state["config"], state["tasks"], state["index"]
        torch.set_num_threads(config["torch_threads"])
        trainer = Trainer(config, where)
        learner = trainer.phases[state["phase"]][1]
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            number, _, field = rest.partition(".") if group == "round" else ("", "", rest)
            parts[f"{group}{number}"][field] = value.to(where)
        rounds = [Batch(**parts[f"round{number}"]) for number in range(state["rounds"])]
        trainer.policy.load_state_dict(parts["policy"])
        trainer.policy.set_attention(learner.attention)
        chosen = None if index is None else torch.tensor(index)
        culprit = find_culprit(learner, parts["policy"], parts["log_rate"], rounds, chosen)
        return culprit.text(names)
    except (KeyError, IndexError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} is no dump of this code: {type(error).__name__}: {one_line(error)}") from None


def reproduce_dump(config: Mapping[str, Any]) -> None:
    """The `metarl.reproduce` command.

    Raises:
        NotFiniteError: names what was not finite, as the run did that left the dump.
    """
    raise NotFiniteError(reproduce(config["dump"], config["device"]))


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
    commit, dirty = git_commit()
    result |= {"iteration": run.iteration, "training_env_steps": run.env_steps}
    result |= {"versions": versions(), "git_commit": commit, "git_dirty": dirty}
    path = run.output.write_evaluation(split, result)
    atomic_write(path.with_suffix(".png"), curve_png(result))
    print_table(
        console,
        f"{env.name}, {algo}: {tasks} tasks of split '{split}', {episodes} episodes per step",
        table(result["curve"]),
    )
    console.print(f"success: {env.success_criterion}; brackets are 95% confidence intervals over tasks")
    if result["physics_failures"]:
        failures, first = result["physics_failures"], result["first_physics_failure"]
        console.print(f"warning: {failures} episodes failed; their returns end there. The first: {first}", markup=False)
    console.print(f"evaluation: {path}")
    return result


def evaluate_run(config: Mapping[str, Any]) -> None:
    """The `metarl.evaluate` command."""
    evaluate(
        open_run(config["run"], config["device"]),
        console=Console(highlight=False, soft_wrap=True),
        **{key: config[key] for key in ("split", "tasks", "steps", "episodes", "seed", "deterministic", "threads")},
    )
