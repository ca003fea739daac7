"""The folder of a run: making it, opening it, and what is in it."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from metarl.errors import CheckpointError, ConfigError, RunFolderError, RunWarning, nearest
from metarl.run_folder.checkpoints import RECORD, TENSORS, Checkpoint, load, save
from metarl.run_folder.files import (
    LOCK,
    atomic_write,
    discard,
    guard,
    left_over,
    numbered_folder,
    one_line,
    plain_name,
    read_limited,
    sweep,
    sync,
)
from metarl.run_folder.lock import only_writer
from metarl.run_folder.metrics import MetricsLog, numbers, read_table, table_bytes
from metarl.run_folder.plain_yaml import LIMIT, dump_yaml, load_yaml
from metarl.run_folder.provenance import git_commit, versions

FORMAT, FORMAT_VERSION = "metarl-run", 1
MADE_BY = ("versions", "git_commit", "git_dirty")  # what every configuration ends with
# What a reader removes as left over from a crash must be older than this (seconds): a trainer may be writing it now.
LEFTOVER_AGE = 600.0
FOLDERS = ("checkpoints", "dumps", "evaluation", "tensorboard", "videos", "wandb")


class RunFolder:
    """A run's folder. `create` makes a new one and `open` checks an existing one; the constructor does neither."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path | None = None, base: str | Path = "runs", name: str = "reach-maml-0") -> RunFolder:
        """A new run at `path`, or without one in the first free of base/name, base/name-2, ...

        A run there that never finished an iteration is in nobody's way: `restart` removes what it left.

        Raises:
            RunFolderError: if the path is in use or cannot be made.
        """
        if path is None:
            return cls(numbered_folder(Path(base), plain_name(name)))
        path = Path(path)
        with guard(f"make the run's folder {path}"):
            used = path.is_dir() and any(not left_over(entry) for entry in path.iterdir())
            if used and not cls(path).untrained():
                raise RunFolderError(f"{path} is not empty: continue it with resume={path}, or set another run_dir")
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path, begun: bool = True) -> RunFolder:
        """An existing run with a readable configuration and at least one checkpoint.

        Args:
            begun: False: also accept a run that ended before its first checkpoint, and so lost nothing.

        Raises:
            RunFolderError: if it is missing, half written, or not a run of this code; or if a link leads out of it.
        """
        run = cls(path)
        if not run.path.is_dir():
            others = [config.parent.name for config in sorted(run.path.parent.glob("*/config.yaml"))][:20]
            hint = nearest(run.path.name, others) if others else "train one with python -m metarl.train"
            raise RunFolderError(f"there is no run at {path}: {hint}")
        run.read_config()
        for name in FOLDERS:
            run.inside(name)
        for folder in (run.path, run.path / "checkpoints", run.path / "evaluation"):
            sweep(folder, LEFTOVER_AGE)
        files = [(run.checkpoint_path(i) / TENSORS, i) for i in run.iterations()]
        if any(file.exists() and file.with_name(RECORD).exists() for file, _ in files):
            return run
        if not run.unbegun():
            raise RunFolderError(f"{path} is half written, it has no complete checkpoint: delete it and train again")
        if begun:
            raise RunFolderError(
                f"{path} is half written, it has no complete checkpoint yet: begin it with resume={path}"
            )
        return run

    def unbegun(self) -> bool:
        """Whether it was stopped before its first checkpoint was whole: there is a configuration, and nothing else."""
        return not self.iterations() and not (self.path / "metrics.csv").exists()

    def untrained(self) -> bool:
        """Whether it is a run that never finished an iteration, and nothing else: nothing is lost with it."""
        here = {entry.name for entry in self.path.iterdir() if not left_over(entry)}
        kept = {entry.name for entry in self.path.glob("checkpoints/*") if not left_over(entry)}
        if not here <= {"config.yaml", "checkpoints"} or not kept <= {self.checkpoint_path(0).name}:
            return False
        try:
            return bool(self.read_config())
        except RunFolderError:
            return False

    def restart(self) -> None:
        """Remove the checkpoint of a run that is `untrained`; for the process that holds its lock."""
        discard(self.path / "checkpoints")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that writes the run, and first remove what a crash of the last one left.

        Raises:
            RunFolderError: if another process is writing it, or it cannot be written.
        """
        with only_writer(self.path):
            for folder in (self.path, self.path / "checkpoints"):
                sweep(folder)
            yield

    def abandon(self) -> None:
        """Remove what a run that could not start has written; for the process that made it and holds its lock."""
        for name in ("config.yaml", "checkpoints", LOCK):
            discard(self.path / name)
        with suppress(OSError):
            self.path.rmdir()

    def inside(self, name: str) -> Path:
        """The path of a folder of the run.

        Raises:
            RunFolderError: if it leads out of the run: what is written to a stranger's run must stay in it.
        """
        folder = self.path / name
        found = Path(os.path.realpath(folder))  # `Path.resolve` raises where links lead in a circle
        if not found.is_relative_to(os.path.realpath(self.path)):
            remedy = "put the folder itself there, or make the whole run a link"
            raise RunFolderError(f"{folder} is a link that leads out of the run, to {found}: {remedy}")
        return folder

    def subfolder(self, name: str) -> Path:
        """The path of `checkpoints`, `dumps`, `evaluation` or `videos`, made if it is missing.

        Raises:
            RunFolderError: if it cannot be made, or leads out of the run.
        """
        folder = self.inside(name)
        with guard(f"make the folder {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml: plain data, to which the format, package versions and git commit are added.

        Raises:
            ConfigError: if a value is not plain data.
            RunFolderError: if it cannot be written.
        """
        commit, dirty = git_commit()
        marker = {"format": FORMAT, "format_version": FORMAT_VERSION}
        made_by = dict(zip(MADE_BY, (versions(), commit, dirty), strict=True))
        self._put_config(marker | dict(config) | marker | made_by)

    def change_config(self, changes: Mapping[str, Any], resumed: Mapping[str, Any] | None = None) -> None:
        """Write config.yaml with some settings changed; what made the run stays as it was.

        Args:
            resumed: a note on this change, added to the list `resumed`.

        Raises:
            ConfigError, RunFolderError: as `write_config`.
        """
        config = self.read_config()
        notes = {"resumed": [*config.get("resumed", []), dict(resumed)]} if resumed else {}
        self._put_config(config | dict(changes) | notes)

    def _put_config(self, config: dict[str, Any]) -> None:
        try:
            content = dump_yaml(config)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"the configuration holds more than plain data: {one_line(error)}") from None
        atomic_write(self.path / "config.yaml", content)

    def read_config(self) -> dict[str, Any]:
        """The content of config.yaml.

        Raises:
            RunFolderError: if it is missing, unreadable, or not written by this code.
        """
        path = self.path / "config.yaml"
        try:
            config = load_yaml(read_limited(path, LIMIT))
        except FileNotFoundError:
            if (self.path / "checkpoints").exists() or (self.path / "metrics.csv").exists():
                raise RunFolderError(f"{self.path} is half written, it has no {path.name}: delete it") from None
            if (self.path / LOCK).exists():
                text = f"{self.path} was stopped before it began: train again with run_dir={self.path}"
                raise RunFolderError(text) from None
            raise RunFolderError(f"{self.path} is not a run of metarl: it has no {path.name}") from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise RunFolderError(f"{path} is unreadable: {one_line(error)}") from None
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise RunFolderError(f"{self.path} is not a run of metarl: {path.name} lacks `format: {FORMAT}`")
        given = config.get("format_version")
        if given != FORMAT_VERSION:
            raise RunFolderError(f"{path} has format version {given!r}, this metarl reads only {FORMAT_VERSION}")
        if lacking := [name for name in MADE_BY if name not in config]:
            remedy = "restore it from a copy"
            raise RunFolderError(f"{path} is cut short: it lacks {lacking[0]}, which stands at its end; {remedy}")
        return config

    def metrics(self, after: int, logger: str | None = "tensorboard") -> MetricsLog:
        """The log of metrics, to continue after an iteration (0: a new run); rows beyond it are dropped.

        Raises:
            RunFolderError: if metrics.csv cannot be read or written.
            ConfigError: if the logger is a tracker that is not installed.
        """
        return MetricsLog(self.path, after, logger, self.read_config())

    def read_metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv; a row lacks the names that had no value."""
        header, rows = read_table(self.path / "metrics.csv")
        return [numbers(header, row) for row in rows]

    def checkpoint_path(self, iteration: int) -> Path:
        """Where the checkpoint of an iteration is, or would be."""
        return self.path / "checkpoints" / f"iteration-{iteration:06d}"

    def iterations(self) -> list[int]:
        """The iterations that have a checkpoint, in order; also damaged ones."""
        names = [entry.name for entry in self.path.glob("checkpoints/iteration-*")]
        found = [int(name[10:]) for name in names if re.fullmatch(r"iteration-[0-9]{6,18}", name)]
        return sorted(number for number in found if self.checkpoint_path(number).name in names)

    @property
    def best(self) -> int | None:
        """The iteration that was last saved as the best, while its checkpoint is there."""
        try:
            iteration = json.loads(read_limited(self.path / "checkpoints" / "best.json", 1000))["iteration"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return iteration if iteration in self.iterations() else None

    def save_checkpoint(
        self, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2, best: bool = False
    ) -> Path:
        """Write a checkpoint; then remove those before it beyond the last `keep`, and those of later iterations.

        Later ones belong to a future that was given up by continuing from an earlier checkpoint: a resume must not find
        them. The best one is kept as well. Write the iteration's row of metrics first.

        Args:
            tensors: by name; names have letters, digits, `_`, `-` and `.` only.
            state: JSON data: text keys, no tensors.

        Raises:
            RunFolderError: if it cannot be written; earlier checkpoints are then as they were.
            CheckpointError: if a name or the state is not storable.
        """
        folder, final = self.subfolder("checkpoints"), self.checkpoint_path(iteration)
        with guard(f"write {self.path / 'metrics.csv'}"):
            sync(self.path / "metrics.csv")  # or a power cut could leave a checkpoint whose rows are missing
        save(folder, final, iteration, tensors, state)
        if best:
            self.name_best(iteration)
        self.prune(iteration, keep)
        return final

    def prune(self, iteration: int, keep: int) -> None:
        """Remove the checkpoints of later iterations, and earlier ones beyond the last `keep`, but not the best one."""
        earlier = [number for number in self.iterations() if number <= iteration]
        kept = {self.best, *earlier[-max(keep, 1) :]} & set(earlier)
        for number in self.iterations():
            if number not in kept:
                discard(self.checkpoint_path(number))

    def name_best(self, iteration: int) -> None:
        """Record which checkpoint is the best; it must be there.

        Raises:
            RunFolderError: if it cannot be written.
        """
        atomic_write(self.path / "checkpoints" / "best.json", json.dumps({"iteration": iteration}).encode())

    def save_dump(self, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write dumps/iteration-<number>: what an iteration failed on, in the format of a checkpoint.

        Raises:
            RunFolderError: if it cannot be written.
            CheckpointError: if a name or the state is not storable.
        """
        folder = self.subfolder("dumps")
        final = folder / f"iteration-{iteration:06d}"
        save(folder, final, iteration, tensors, state)
        return final

    def load_checkpoint(self, iteration: int | None = None) -> Checkpoint:
        """The checkpoint of an iteration; without one the newest that is sound, with a warning for each that is not.

        Raises:
            CheckpointError: if there is none, with what is wrong.
        """
        if iteration is not None:
            if iteration not in self.iterations():
                there = ", ".join(map(str, self.iterations())) or "none"
                raise CheckpointError(f"{self.path} has no checkpoint of iteration {iteration}; it has: {there}")
            return load(self.checkpoint_path(iteration), iteration)
        problems: list[str] = []
        for number in reversed(self.iterations()):
            try:
                checkpoint = load(self.checkpoint_path(number), number)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}; continuing with iteration {number}", RunWarning, stacklevel=2)
            return checkpoint
        raise CheckpointError("; ".join(problems) or f"{self.path} has no checkpoint")

    def write_evaluation(self, split: str, result: Mapping[str, Any], out: Path | None = None) -> Path:
        """Write evaluation/<split>.json, where numbers that are not finite become null, and its `curve` as .csv.

        Args:
            out: a .json file to write instead, or a folder for <split>.json.

        Raises:
            RunFolderError: if they cannot be written.
        """
        name = f"{plain_name(split)}.json"
        if out is None:
            path = self.subfolder("evaluation") / name
        else:
            path = out if out.suffix == ".json" else out / name
            with guard(f"make the folder {path.parent}"):
                path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(_finite(result), indent=2, allow_nan=False).encode() + b"\n")
        rows = [_flat(entry) for entry in result.get("curve", [])]
        if rows:
            table = [list(rows[0]), *([row.get(name, "") for name in rows[0]] for row in rows)]
            atomic_write(path.with_suffix(".csv"), table_bytes(table))
        return path

    def read_evaluation(self, split: str) -> dict[str, Any]:
        """The content of evaluation/<split>.json.

        Raises:
            RunFolderError: if there is none, or it is unreadable.
        """
        path = self.path / "evaluation" / f"{plain_name(split)}.json"
        try:
            return dict(json.loads(read_limited(path, 2**30)))
        except FileNotFoundError:
            command = shlex.join(["python", "-m", "metarl.evaluate", f"run={self.path}", f"split={split}"])
            raise RunFolderError(f"{path} is missing: make it with {command}") from None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunFolderError(f"{path} is unreadable: {one_line(error)}") from None


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of a curve as cells: a measure's mean and interval become <name>_mean, <name>_low and <name>_high."""
    cells: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            low, high = value["ci95"]
            cells |= {f"{name}_mean": value["mean"], f"{name}_low": low, f"{name}_high": high}
        else:
            cells[name] = value
    return cells
