"""The comparison as JSON, CSV, a table in Markdown, two sentences and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.compare.contenders import EPISODES, NOTES
from experiments.summary import combined, told
from metarl.evaluation.plots import curves_png
from metarl.evaluation.statistics import Interval, mean_interval, seeds_interval
from metarl.run_folder import atomic_write
from metarl.run_folder.metrics import table_bytes
from metarl.run_folder.provenance import git_commit, versions

Curve = list[dict[str, Any]]
HEAD = (
    "contender",
    "seeds",
    "training env steps",
    "training time",
    "adaptation episodes / gradient steps",
    "success at end, test (before -> after adaptation)",
    "success at end, ood",
    "return, test",
)


@dataclass(frozen=True)
class Result:
    """One seed of one contender.

    Args:
        env_steps, seconds: of training, before any test task. evaluations: by split. commands: those that made it.
    """

    contender: str
    seed: int
    env_steps: float
    seconds: float
    evaluations: Mapping[str, Mapping[str, Any]]
    commands: Sequence[str]
    note: str = ""


def curve_over_seeds(curves: Sequence[Curve]) -> Curve:
    """The entries of one curve, with means and intervals over seeds; see `experiments.summary.combined`."""
    entries = []
    for same in zip(*curves, strict=True):
        entry = {name: same[0][name] for name in ("step", "episode", "episodes") if name in same[0]}
        for name in told(same):
            mean, low, high = combined([one[name] for one in same])
            entry[name] = {"mean": mean, "ci95": [low, high]}
        entries.append(entry)
    return entries


def document(env: str, results: Sequence[Result], quick: bool, command: str) -> dict[str, Any]:
    """The content of <env>.json."""
    commit, changed = git_commit(Path(__file__))
    contenders = {}
    for name in [name for name in NOTES if any(result.contender == name for result in results)]:
        own = [result for result in results if result.contender == name]
        splits = [split for split in ("test", "ood") if all(split in result.evaluations for result in own)]
        contenders[name] = {
            "seeds": [result.seed for result in own],
            "env_steps": _mean([result.env_steps for result in own]),
            "seconds": _mean([result.seconds for result in own]),
            "tasks": own[0].evaluations["test"]["tasks"],
            "notes": [text for text in (NOTES[name], *(result.note for result in own)) if text],
            "curves": {s: curve_over_seeds([result.evaluations[s]["curve"] for result in own]) for s in splits},
            "seeds_curves": [
                {"seed": result.seed} | {split: result.evaluations[split]["curve"] for split in splits}
                for result in own
            ],
            "commands": [line for result in own for line in result.commands],
        }
    return {
        "env": env,
        "quick": quick,
        "command": command,
        "git_commit": commit,
        "git_changes": changed,
        "versions": versions(),
        "contenders": contenders,
        "sentences": sentences(env, results),
    }


def table(content: Mapping[str, Any]) -> str:
    """The Markdown table."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for name, entry in content["contenders"].items():
        test, ood = entry["curves"]["test"], entry["curves"].get("ood")
        last, alone = test[-1], len(entry["seeds"]) == 1
        trained = name not in EPISODES
        cells = [
            name,
            " ".join(map(str, entry["seeds"])),
            f"{entry['env_steps'] / 1e6:.1f}M" if trained else "none",
            f"{entry['seconds'] / 60:.1f} min" if trained else "none",
            f"{last['episodes']} / {last['step']}",
            _before_after(test, "success", ".3f", alone),
            _before_after(ood, "success", ".3f", alone) if ood else "",
            _before_after(test, "return", ".2f", alone),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(content: Mapping[str, Any]) -> str:
    """The table, how to read it, and the two sentences."""
    tasks = max(entry["tasks"] for entry in content["contenders"].values())
    reading = (
        f"On the published lists of {tasks} held-out tasks, with sampled actions; ppo_scratch on the first of them, by"
        " its mean action in 10 fresh episodes of each. Brackets are 95% intervals: over seeds (Student's t), or,"
        " marked *, over the tasks of a single seed."
    )
    lines = [
        f"# {content['env']}",
        "",
        table(content),
        "",
        reading,
        "",
        *[f"- {name}: {note}" for name, entry in content["contenders"].items() for note in entry["notes"]],
        "",
        *content["sentences"],
        "",
        f"Made by `{content['command']}`; the commands of every run are in {content['env']}.json.",
    ]
    return "\n".join(lines) + "\n"


def sentences(env: str, results: Sequence[Result]) -> list[str]:
    """What gradients add to the context, and what meta-learning adds to pretraining; as far as there are numbers."""
    by_name: dict[str, dict[int, Result]] = {}
    for result in results:
        by_name.setdefault(result.contender, {})[result.seed] = result
    maml, said = by_name.get("maml"), []
    if not maml:
        return said
    text = f"On {env}, gradient adaptation changes what maml reaches in context by {_gap(maml, maml, before=True)}"
    if all("ood" in result.evaluations for result in maml.values()):
        text += f", beyond the training ranges by {_gap(maml, maml, before=True, split='ood')}"
    alone = [_common(maml, by_name[name]) for name in ("in_context_equal", "in_context") if name in by_name]
    ours, rival = max(alone, key=lambda pair: len(pair[0]), default=({}, {}))  # the first of those with most seeds
    if ours:
        text += f", and maml after adaptation minus in-context training {_between(ours, rival)}"
    said.append(f"{text}.")
    ours, rival = _common(maml, by_name.get("multitask", {}))
    if ours:
        said.append(f"Meta-learning minus multi-task pretraining, both adapted {_between(ours, rival)}.")
    return said


def difference(
    ours: Mapping[int, Result], theirs: Mapping[int, Result], measure: str, before: bool = False, split: str = "test"
) -> Interval:
    """The last value of ours minus that of theirs (`before`: minus its first one) on the tasks of a split.

    Paired: seed by seed (Student's t over the seeds that both have), or with one such seed task by task (bootstrap).
    """

    def values(result: Result, entry: int) -> list[float]:
        return [float(task[measure][entry]) for task in result.evaluations[split]["per_task"]]

    seeds = sorted(set(ours) & set(theirs))
    pairs = [(values(ours[seed], -1), values(theirs[seed], 0 if before else -1)) for seed in seeds]
    gaps = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
    if len(gaps) > 1:
        return seeds_interval([_mean(gap) for gap in gaps])
    return mean_interval(gaps[0], bounded=False)


def write(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Write <env>.json, .csv, .md and .png, and for `ood` another .png."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / str(content["env"])
    files = {base.with_suffix(".json"): json.dumps(content, indent=1).encode() + b"\n"}
    files[base.with_suffix(".csv")] = table_bytes(rows(content))
    files[base.with_suffix(".md")] = markdown(content).encode()
    for split, path in (("test", base.with_suffix(".png")), ("ood", base.with_name(f"{base.name}-ood.png"))):
        curves = {n: e["curves"][split] for n, e in content["contenders"].items() if split in e["curves"]}
        if curves:
            files[path] = curves_png(curves, f"{content['env']}: adaptation on the split '{split}', 95% intervals")
    for path, data in files.items():
        atomic_write(path, data)
    return list(files)


def rows(content: Mapping[str, Any]) -> list[list[Any]]:
    """The curves as a table with a header: a row for each contender, split, step and measure."""
    lines: list[list[Any]] = [["contender", "split", "step", "episodes", "measure", "mean", "low", "high", "seeds"]]
    for name, entry in content["contenders"].items():
        for split, curve in entry["curves"].items():
            for point in curve:
                for measure in told([point]):
                    value = point[measure]
                    numbers = [value["mean"], *value["ci95"], len(entry["seeds"])]
                    lines.append([name, split, point["step"], point["episodes"], measure, *numbers])
    return lines


def _before_after(curve: Curve, name: str, form: str, alone: bool) -> str:
    """Before -> after adaptation; a single value if the curve has only one."""
    mark = "*" if alone else ""
    values = [point[name] for point in (curve if len(curve) == 1 else (curve[0], curve[-1]))]
    return " -> ".join(
        f"{value['mean']:{form}} [{value['ci95'][0]:{form}}, {value['ci95'][1]:{form}}]{mark}" for value in values
    )


def _gap(ours: Mapping[int, Result], theirs: Mapping[int, Result], before: bool = False, split: str = "test") -> str:
    """The differences in success and return, with their intervals, in words."""
    success, gain = (difference(ours, theirs, measure, before, split) for measure in ("success", "return"))
    return (
        f"{success.mean:+.3f} [{success.low:+.3f}, {success.high:+.3f}] in success at the end and"
        f" {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] in return"
    )


def _common(ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> tuple[dict[int, Result], dict[int, Result]]:
    """The seeds that both have."""
    seeds = sorted(set(ours) & set(theirs))
    return {seed: ours[seed] for seed in seeds}, {seed: theirs[seed] for seed in seeds}


def _between(ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> str:
    """The difference of two contenders with the same seeds, and what each was trained for."""
    seeds = f"seed{'s' if len(ours) > 1 else ''} {' '.join(map(str, ours))}"
    return f"({seeds}; {_steps(ours)} and {_steps(theirs)} environment steps) is {_gap(ours, theirs)}"


def _steps(group: Mapping[int, Result]) -> str:
    return f"{_mean([result.env_steps for result in group.values()]) / 1e6:.2f}M"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
