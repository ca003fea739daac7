"""The comparison as JSON, CSV, tables in Markdown, contrasts in words and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.compare.contenders import EPISODES, GRADIENT, note
from experiments.compare.contrasts import BOTH, Result, sentences
from experiments.compare.kept import entry_of
from experiments.compare.per_task import gathered, packed
from experiments.summary import MEASURES, Curve, cell, measures, over_seeds
from metarl.evaluation.plots import Entries, curves_png, of_trials
from metarl.run_folder import atomic_write
from metarl.run_folder.metrics import table_bytes
from metarl.run_folder.provenance import git_commit, versions

COLUMNS = (
    "contender",
    "seeds",
    "training env steps",
    "training time",
    "adaptation episodes / gradient steps",
)
INTERVALS = "over seeds and tasks together"
STEPS = 3  # the first gradient steps, all of which are in the table of these, beside the last
LEGEND = (
    "On the published lists of held-out tasks, with sampled actions, or by mean actions where a recipe says"
    " `evaluate.deterministic`; ppo_scratch on the first of them, by its mean action in 10 fresh episodes of each."
    " `a -> b`: before and after the gradient steps of adaptation; whose memory ends with the episode was measured in"
    " one, and has the same value in all. Brackets in tables are 95% intervals over seeds and tasks together (a"
    " bootstrap with Student's t, nowhere narrower than Student's t over the seeds alone), or, marked *, over the tasks"
    " of a single seed. Contrasts are paired by task, and by seed where runs share a beginning; their intervals are"
    " corrected for their number (Bonferroni), for each measure and split by itself. Every task's values are in"
    " `<env>-tasks.json.gz` (`experiments.compare.per_task.read`)."
)
EARLIER = (
    "Measured by an earlier version: of several seeds the brackets are over seeds alone (Student's t), contrasts are"
    " not corrected for their number, and in them maml is in_context+maml."
)

RETURNS = (
    "Returns are those of training, in which the first search of a place is paid once in a trial: they do not compare"
    " from episode to episode, nor between memories, and stand in the files alone."
)


def document(
    env: str, results: Sequence[Result], quick: bool, command: str, measured: Sequence[str] = BOTH
) -> dict[str, Any]:
    """The content of <env>.json, with contenders in the order of the results.

    Args:
        measured: what is compared: success, and the return unless it is another quantity in each episode.
    """
    commit, changed = git_commit(Path(__file__))
    names = dict.fromkeys(result.contender for result in results)
    groups = {name: [result for result in results if result.contender == name] for name in names}
    return {
        "env": env,
        "quick": quick,
        "intervals": INTERVALS,
        "measured": list(measured),
        "command": command,
        "git_commit": commit,
        "git_changes": changed,
        "versions": versions(),
        "contenders": {name: contender(name, own) for name, own in groups.items()},
        "sentences": sentences(env, results, measured),
    }


def contender(name: str, own: Sequence[Result]) -> dict[str, Any]:
    """What <env>.json says of a contender."""
    splits = [split for split in ("test", "ood") if all(split in result.evaluations for result in own)]
    return {
        "seeds": [result.seed for result in own],
        "env_steps": sum(result.env_steps for result in own) / len(own),
        "seconds": sum(result.seconds for result in own) / len(own),
        "tasks": own[0].evaluations["test"]["tasks"],
        "notes": [text for text in (note(name), *notes(own)) if text],
        "curves": {split: over_seeds([result.evaluations[split] for result in own]) for split in splits},
        "runs": [entry_of(result) for result in own],
    }


def notes(own: Sequence[Result]) -> list[str]:
    """What there is to say of single runs, and of which seeds unless of all."""
    texts = dict.fromkeys(result.note for result in own if result.note)
    seeds = {text: [result.seed for result in own if result.note == text] for text in texts}
    return [text if len(of) == len(own) else f"seed {' '.join(map(str, of))} {text}" for text, of in seeds.items()]


def table(content: Mapping[str, Any]) -> str:
    """The Markdown table: before and after adaptation, and of trials their episodes side by side."""
    entries = content["contenders"]
    trial = max((len(by_episode(entry["curves"]["test"])) for entry in entries.values()), default=1)
    beyond = any("ood" in entry["curves"] for entry in entries.values())
    shown = {index: title for index, title in enumerate(titles(trial, beyond)) if _compares(content, title)}
    lines = rows_of([*COLUMNS, *shown.values()])
    for name, entry in entries.items():
        test, trained = entry["curves"]["test"], name not in EPISODES
        cells = [
            name,
            " ".join(map(str, entry["seeds"])),
            f"{entry['env_steps'] / 1e6:.1f}M" if trained else "none",
            f"{entry['seconds'] / 60:.1f} min" if trained else "none",
            f"{test[-1]['episodes'] - len(by_episode(test)) + 1} / {test[-1]['step']}",
        ]
        values = measured(entry, trial, beyond)
        lines += rows_of([*cells, *(values[index] for index in shown)], head=False)
    return "\n".join(lines)


def _compares(content: Mapping[str, Any], title: str) -> bool:
    return "return" in content.get("measured", BOTH) or not title.startswith("return")


def titles(trial: int, beyond: bool = True) -> list[str]:
    """What is measured in trials of so many episodes.

    Args:
        beyond: whether there is a split `ood`; in its place stands success at any step, which is what those count who
            have none.
    """
    if trial == 1:
        return ["success at end, test (before -> after adaptation)", "success at end, ood", "return, test"]
    success = [f"success, episode {number}" for number in range(1, trial + 1)]
    times = [f"time to success, episode {number}" for number in (1, trial)]
    other = "success, ood" if beyond else "success at any step"
    return [*success, f"{other}, episode {trial}", *times, f"return, episode {trial}"]


def measured(entry: Mapping[str, Any], trial: int, beyond: bool = True) -> list[str]:
    """A contender's cells below `titles`; one that was measured in single episodes has the same in each."""
    alone = len(entry["seeds"]) == 1
    test, ood = (by_episode(entry["curves"].get(split, [])) for split in ("test", "ood"))

    def at(episodes: Sequence[Curve], number: int, name: str) -> str:
        return before_after(episodes[min(number, len(episodes) - 1)], name, alone) if episodes else ""

    last = trial - 1
    other = at(ood, last, "success") if beyond or trial == 1 else at(test, last, "success_any_step")
    ends = [other, *(at(test, n, "time_to_success") for n in ((0, last) if last else ()))]
    return [*(at(test, number, "success") for number in range(trial)), *ends, at(test, last, "return")]


def by_episode(curve: Curve) -> list[Curve]:
    """For each episode of the trial the entries after 0, 1, ... gradient steps."""
    first = [entry for entry in curve if entry["step"] == curve[0]["step"]]
    return [curve[number :: len(first)] for number in range(len(first))]


def step_table(content: Mapping[str, Any]) -> str:
    """The Markdown table of each gradient step, in the last episode of a trial; "" if nobody takes a second one."""
    taken = {name: by_episode(entry["curves"]["test"])[-1] for name, entry in content["contenders"].items()}
    chosen = {name: curve for name, curve in taken.items() if len(curve) > 1 and curve[1]["step"] == 1}
    most = max((len(curve) - 1 for curve in chosen.values()), default=0)
    if most < 2:
        return ""
    shown = sorted({*range(min(STEPS, most) + 1), most})
    steps = ["1 step" if step == 1 else f"{step} steps" for step in shown]
    lines = rows_of(["contender", *(f"{name}, {step}" for name in BOTH for step in steps)])
    for name, curve in chosen.items():
        alone = len(content["contenders"][name]["seeds"]) == 1
        values = [
            cell(curve[step][measure], MEASURES[measure], alone) if step < len(curve) else ""
            for measure in BOTH
            for step in shown
        ]
        lines += rows_of([name, *values], head=False)
    return "\n".join(lines)


def body(content: Mapping[str, Any]) -> list[str]:
    """The tables, what there is to say of single runs, and the contrasts, as lines of Markdown."""
    lines, steps = [table(content), ""], step_table(content)
    if steps:
        lines += ["After gradient steps, on `test`:", "", steps, ""]
    if not _compares(content, "return"):
        lines += [RETURNS, ""]
    entries = content["contenders"].items()
    own = [f"- {name}: {text}" for name, entry in entries for text in entry.get("notes", ()) if text != note(name)]
    lines += [*own, *([""] if own else [])]
    if content.get("intervals") != INTERVALS:
        lines += [EARLIER, ""]
    for line in content["sentences"]:
        lines += [line, ""] if line.endswith(":") else [f"- {line}"]
    return [*lines, *([""] if content["sentences"] else [])]


def called_what_they_are(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file of an earlier version, in which no row said that it was warm-started."""

    def name_of(name: str, entry: Mapping[str, Any]) -> str:
        begun = any("algo.warm_start.run=" in line for line in entry.get("commands", ()))
        return f"in_context+{name}" if name in GRADIENT and begun else name

    return {**content, "contenders": {name_of(name, entry): entry for name, entry in content["contenders"].items()}}


def legend(contents: Iterable[Mapping[str, Any]]) -> list[str]:
    """How to read the tables of these comparisons, as lines of Markdown."""
    names = dict.fromkeys(name for content in contents for name in content["contenders"])
    return [LEGEND, "", *(f"- {name}: {note(name)}" for name in names if note(name)), ""]


def markdown(content: Mapping[str, Any]) -> str:
    """The tables, the contrasts, and how to read them."""
    lines = [
        f"# {content['env']}",
        "",
        *body(content),
        *legend([content]),
        f"Made by `{content['command']}`; the commands of every run are in {content['env']}.json.",
    ]
    return "\n".join(lines) + "\n"


def drawn(curves: Mapping[str, Entries]) -> dict[str, Entries]:
    """The curves as a picture shows them: of trials what is after the last gradient step.

    Where a contender begins another one's line is already.
    """
    if not of_trials(list(curves.values())):
        return dict(curves)
    last = {name: curve[-1]["step"] for name, curve in curves.items()}
    return {name: [entry for entry in curve if entry["step"] == last[name]] for name, curve in curves.items()}


def write(folder: Path, content: Mapping[str, Any], results: Sequence[Result]) -> list[Path]:
    """Write <env>.json, .csv, .md, .png and -tasks.json.gz, and for `ood` another .png."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / str(content["env"])
    by_name: dict[str, dict[str, Any]] = {}
    for result in results:
        by_name.setdefault(result.contender, {})[str(result.seed)] = result.evaluations
    files = {base.with_name(f"{base.name}-tasks.json.gz"): packed(gathered(by_name))}  # the next cannot do without it
    files[base.with_suffix(".json")] = json.dumps(content, indent=1).encode() + b"\n"
    files[base.with_suffix(".csv")] = table_bytes(rows(content))
    files[base.with_suffix(".md")] = markdown(content).encode()
    for split, path in (("test", base.with_suffix(".png")), ("ood", base.with_name(f"{base.name}-ood.png"))):
        curves = {n: e["curves"][split] for n, e in content["contenders"].items() if split in e["curves"]}
        if curves:
            title = f"{content['env']}: adaptation on the split '{split}', 95% intervals"
            files[path] = curves_png(drawn(curves), title)
    for path, data in files.items():
        atomic_write(path, data)
    return list(files)


def rows(content: Mapping[str, Any]) -> list[list[Any]]:
    """The curves as a table with a header: a row for each contender, split, entry of the curve and measure."""
    lines: list[list[Any]] = [["contender", "split", "step", "episodes", "measure", "mean", "low", "high", "seeds"]]
    for name, entry in content["contenders"].items():
        for split, curve in entry["curves"].items():
            for point in curve:
                for measure in measures(point):
                    value = point[measure]
                    numbers = [value["mean"], *value["ci95"], len(entry["seeds"])]
                    lines.append([name, split, point["step"], point["episodes"], measure, *numbers])
    return lines


def before_after(curve: Curve, name: str, alone: bool) -> str:
    """Before -> after adaptation; a single value if the curve has only one, and nothing if it lacks the measure."""
    ends = curve if len(curve) == 1 else (curve[0], curve[-1])
    return " -> ".join(cell(point[name], MEASURES[name], alone) for point in ends if name in point)


def rows_of(cells: Sequence[str], head: bool = True) -> list[str]:
    """A row of a Markdown table; of its head with the line below."""
    return ["| " + " | ".join(cells) + " |", *(["|---" * len(cells) + "|"] if head else [])]
