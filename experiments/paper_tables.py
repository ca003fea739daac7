"""python -m experiments.paper_tables [seeds=0,1,2] [only=point2d,sinusoid] [runs=runs/compare] [out=...] [quick=true]

Write our numbers beside published ones, and say how the protocols differ. What the tables of `experiments.compare` have
with the settings of today is taken from there; other runs are trained, if they are not there yet.

  seeds   of point2d (default: 0,1,2); what is trained of the cheetahs gets the first
  only    some of point2d, cheetah_dir, cheetah_vel, sinusoid
  runs    the folder of the runs, which `experiments.compare` shares
  out     the file to write (default: experiments/results/paper_tables.md)
  quick   true: a few iterations, in runs/compare-quick

The sinusoid's numbers are read from experiments/results/few_shot.json, if there is such a file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import metarl  # noqa: F401  - first: it checks the packages' places
from experiments.arguments import command, flag, given, numbers
from experiments.compare.__main__ import SMALL
from experiments.compare.comparison import Comparison
from experiments.compare.contenders import Contender, jobs_of
from experiments.compare.kept import kept, merged
from experiments.compare.plan import Job, Plan
from experiments.compare.training import cost, measure, settle
from experiments.few_shot.report import stored_tables
from experiments.summary import MEASURES, cell, over_seeds
from metarl.errors import ConfigError, nearest
from metarl.run_folder import atomic_write

RESULTS = Path(__file__).parent / "results"
KEYS = ("seeds", "only", "runs", "out", "quick")
POINT2D_STEPS = 8_000_000
Measured = tuple[Mapping[str, Any], float]  # a seed's evaluation, and the environment steps of its training
HEAD = ("benchmark", "method", "measure", "0 steps", "1 step", "2 steps", "3 steps", "protocol")


class Published(NamedTuple):
    """A published row: values by gradient steps, as text."""

    benchmark: str
    method: str
    measure: str
    values: dict[int, str]
    protocol: str


MAML = "arXiv 1703.03400"
SHORT = "200 steps are 2 s in its code, and 10 s here: returns do not compare"
ANIL = "arXiv 1909.09157, table 2; definitions differ between papers"
PUBLISHED = (
    Published(
        "point2d",
        "MAML",
        "return",
        {0: "-40.41", 1: "-11.68", 2: "-3.33", 3: "-3.23"},
        f"{MAML}, appendix: 40 trajectories per update, H = 100, MLP 100x100, TRPO, up to 500 iterations",
    ),
    Published(
        "point2d",
        "context vector",
        "return",
        {0: "-42.42", 1: "-13.90", 2: "-5.17", 3: "-3.18"},
        f"{MAML}, appendix: the same",
    ),
    Published(
        "cheetah_dir",
        "MAML",
        "return",
        {0: "-50.69", 1: "293.19", 2: "313.48", 3: "315.65"},
        f"{MAML}, appendix: H = 200, meta-batch 40, 20 rollouts; {SHORT}",
    ),
    Published("cheetah_dir", "MAML", "return", {1: "170.4 +- 21.0"}, ANIL),
    Published("cheetah_dir", "ANIL", "return", {1: "363.2 +- 14.8"}, ANIL),
    Published(
        "cheetah_vel",
        "MAML",
        "return",
        {0: "-130", 1: "-80", 2: "-75"},
        f"{MAML}, read off a figure: speeds U[0, 2]; {SHORT}",
    ),
    Published("cheetah_vel", "MAML", "return", {1: "-139.0"}, ANIL),
    Published("cheetah_vel", "ANIL", "return", {1: "-120.9"}, ANIL),
)
SINUSOID = (
    f"Sinusoid, 5-shot mean squared error after 1 / 5 / 10 steps ({MAML}: MLP 40x40, trained with 10 shots, step 0.01):"
    " MAML 0.67 / 0.38 / 0.35, pretrained network 2.41 / 2.23 / 2.19."
)
OURS_ARE = (
    "Ours: sampled actions on the published list of `test` tasks, if a row says no other; brackets are 95% intervals"
    " over seeds and tasks together, or, marked *, over the tasks of a single seed."
)


class Row(NamedTuple):
    """A row of ours.

    Args:
        algo: what trains it. method: what the table calls it. protocol: in words.
        overrides: of its training; none: it is the contender of the comparison. env_steps: None: as in the recipe.
        split: the published list that it is measured on.
    """

    algo: str
    method: str
    protocol: str
    overrides: tuple[str, ...] = ()
    env_steps: int | None = None
    split: str = "test"


POINT2D = "here: held-out goals (cells of the same square), 40 episodes per step, PPO outer loss"
LEARNED = f"{POINT2D}, learned inner rates on advantages in units of the returns' spread"
CHEETAH_DIR = "here: Gymnasium's HalfCheetah with a hidden mass besides, held-out tasks, mean actions"
CHEETAH_VEL = "here: Gymnasium's HalfCheetah, new tasks from the ranges of training:"
TO_2 = f"{CHEETAH_VEL} 0 to 0.4, 0.8 to 1.2, 1.6 to 2 m/s"
TO_3 = f"{CHEETAH_VEL} 0 to 0.6, 1.2 to 1.8, 2.4 to 3 m/s (0 to 3 in arXiv 1903.08254 and 1910.08348, as curves)"
ONE_MASS = ("env.tasks.mass_scale=1.0",)
OURS = {
    "point2d": (
        Row("maml", "maml", LEARNED, env_steps=POINT2D_STEPS),
        Row("maml", "maml_fixed", f"{POINT2D}, inner rates of 0.1", ("algo.inner.learn_rates=false",), POINT2D_STEPS),
    ),
    "cheetah_dir": (Row("in_context", "in_context", CHEETAH_DIR), Row("maml", "maml", CHEETAH_DIR)),
    "cheetah_vel": (
        Row("in_context", "in_context_one_mass", TO_2, ONE_MASS, split="train"),
        Row("maml", "maml_one_mass", TO_2, ONE_MASS, split="train"),
        Row("in_context", "in_context_to_3", TO_3, (*ONE_MASS, "env.tasks.goal=[0.0,3.0]"), split="train"),
    ),
}


def job(plan: Plan, mine: Row, seed: int) -> Job:
    """The run behind a row."""
    if not (mine.overrides or mine.env_steps):
        return jobs_of(plan, mine.method, seed)[-1]
    found = plan.fresh(mine.method, mine.algo, seed, *mine.overrides)
    longer = mine.env_steps and not plan.iterations
    return replace(found, budget=f"budget.env_steps={mine.env_steps}") if longer else found


def ours(plan: Plan, mine: Row, console: Console) -> list[str]:
    """Load or train a row of ours, as cells."""
    measured = compared(plan, mine, console) or trained(plan, mine, console)
    curve = over_seeds([evaluation for evaluation, _ in measured])
    cells = {entry["step"]: cell(entry["return"], MEASURES["return"], len(measured) == 1) for entry in curve}
    over = f"{len(measured)} seeds" if len(measured) > 1 else "one seed, interval over tasks"
    steps = sum(steps for _, steps in measured) / len(measured)
    protocol = f"{mine.protocol}; {steps / 1e6:.1f}M environment steps; {over}"
    return row(plan.env, f"{mine.method} (ours)", "return", cells, protocol)


def compared(plan: Plan, mine: Row, console: Console) -> list[Measured]:
    """What the table of the comparison has of a row that is one of its contenders, with the settings of today."""
    if mine.overrides or mine.env_steps or plan.iterations:
        return []
    settings = Comparison(plan, console, quick=False, command="").settings
    found = [each for each in kept(RESULTS / "compare", plan.env) if each.contender == mine.method]
    return [(each.evaluations[mine.split], each.env_steps) for each in merged([], found, settings)]


def trained(plan: Plan, mine: Row, console: Console) -> list[Measured]:
    """Train a row, or load its runs."""
    found: list[Measured] = []
    for seed in plan.seeds if plan.env == "point2d" else plan.seeds[:1]:
        wanted = job(plan, mine, seed)
        console.print(f"\n{plan.env}: {wanted.contender}, seed {seed}", style="bold", markup=False)
        folder = settle(wanted)
        evaluation = measure(folder, Contender(), console, splits=(mine.split,))[mine.split]
        found.append((evaluation, cost(folder)[0]))
    return found


def row(benchmark: str, method: str, measure: str, values: Mapping[int, str], protocol: str) -> list[str]:
    return [benchmark, method, measure, *(values.get(step, "") for step in range(4)), protocol]


def text(rows: Sequence[Sequence[str]], sinusoid: str | None) -> str:
    """The document."""
    lines = ["# Beside the papers", ""]
    if rows:
        lines += ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in rows]
        lines += ["", OURS_ARE, ""]
    if sinusoid is not None:
        lines += [SINUSOID, "", *(["Ours (experiments/results/few_shot.json):", "", sinusoid, ""] if sinusoid else [])]
    return "\n".join(lines)


def tables(arguments: Sequence[str]) -> None:
    """Train, and write the document.

    Raises:
        ConfigError: for a wrong argument. Interrupted: after Ctrl-C.
    """
    values = given(arguments, KEYS)
    every = (*OURS, "sinusoid")
    chosen = values["only"].split(",") if "only" in values else list(every)
    for name in chosen:
        if name not in every:
            raise ConfigError(f"only={name}: is not a benchmark; {nearest(name, every)}")
    quick = flag(values, "quick")
    seeds = numbers(values, "seeds", (0,) if quick else (0, 1, 2))
    runs = Path(values.get("runs", "runs/compare-quick" if quick else "runs/compare"))
    out = Path(values.get("out", runs / "paper_tables.md" if quick else RESULTS / "paper_tables.md"))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    rows: list[list[str]] = []
    for env in (name for name in every if name in chosen and name in OURS):
        rows += [row(*published) for published in PUBLISHED if published.benchmark == env]
        small = tuple(line for line in SMALL if env != "point2d" or not line.startswith("agent."))
        plan = Plan(env, runs, seeds, small if quick else (), 2 if quick else None)
        rows += [ours(plan, mine, console) for mine in OURS[env]]
    document = text(rows, stored_tables(RESULTS / "few_shot.json", ["sinusoid"]) if "sinusoid" in chosen else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, document.encode())
    console.print(f"\n{document}\nresult: {out}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command(arguments, __doc__, tables, bare=True)


if __name__ == "__main__":
    sys.exit(main())
