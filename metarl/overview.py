"""What `python -m metarl list` says: task families, policies that come with the package, and runs with their state."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from envs import registry
from envs.errors import PackageError
from metarl.config.parsing import parse
from metarl.config.settings import Budget
from metarl.errors import CheckpointError, ConfigError, RunFolderError
from metarl.run_folder import ADAPTED, RunFolder
from metarl.run_folder.lock import is_written
from metarl.run_folder.pretrained import PREFIX, defaults, names


def overview(folder: str | Path) -> str:
    """Families, shipped policies, and the runs in a folder, as lines of text."""
    families = [(name, ", ".join(parameters)) for name, parameters in hidden_parameters().items()]
    policies = [(f"{PREFIX}/{name}", text) for name, text in shipped().items()]
    runs = [(str(path), text) for path, text in states(Path(folder)).items()]
    return "\n\n".join(
        [
            _section("Task families (env=...), with what is hidden from the policy", families),
            _section("Policies that come with the package (run=...), with their success on held-out tasks", policies),
            _section(f"Runs in {folder} (run=..., resume=...)", runs or [("none", "python -m metarl.train makes one")]),
        ]
    )


def hidden_parameters() -> dict[str, list[str]]:
    """The task parameters of each family, by its name, but of those whose package is not installed."""
    found = {}
    for name in registry.all_names():
        with contextlib.suppress(PackageError):
            found[name] = list(registry.make(name, 1, threads=1).distribution.parameters)
    return found


def shipped() -> dict[str, str]:
    """How well each shipped policy does, by its shortest name.

    Raises:
        RunFolderError: if an evaluation is unreadable.
    """
    short = {f"{env}-{algo}": env for env, algo in defaults().items()}
    folders = {short.get(path.name, path.name): RunFolder(path) for path in names().values()}
    return {
        name: f"{folder.path.name}: " + ", ".join(f"{split} {success(folder, split)}" for split in ("test", "ood"))
        for name, folder in sorted(folders.items())
    }


def states(folder: Path) -> dict[Path, str]:
    """What is known of each run in a folder, in the order of their names."""
    return {config.parent: state(RunFolder(config.parent)) for config in sorted(folder.glob("*/config.yaml"))}


def state(run: RunFolder) -> str:
    """How far a run is, and how well it did; what is wrong with it, if its files are damaged."""
    try:
        budget = parse(Budget, run.read_config().get("budget") or {})
        rows = run.read_metrics()
        if not rows and ADAPTED in (held := run.load_checkpoint().state):
            return f"adapted, of {held[ADAPTED]['run']}"
        if is_written(run.path):
            return f"in training, {_progress(budget, rows)}"
        used = _used(budget, rows)
        if used < 1.0:
            return f"stopped, {_progress(budget, rows)}: continue with resume={run.path}"
        return f"trained, {_progress(budget, rows)}, success on test {success(run, 'test')}"
    except (RunFolderError, CheckpointError, ConfigError) as error:
        return f"damaged: {error}"


def success(run: RunFolder, split: str) -> str:
    """The success of a run on a split, before and after its gradient steps, as text."""
    try:
        curve = run.read_evaluation(split)["curve"]
        first, last = (f"{curve[index]['success']['mean']:.3f}" for index in (0, -1))
    except RunFolderError:
        return "not evaluated"
    except (KeyError, IndexError, TypeError, ValueError):
        return "unreadable"
    return first if len(curve) == 1 else f"{first} -> {last}"


def _used(budget: Budget, rows: Sequence[dict[str, float]]) -> float:
    """The share of its budget that a run with these metrics has used."""
    if not rows:
        return 0.0
    last = {name: rows[-1].get(name, 0.0) for name in ("iteration", "env_steps", "seconds")}
    limits = (limit for _, limit in budget)
    if not any(limits):
        raise ConfigError("its budget has no limit")
    return budget.fraction(int(last["iteration"]), int(last["env_steps"]), last["seconds"])


def _progress(budget: Budget, rows: Sequence[dict[str, float]]) -> str:
    iteration = int(rows[-1].get("iteration", 0)) if rows else 0
    return f"iteration {iteration}, {min(_used(budget, rows), 1.0):.0%} of its budget"


def _section(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:{width}}  {text}" for name, text in rows)])
