"""Results of an earlier comparison, read back from its files: the runs that made them need not be there any more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.compare.contrasts import Result
from experiments.compare.per_task import read
from metarl.errors import ConfigError


def fingerprint(settings: Any) -> str:
    """A short name of settings, by which one can tell whether a result was made with them."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def entry_of(result: Result) -> dict[str, Any]:
    """What <env>.json says of a run; with <env>-tasks.json.gz it makes the `Result` again."""
    without = {
        split: {key: value for key, value in evaluation.items() if key != "per_task"}
        for split, evaluation in result.evaluations.items()
    }
    own = {name: getattr(result, name) for name in ("seed", "env_steps", "seconds", "note", "root", "settings")}
    return own | {"commands": list(result.commands), "evaluations": without}


def kept(folder: Path, env: str) -> list[Result]:
    """The results in the files of an environment; none if there are none, or only those of an earlier version.

    Raises:
        ConfigError: if they cannot be read, or do not belong together.
    """
    try:
        return _read(folder, env)
    except FileNotFoundError:
        return []
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        name = f"{folder / env}.json and -tasks.json.gz"
        raise ConfigError(f"{name} cannot be read ({type(error).__name__}: {error}); move them away") from None


def _read(folder: Path, env: str) -> list[Result]:
    content = json.loads((folder / f"{env}.json").read_bytes())
    tasks = read(folder / f"{env}-tasks.json.gz")
    found = []
    for name, entry in content["contenders"].items():
        for run in entry.get("runs", ()):
            values = tasks[name][str(run["seed"])]
            evaluations = {
                split: evaluation | {"per_task": _by_task(values[split])}
                for split, evaluation in run["evaluations"].items()
            }
            found.append(Result(name, **(run | {"evaluations": evaluations})))
    return found


def merged(fresh: Sequence[Result], earlier: Sequence[Result], settings: Callable[[str, int], str]) -> list[Result]:
    """Fresh results, and beside them those of earlier that were made with the settings of today, in order of seeds.

    Args:
        settings: their fingerprint today, of a contender and a seed.
    """
    alike = (each for each in earlier if each.settings == settings(each.contender, each.seed))
    known = {(each.contender, each.seed): each for each in (*alike, *fresh)}
    return [known[key] for key in sorted(known, key=lambda key: key[1])]


def _by_task(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Values by measure and task as `per_task` of an evaluation has them, by task and measure."""
    return [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
