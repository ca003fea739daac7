"""Kill trainings at random moments, resume them, and compare with one that nobody killed: bit for bit.

    python -m experiments.faults                                       20 kills each of maml, reptile and in_context
    python -m experiments.faults --env reach --algo maml --kills 10 --seed 3

A run is killed with SIGKILL: after a random time, or just before or in the middle of a random write to the disk, so
that short phases (the start, a checkpoint, the evaluation) are hit as well. A resumed run may be killed again. In the
end these must be equal: every tensor of every checkpoint (policy, optimiser, learned rates, random generators), its
counters, which one is the best, the rows of metrics.csv and of TensorBoard, every step once, and the evaluation. These
may differ: CLOCKS, the path of the run, and the times at which things happened.

Processes are forked from this one, which has imported everything: POSIX only.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import metarl.runs as runs
from metarl.config.composition import compose
from metarl.config.settings import ResumeSettings, TrainSettings
from metarl.errors import KNOWN
from metarl.run_folder import RunFolder, files

SOURCE = ("git_commit", "git_dirty")  # the source may change meanwhile
CLOCKS = {"seconds", "steps_per_second", "rollout_seconds", "update_seconds"}
ALGORITHMS = ("maml", "reptile", "in_context")
TINY = ["algo.tasks=4", "algo.episodes=2", "checkpoint.every=2", "budget.iterations=7", "evaluate.tasks=3"]
TINY += ["evaluate.episodes_per_step=2", "threads=1", "device=cpu"]
# The warm start ends in the middle of the run, and not where a checkpoint is.
WARM = ["algo.warm_start.iterations=3"]
OUTER = ["outer.n_epochs=1", "outer.minibatches=2"]
WARM += [f"algo.warm_start.settings.{key}" for key in ("tasks=4", "episodes=3", *OUTER)]
# Modules that training imports late; here they are imported once, instead of in every process.
LATE = ("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg", "tensorboard.compat.proto.event_pb2")
LIVES = 3  # at most, after the first
SHORTEST = 0.01  # s after which a kill is not tried earlier still
AGAIN = 0.4  # the chance that a resumed run is killed again


def settings_of(env: str, algo: str, seed: int, more: Sequence[str] = ()) -> list[str]:
    """The overrides of a small run: a warm start for the algorithms that have one, and a Transformer for it."""
    warm = [*WARM, "agent=transformer", "agent.width=8"] if algo in ("maml", "fomaml", "reptile") else []
    memory = ["agent=transformer", "agent.width=8"] if algo == "in_context" else []
    short = [] if algo == "reptile" else [f"algo.{key}" for key in OUTER]
    return [f"env={env}", "env.horizon=8", f"algo={algo}", f"seed={seed}", *TINY, *warm, *memory, *short, *more]


class Writes:
    """Counts the writes of this process to the disk, and kills it at one of them.

    Args:
        at: the number of the write, from 0; None: kill at none.
        half: kill in the middle of the write, if it is a file's content, instead of before it.
    """

    def __init__(self, at: int | None = None, half: bool = False) -> None:
        self.at, self.half = at, half
        self.seen: list[str] = []  # what each write was for, in order
        for name in ("fsync", "rename", "replace", "mkdir"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        self.write_all = files.write_all
        files.write_all = self._content

    def _reached(self, write: str) -> bool:
        self.seen.append(write)
        return self.at is not None and len(self.seen) == self.at + 1

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._reached(f"{name} {arguments[0 if name == 'mkdir' else -1]}"):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    def _content(self, file: Any, content: bytes) -> None:
        if self._reached(f"write {file.name}"):
            if self.half:
                file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self.write_all(file, content)


def live(
    settings: TrainSettings | ResumeSettings, log: Path, at: int | None = None, half: bool = False, after: float = -1.0
) -> int:
    """One process that trains; returns its exit status, negative for a signal.

    Args:
        settings: of the command. log: where its output goes.
        at, half: kill it at a write, see `Writes`. after: kill it after so many seconds (below 0: never).
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
            writes = Writes(at, half)
            runs.train(settings)
            log.with_suffix(".writes").write_text("\n".join(writes.seen))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    deadline = time.monotonic() + after
    while True:
        found, status = os.waitpid(child, os.WNOHANG if after >= 0 else 0)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            after = -1.0
        time.sleep(0.002)


def again(settings: TrainSettings, folder: Path) -> TrainSettings | ResumeSettings:
    """The settings that continue a killed run: a resume, or the same ones again if it had not begun."""
    return compose([f"resume={folder}"]) if (folder / "config.yaml").exists() else settings


def content(folder: Path) -> dict[str, Any]:
    """Everything about a run that must be equal, by name."""
    run = RunFolder.open(folder)
    found: dict[str, Any] = {"checkpoints": run.iterations(), "best": run.best}
    for iteration in run.iterations():
        _, tensors, state = run.load_checkpoint(iteration)
        found |= {f"checkpoint {iteration}, {name}": _bits(value) for name, value in tensors.items()}
        found[f"checkpoint {iteration}, numbers"] = {k: v for k, v in state.items() if k not in CLOCKS}
    with open(folder / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]
    found |= {f"metrics.csv, row {number}": row for number, row in enumerate(rows, 1)}
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in set(events.Tags()["scalars"]) - CLOCKS:
        found[f"tensorboard, {tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    found["evaluation, test.csv"] = (folder / "evaluation" / "test.csv").read_text()
    found["evaluation, test.json"] = {k: v for k, v in run.read_evaluation("test").items() if k not in SOURCE}
    # The commit is that of the moment at which the folder was made.
    config = run.read_config()
    found["config.yaml"] = {k: v for k, v in config.items() if k not in ("run_dir", *SOURCE)}
    # evaluation/ is not checked: others may be writing there, so what a kill left is removed ten minutes later.
    found["left over"] = sorted(path.name for part in (".", "checkpoints") for path in (folder / part).glob(".*.*"))
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The names of entries that differ, or that only one of the dictionaries has."""
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


def check_steps(found: dict[str, Any]) -> None:
    """TensorBoard shows every step at most once, in order, in an uninterrupted run as well."""
    for name, points in found.items():
        if name.startswith("tensorboard, "):
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)), f"{name}: steps {steps}"


def survive(
    overrides: Sequence[str], expected: dict[str, Any], folder: Path, dice: random.Random, moment: dict[str, Any]
) -> list[str]:
    """Kill a run at a moment, resume it until it ends, and return what is not as expected.

    A run that ended before its moment is begun again, with half the time; one that was never killed has not survived.
    """
    log, settings = folder.with_suffix(".log"), compose([*overrides, f"run_dir={folder}"])
    status = live(settings, log, **moment)
    while status == 0 and moment.get("after", 0.0) > SHORTEST:
        shutil.rmtree(folder)
        moment = {"after": 0.5 * moment["after"]}
        status = live(settings, log, **moment)
    if status == 0:
        return ["it ended before it was killed"]
    for _ in range(LIVES):
        if status != -signal.SIGKILL or dice.random() > AGAIN:
            break
        status = live(again(settings, folder), log, after=dice.uniform(0.0, 1.0))
    if status == -signal.SIGKILL:
        status = live(again(settings, folder), log)
    if status != 0:
        return [f"exit status {status}: {log.read_text().strip().splitlines()[-1:]}"]
    found = content(folder)
    check_steps(found)
    return differences(expected, found)


def moments(writes: Sequence[str], seconds: float, kills: int, dice: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """When to kill: some before the first checkpoint, some in later ones, some in the evaluation, the rest anywhere."""
    first = next(number for number, write in enumerate(writes) if write.endswith("iteration-000000"))
    of = {
        "the start": range(first + 1),
        "a checkpoint": [n for n, write in enumerate(writes) if n > first and "/checkpoints" in write],
        "the evaluation": [n for n, write in enumerate(writes) if "/evaluation" in write],
        "the metrics": [n for n, write in enumerate(writes) if "metrics.csv" in write or "tfevents" in write],
    }
    chosen = []
    for number in range(kills):
        if number % (len(of) + 1) == len(of):
            after = dice.uniform(0.0, seconds)
            chosen.append((f"after {after:.2f} s", {"after": after}))
            continue
        name, numbers = list(of.items())[number % (len(of) + 1)]
        at, half = dice.choice(numbers), dice.random() < 0.5
        path = writes[at].split("/")[-1]
        chosen.append((f"in {name}, write {at} ({writes[at].split()[0]} {path})", {"at": at, "half": half}))
    return chosen


def positive(text: str) -> int:
    """An integer from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be an integer from 1, got {text}")
    return int(text)


def experiment(env: str, algo: str, kills: int, seed: int, base: Path, more: Sequence[str] = ()) -> int:
    """Print what became of each killed run; returns how many survived."""
    overrides, dice = settings_of(env, algo, seed, more), random.Random(f"{env} {algo} {seed}")
    whole = base / f"{env}-{algo}-whole"
    settings = compose([*overrides, f"run_dir={whole}"])
    start = time.monotonic()
    status = live(settings, whole.with_suffix(".log"))
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"error: the uninterrupted run failed: {whole.with_suffix('.log').read_text()}")
    expected = content(whole)
    check_steps(expected)
    writes = whole.with_suffix(".writes").read_text().splitlines()
    survived = 0
    for number, (name, moment) in enumerate(moments(writes, seconds, kills, dice), 1):
        folder = base / f"{env}-{algo}-{number}"
        wrong = survive(overrides, expected, folder, dice, moment)
        survived += not wrong
        verdict = f"differs in {len(wrong)}: {'; '.join(wrong[:3])}" if wrong else "equal"
        print(f"{env} {algo}, kill {number} {name}: {verdict}", flush=True)
        if not wrong:
            shutil.rmtree(folder)
    return survived


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 if every run survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="further settings of the runs, such as agent.layers=1")
    parser.add_argument("--env", default="point2d", help="default: %(default)s")
    parser.add_argument("--algo", nargs="+", default=list(ALGORITHMS), help="default: %(default)s")
    parser.add_argument("--kills", type=positive, default=20, help="of each algorithm (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the runs and of the moments")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, to look at those that did not survive")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    for module in LATE:
        importlib.import_module(module)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every step that it hides, as it should
    survived = 0
    with tempfile.TemporaryDirectory(prefix="metarl-faults-") as temporary:
        base = options.keep or Path(temporary)
        try:
            base.mkdir(parents=True, exist_ok=True)
            for algo in options.algo:
                survived += experiment(options.env, algo, options.kills, options.seed, base, options.overrides)
        except KNOWN as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    total = options.kills * len(options.algo)
    print(f"{survived} survived of {total}")
    return 0 if survived == total else 1


def _bits(value: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return str(value.dtype), tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    sys.exit(main())
