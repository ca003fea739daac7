"""The command lines that make a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.settings import Chosen
from metarl.assembly.trust import stored_settings
from metarl.config.algorithms import WarmStart, WarmStarted
from metarl.config.composition import compose
from metarl.config.parsing import show
from metarl.config.settings import TrainSettings
from metarl.run_folder import RunFolder

# Settings that a command line omits, or states by another key.
APART = ("budget.", "run_dir", "resume", "report", "algo.warm_start.origin")


def commands(settings: TrainSettings, iteration: int, path: Path) -> list[str]:
    """The command lines that make a run up to an iteration; the run that it began from comes first."""
    algo = settings.algo
    warm = algo.warm_start if isinstance(algo, WarmStarted) else WarmStart()
    lines: list[str] = []
    if warm.run and warm.origin:
        origin, source = warm.origin, Path(warm.run)
        if (source / "config.yaml").exists():
            lines += commands(stored_settings(RunFolder(source)), origin["iteration"], source)
        else:
            words = [f"{key}={origin[key]}" for key in ("env", "algo", "seed")]
            lines.append(training([*words, f"budget.iterations={origin['iteration']}", f"run_dir={source}"]))
    chosen = [f"env={_choice(settings.env)}", f"algo={_choice(algo)}"]
    agent = _choice(settings.agent)
    if _choice(compose(chosen).agent) != agent:
        chosen.append(f"agent={agent}")
    # Composed without the run that it began from, it has the recipe's iterations in context.
    apart = (*APART, "algo.warm_start.iterations") if warm.run else APART
    wanted = {key: value for key, value in settings.flat().items() if not key.startswith(apart)}
    budget = f"budget.iterations={iteration}"
    changed = changes(wanted, compose([*chosen, budget]).flat())
    return [*lines, training([*chosen, *changed, budget, f"run_dir={path}"])]


def _choice(group: Chosen) -> str:
    """What a command line chooses a group by."""
    return group.entry or group.name


def changes(wanted: Mapping[str, object], base: Mapping[str, object]) -> list[str]:
    """The overrides that turn settings by dotted key, `base`, into those that are wanted."""
    return [f"{key}={show(value)}" for key, value in wanted.items() if base.get(key) != value]


def training(overrides: Sequence[str]) -> str:
    """The command line that trains with these overrides."""
    return shlex.join(["python", "-m", "metarl.train", *overrides])
