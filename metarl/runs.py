"""What the commands do with runs: train or resume one, open one, evaluate one."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment
from envs.core.tasks import Tasks
from metarl.algorithms.learner import Learner
from metarl.algorithms.nan_search import search_update
from metarl.assembly.build import (
    ALGORITHMS,
    build_environment,
    build_policy,
    build_settings,
    stream_seed,
)
from metarl.assembly.trust import check_factory, stored_config
from metarl.config.command_line import resolve_device
from metarl.config.memory import check_rollout
from metarl.config.settings import LISTED, longest_trial
from metarl.errors import CheckpointError, ConfigError, Interrupted, NotFiniteError, TrainingError
from metarl.evaluation.curve import adaptation_rounds, report, table
from metarl.evaluation.plots import curve_png
from metarl.run_folder import RunFolder, atomic_write, git_commit, one_line, read_checkpoint, versions
from metarl.run_folder.pretrained import PREFIX, is_shipped, locate
from metarl.training.budget import Budget, graceful_stop
from metarl.training.failure import Failure
from metarl.training.progress import Progress, clock, print_table
from metarl.training.session import Session, begin
from metarl.training.trainer import WINDOW, Trainer, load_policy

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

    @property
    def gradient_steps(self) -> int:
        """How many an evaluation takes if nothing else is said: as set, or as many as in training."""
        steps = self.config["evaluate"]["steps"]
        return self.learner.settings.inner.steps if steps is None else steps

    def environment(self, simulations: int, seed: int, threads: int = 0) -> Environment:
        """The environment it was trained on, with N simulations.

        Raises:
            ConfigError: if so many cannot fit into the memory.
        """
        length = self.policy.max_length
        check_rollout(self.config["agent"], simulations, length, f"{simulations} episodes at once of {length} steps")
        return build_environment(self.config["env"], simulations, seed, threads)

    def held_out(self, split: str, tasks: int) -> Tasks:
        """Tasks of a split: the published list for `test` and `ood`, fresh ones for `train`.

        Raises:
            ConfigError: for a longer list than there is.
            TaskError: for a split that the environment does not have.
        """
        if not 1 <= tasks <= LISTED:
            raise ConfigError(f"a list of {split} tasks has 1 to {LISTED} tasks, not {tasks}")
        return self.environment(1, 0, 1).distribution.published(split, tasks)


def open_run(path: str | Path, device: str = "auto", checkpoint: str = "last") -> Run:
    """Open a run folder's newest good checkpoint, or its best one; `pretrained/<name>` comes with the package.

    A run is data: nothing in the folder is executed. What it may name as its environment, `metarl.assembly.trust` says.

    Args:
        checkpoint: `last` or `best`.

    Raises:
        RunFolderError, CheckpointError: if the folder or every checkpoint in it is unusable.
        EnvsError: if its environment is not there, or may not be named.
    """
    folder = RunFolder.open(locate(path))
    config = stored_config(folder)
    number = folder.best if checkpoint == "best" else None
    if checkpoint == "best" and number is None:
        raise CheckpointError(f"{path} has no best checkpoint yet: choose checkpoint=last")
    iteration, tensors, numbers = folder.load_checkpoint(number)
    where = resolve_device(device)
    torch.set_num_threads(config["torch_threads"])
    settings = build_settings(config["algo"])
    check_factory(config["env"].get("entry") or config["env"]["name"])
    env, trial = build_environment(config["env"], 1, 0, 1), longest_trial(config["algo"])
    with torch.device("meta"):  # without memory: the sizes are compared before anything is allocated
        check_fit(build_policy(config["agent"], env, trial, torch.device("meta")), tensors, path)
    policy = build_policy(config["agent"], env, trial, where)
    learner = ALGORITHMS[config["algo"]["name"]](policy, settings, torch.Generator())
    index = 1 if (config["algo"].get("warm_start") or {}).get("iterations") else 0
    try:
        load_policy(policy, tensors)
        for name, value in learner.log_rates.items():
            value.copy_(tensors[f"learner.{index}.log_rate.{name}"])
        env_steps = int(numbers["env_steps"])
    except (KeyError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: the checkpoint does not fit the run's configuration: {text}") from None
    policy.set_attention(learner.attention)
    return Run(folder, config, iteration, env_steps, policy, learner, where)


def check_fit(policy: Policy, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """A checkpoint's tensors must be those of the policy that the configuration describes, name by name.

    Raises:
        CheckpointError: with the first that is not.
    """
    for name, value in policy.state_dict().items():
        found = tensors.get(f"policy.{name}")
        if found is None or found.shape != value.shape or found.dtype != value.dtype:
            what = "missing" if found is None else f"{tuple(found.shape)} {found.dtype}".replace("torch.", "")
            wanted = f"{tuple(value.shape)} {value.dtype}".replace("torch.", "")
            raise CheckpointError(
                f"{path}: the checkpoint does not fit the run's configuration: {name} is {what}, expected {wanted}"
            )


def train(config: dict[str, Any]) -> Path:
    """Meta-train as `config` says (see metarl/conf), evaluate on held-out tasks, and return the run folder.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once the checkpoint is written.
        TrainingError: if most updates had to be skipped; names what was not finite and the dump that reproduces it.
    """
    console = Console(highlight=False, soft_wrap=True)
    with begin(config, console) as session:
        _iterate(session, console)
        _finish(session, console)
    return session.folder.path


def _iterate(session: Session, console: Console) -> None:
    """Meta-iterations until the budget is used, with their metrics and checkpoints."""
    folder, trainer, config = session.folder, session.trainer, session.config
    budget, path = Budget(**config["budget"]), folder.path
    started = time.monotonic() - session.seconds
    told: set[str] = set()
    steps_before, beginning = trainer.env_steps, time.monotonic()
    used = budget.fraction(trainer.iteration, trainer.env_steps, session.seconds)
    with graceful_stop() as stop, folder.metrics(trainer.iteration) as metrics, Progress(console) as progress:
        # What is used is read once for each iteration: the last one is always saved.
        while used < 1.0:
            phase, _ = trainer.phase()
            row = trainer.iterate()
            session.best.add(row)
            spent = session.seconds = time.monotonic() - started
            speed = (trainer.env_steps - steps_before) / (time.monotonic() - beginning)
            metrics.append(row | {"seconds": spent, "steps_per_second": speed})
            used = budget.fraction(trainer.iteration, trainer.env_steps, spent)
            progress.show(phase, row, used, spent, speed)
            if stop.signal is not None or used >= 1.0 or trainer.iteration % config["checkpoint"]["every"] == 0:
                session.save(spent)
            if stop.signal is not None:
                raise Interrupted(f"stopped; continue with: python -m metarl.train resume={path}", stop.signal)
            for kind, trouble in ((re.split(" in | of ", text)[0], text) for text in trainer.troubles):
                if kind not in told:  # a thousand simulations can fail in the same way
                    console.print(f"warning: iteration {trainer.iteration}: {trouble}", markup=False)
                told.add(kind)
            if (used >= 1.0 or len(trainer.recent) == WINDOW) and trainer.skipped_share() > SKIPPED_LIMIT:
                session.save(spent)
                raise _stopped(folder, config, trainer)


def _finish(session: Session, console: Console) -> None:
    """Evaluate a run that is trained, and say where everything is."""
    trainer, config, path = session.trainer, session.config, session.folder.path
    seconds = clock(session.seconds)
    console.print(f"trained {trainer.iteration} iterations, {trainer.env_steps:,} environment steps in {seconds}")
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


def _stopped(folder: RunFolder, config: Mapping[str, Any], trainer: Trainer) -> TrainingError:
    """The error that ends a run which skips most updates; writes the dump of the latest one."""
    what = f"{trainer.skipped_share():.0%} of the updates of the last {len(trainer.recent)} iterations were skipped"
    failure = trainer.failure
    assert failure is not None  # each iteration that skips leaves one
    tensors, state = failure.dump()
    made_by = {"config": dict(config), "versions": versions(), "git_commit": git_commit()[0]}
    dump = folder.save_dump(int(state["iteration"]), tensors, state | made_by)
    return TrainingError(f"{what}: {failure.message}; to see it again: python -m metarl.reproduce dump={dump}")


def reproduce(path: str | Path, device: str = "cpu") -> str:
    """Compute an update that was skipped again, from its dump; returns what is not finite in it.

    Raises:
        CheckpointError: if the folder is no dump, is damaged, or belongs to another version of the code.
    """
    where = resolve_device(device)
    _, tensors, state = read_checkpoint(Path(path))
    try:
        torch.set_num_threads(state["config"]["torch_threads"])
        failure = Failure.read(tensors, state, where)
        trainer = Trainer(state["config"], where)
        trainer.iteration = failure.iteration
        finding = search_update(trainer.ready_learner(), failure.start, failure.rounds)
        return finding.text(failure.tasks)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no dump of this code: {type(error).__name__}: {one_line(error)}") from None


def reproduce_dump(config: Mapping[str, Any]) -> None:
    """The `metarl.reproduce` command.

    Raises:
        NotFiniteError: names what was not finite, as the run did that left the dump.
    """
    raise NotFiniteError(reproduce(config["dump"], config["device"]))


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
        steps: gradient steps (None: `Run.gradient_steps`). episodes: per step (None: as the run's configuration
            says).
    """
    chosen = run.held_out(split, tasks)
    steps = run.gradient_steps if steps is None else steps
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
        open_run(config["run"], config["device"], config["checkpoint"]),
        console=Console(highlight=False, soft_wrap=True),
        **{key: config[key] for key in ("split", "tasks", "steps", "episodes", "seed", "deterministic", "threads")},
    )
