"""python -m experiments.ship run=runs/x [name=grasp-maml] [default=true]

Ship the policy of a run: metarl/run_folder/shipped gets a slim copy, which `metarl.load("grasp-maml")` finds.

  run       a trained and evaluated run; its evaluation on the split `ood` is made if it is missing
  name      of the policy (default: <env>-<algo>)
  default   true: `metarl.load("grasp")` means this policy, as it does for the first one of an environment
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import metarl  # noqa: F401  - first: it checks the packages' places
from experiments.arguments import command, flag, given
from metarl.assembly.opened import Run, open_run
from metarl.assembly.repeat import commands
from metarl.errors import ConfigError, RunFolderError
from metarl.pages.card import LICENCE, model_card
from metarl.run_folder import atomic_write, pretrained, slim_copy
from metarl.runs import evaluate

KEYS = ("run", "name", "default")


def ship(path: Path, name: str | None = None, default: bool = False) -> Path:
    """Ship a run; returns its new folder.

    Raises:
        RunFolderError, CheckpointError: if it is not an evaluated run. ConfigError: for an unsuitable name.
    """
    run = open_run(path)
    env, algo = run.settings.env.name, run.settings.algo.name
    name = name or f"{env}-{algo}"
    if not name.startswith(f"{env}-"):
        raise ConfigError(f"name={name}: must begin with {env}-, as in {env}-{algo}")
    splits = {"test": run.folder.read_evaluation("test")}
    if run.has("ood"):
        splits["ood"] = out_of_distribution(run)
    for split, content in splits.items():
        if content.get("iteration") != run.iteration:
            again = shlex.join(["python", "-m", "metarl.evaluate", f"run={path}", f"split={split}"])
            raise RunFolderError(
                f"{path}: its evaluation on '{split}' is of another checkpoint; measure again: {again}"
            )
    lines = commands(run.settings, run.iteration, path)
    card = model_card(run, name, evaluations=splits, commands=lines, licence=LICENCE)
    texts = {"COMMAND": "\n".join([*lines, ""]), "README.md": card}
    folder = slim_copy(run.folder, pretrained.ROOT / name, texts, splits)
    index = pretrained.defaults()
    if default or env not in index:
        index[env] = name.removeprefix(f"{env}-")
        atomic_write(pretrained.ROOT / pretrained.INDEX, json.dumps(index, indent=1, sort_keys=True).encode() + b"\n")
    return folder.path


def out_of_distribution(run: Run) -> dict[str, Any]:
    """The evaluation on `ood`; if it is missing, it is made by the settings of the one on `test`."""
    try:
        return run.folder.read_evaluation("ood")
    except RunFolderError:
        test = run.folder.read_evaluation("test")
        return evaluate(
            run,
            split="ood",
            tasks=test["tasks"],
            steps=test["curve"][-1]["step"],
            episodes=test["episodes_per_step"],
            seed=test["seed"],
            deterministic=test["deterministic"],
            threads=run.settings.threads,
            console=Console(highlight=False, soft_wrap=True, markup=False),
        )


def work(arguments: Sequence[str]) -> None:
    """Ship what the arguments say.

    Raises:
        MetaRLError: for a wrong argument, or a run that cannot be shipped.
    """
    values = given(arguments, KEYS)
    if "run" not in values:
        raise ConfigError("run: must be the folder of a trained run, such as run=runs/reach-maml-0")
    path = ship(Path(values["run"]), values.get("name"), flag(values, "default"))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"shipped: {path} ({size / 1024:.0f} KiB)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command(arguments, __doc__, work, bare=False)


if __name__ == "__main__":
    sys.exit(main())
