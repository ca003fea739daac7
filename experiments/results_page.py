"""python -m experiments.results_page [page=RESULTS.md] [gifs=true]

Rewrite what stands between `<!-- results:begin -->` and `<!-- results:end -->` in RESULTS.md: the tables of
experiments/results/compare/*.json, the comparison with the papers, the few-shot problems, the shipped policies, and
films of policies whose adaptation can be seen. The rest of the page is written by hand and stays.

  page    the file to rewrite
  gifs    false: keep the films that are there
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metarl  # noqa: F401  - first: it checks the packages' places
from experiments import paper_tables
from experiments.arguments import command, flag, given
from experiments.compare.report import body, called_what_they_are, legend
from experiments.few_shot.__main__ import PROBLEMS
from experiments.few_shot.report import stored_tables
from metarl.assembly.opened import open_run
from metarl.errors import ConfigError
from metarl.evaluation.films import render
from metarl.run_folder import RunFolder, atomic_write, pretrained

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
# Where adapting can be seen: a held-out task that is not solved at first, and after which gradient steps it is shown.
FILMED = {"cheetah_dir": (0, (0, 1)), "grasp_uncalibrated": (1, (0,)), "reach_search": (3, (0,))}
PICTURE = {"width": 320, "height": 240, "fps": None}


def comparisons(folder: Path) -> list[str]:
    """How to read them, and then the tables and the contrasts of every comparison that is not a smoke test."""
    found = {path: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}
    found = {path: called_what_they_are(content) for path, content in found.items() if not content.get("quick")}
    lines = legend(found.values()) if found else []
    for path, content in found.items():
        lines += [f"### {content['env']}", "", *body(content), f"`{content['command']}`", ""]
        picture = path.with_suffix(".png")
        if picture.exists():
            lines += [f"![Adaptation curves of {content['env']}]({relative(picture)})", ""]
    return lines


def beside_papers() -> list[str]:
    """The document of `experiments.paper_tables`, if it exists; its sinusoids stand among the few-shot problems."""
    path = RESULTS / "paper_tables.md"
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8").partition(paper_tables.SINUSOID)[0]
    lines = [f"##{line}" if line.startswith("# ") else line for line in text.strip().splitlines()]
    return [*lines, "", "`python -m experiments.paper_tables`", ""]


def supervised() -> list[str]:
    """The tables of those few-shot problems that are finished."""
    text = stored_tables(RESULTS / "few_shot.json", PROBLEMS)
    title = "### The same mathematics on supervised tasks"
    return [title, "", text, "", "`python -m experiments.few_shot`", ""] if text else []


def latency() -> list[str]:
    """How long one robot waits for an action, if that was measured: alone, or with everything else."""
    paths = [path for name in ("latency", "bench") if (path := RESULTS / f"{name}.json").exists()]
    contents: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in paths]
    finished = [each for each in contents if not each.get("settings", {}).get("quick")]
    measured = ((each, [row for row in each["rows"] if row["group"] == "latency"]) for each in finished)
    content, rows = next((found for found in measured if found[1]), ({}, []))
    if not rows:
        return []
    lines = [
        "### From an observation to an action",
        "",
        f"One robot, one thread; {content['machine']['processor']}. In brackets the lowest and the highest round.",
        "",
        "| figure | ms | wanted | |",
        "|---|---|---|---|",
    ]
    for row in rows:
        judged = {True: "met", False: "missed", None: ""}[row["met"]]
        span = f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        lines.append(f"| {row['name']} | {span} | {row['target'] or ''} | {judged} |")
    return [*lines, "", "`python -m experiments.bench latency`", ""]


def shipped() -> list[str]:
    """A table of the policies that come with the package, from their own evaluation files."""
    folders = {name: path for name, path in pretrained.names().items() if name == path.name}
    if not folders:
        return []
    lines = [
        "### Policies that come with the package",
        "",
        "| `metarl.load(...)` | test | ood | made by |",
        "|---|---|---|---|",
    ]
    for name, path in folders.items():
        cells = [f"`{name}`"]
        for split in ("test", "ood"):
            there = (path / "evaluation" / f"{split}.json").exists()
            cells.append(success(RunFolder(path).read_evaluation(split)["curve"]) if there else "")
        command = (path / "COMMAND").read_text().strip().splitlines()
        cells.append("<br>".join(f"`{line}`" for line in command))
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def success(curve: Sequence[dict[str, dict[str, object]]]) -> str:
    """Success at the end before -> after adaptation."""
    values = [entry["success"] for entry in (curve if len(curve) == 1 else (curve[0], curve[-1]))]
    return " -> ".join(f"{value['mean']:.3f} [{value['ci95'][0]:.3f}, {value['ci95'][1]:.3f}]" for value in values)  # type: ignore[index]


def pictures(film: bool) -> list[str]:
    """The GIFs; with `film`, those of shipped policies are filmed again first."""
    lines: list[str] = []
    for env, (task, steps) in FILMED.items():
        out = RESULTS / f"{env}.gif"
        if film and env in pretrained.names():
            run = open_run(f"{pretrained.PREFIX}/{env}")
            render(run, split="test", task=task, out=out, seed=0, threads=0, steps=steps, page=True, **PICTURE)  # type: ignore[arg-type]
        if out.exists():
            shown = "before and after a gradient step" if len(steps) > 1 else "in the episodes of a trial"
            lines += [f"![{env}: a held-out task {shown}]({relative(out)})", ""]
    return lines


def rewritten(text: str, results: str) -> str:
    """The text with other results between the markers.

    Raises:
        ConfigError: if the markers are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(f"the page needs {BEGIN} and then {END}, once each, around what is to be rewritten")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{results.strip()}\n\n{END}{rest.partition(END)[2]}"


def relative(path: Path) -> str:
    """A path as the page names it."""
    return path.resolve().relative_to(ROOT).as_posix() if path.resolve().is_relative_to(ROOT) else path.as_posix()


def write(page: Path, film: bool) -> None:
    """Rewrite the page.

    Raises:
        ConfigError: if there is no such file, or it lacks the markers.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"page={page}: {error.strerror}") from None
    rewritten(text, "")  # so that a mistake shows before anything is filmed
    lines = [
        *pictures(film),
        *comparisons(RESULTS / "compare"),
        *beside_papers(),
        *supervised(),
        *latency(),
        *shipped(),
    ]
    atomic_write(page, rewritten(text, "\n".join(lines)).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def work(words: Sequence[str]) -> None:
        values = given(words, ("page", "gifs"))
        page = Path(values.get("page") or ROOT / "RESULTS.md")
        write(page, flag(values, "gifs", otherwise=True))
        print(f"written: {page}")

    return command(arguments, __doc__, work, bare=True)


if __name__ == "__main__":
    sys.exit(main())
