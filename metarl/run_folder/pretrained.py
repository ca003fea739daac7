"""Policies that come with the package: `metarl.load("grasp")`, and `run=pretrained/grasp` in the commands.

metarl/run_folder/shipped/
  index.json        what a name without it means, by environment: {"grasp": "in_context"}; an algorithm, but for
                    Meta-World, whose policies are called by their tasks
  grasp-in_context/ a run folder with only what acting and adapting need; its file COMMAND says what made it,
                    and README.md is the policy's card
"""

from __future__ import annotations

import json
from pathlib import Path

from metarl.errors import RunFolderError, nearest
from metarl.layout import SHIPPED

ROOT = SHIPPED
PREFIX, INDEX = "pretrained", "index.json"


def defaults() -> dict[str, str]:
    """By environment: the rest of the name of the policy that the environment's name alone stands for."""
    try:
        return dict(json.loads((ROOT / INDEX).read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{ROOT / INDEX} is unreadable: {error}; install metarl again") from None


def names() -> dict[str, Path]:
    """Every name of a shipped policy, `grasp-in_context` and short ones such as `grasp`, with its folder."""
    found = {path.parent.name: path.parent for path in sorted(ROOT.glob("*/config.yaml"))}
    short = {env: f"{env}-{algo}" for env, algo in defaults().items()}
    return found | {env: found[name] for env, name in short.items() if name in found}


def locate(path: str | Path, bare: bool = False) -> Path:
    """The run folder that `path` means: one on the disk, else the shipped policy `pretrained/<name>`.

    Args:
        bare: `<name>` alone means a shipped policy too.

    Raises:
        RunFolderError: if no policy of that name is shipped; lists those that are.
    """
    path = Path(path)
    shipped = path.parts[:1] == (PREFIX,) and len(path.parts) == 2
    if (path / "config.yaml").exists() or not (shipped or (bare and len(path.parts) == 1 and not path.is_dir())):
        return path
    known = names()
    if path.name not in known:
        raise RunFolderError(f"no policy '{path.name}' is shipped, and no run at {path}; {nearest(path.name, known)}")
    return known[path.name]


def is_shipped(folder: Path) -> bool:
    """Whether a run folder belongs to the package, so that nothing may be written there."""
    return folder.resolve().parent == ROOT.resolve()
