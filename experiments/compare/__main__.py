"""python -m experiments.compare env=grasp [seeds=0,1,2] [only=in_context,oracle] [steps=3] [task=push] [quick=true]

Train all contenders on one environment, load those that are trained already, and write <env>.json, .csv, .md, .png and
-tasks.json.gz, which has every task's values.

  env     a task family. Those that cannot be done without adapting compare memories: of a trial, of an episode, none,
          and one that is told the task; the others gradient steps, and reach, grasp and navigate have most contenders
  seeds   default: 0,1,2, but 0 on push, the cheetahs and the ants; some contenders get the first seed
  only    train only these contenders (none: nobody); the report also has the others that are trained on these seeds,
          and what the results in `out` say of other runs with the same settings
  steps   gradient steps after which those who take any are measured (default: as in the recipes; 3 of fine-tuning)
  task    of env=metaworld: which of Meta-World's tasks (default: reach), as ML1
  runs    the folder of the runs (default: runs/compare): finished runs are loaded, others are continued
  out     the folder for the results (default: experiments/results/compare)
  quick   true: a few iterations and tasks, in runs/compare-quick, to see that everything works

Ctrl-C stops it; the same command continues from there.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import metarl  # noqa: F401  - first: it checks the packages' places
from envs.registry import names as environments
from experiments.arguments import command, flag, given, numbers
from experiments.compare.comparison import Comparison, comparable
from experiments.compare.contenders import ADAPTATION, MAIN, METAWORLD, contenders
from experiments.compare.contrasts import Result
from experiments.compare.kept import kept
from experiments.compare.plan import Plan
from experiments.compare.report import body, document, write
from metarl.errors import ConfigError, Interrupted, nearest

RESULTS = Path(__file__).parents[1] / "results" / "compare"
KEYS = ("env", "seeds", "only", "steps", "task", "runs", "out", "quick")
SMALL = ("env.horizon=10", "agent.width=8", "algo.tasks=4", "evaluate.tasks=4", "evaluate.episodes_per_step=2")


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    plan: Plan
    chosen: tuple[str, ...]
    out: Path
    quick: bool
    command: str  # without `only` and `seeds`


def read(arguments: Sequence[str]) -> Request:
    """The request of a command line.

    Raises:
        ConfigError: for an unknown argument, or a value that is not allowed.
    """
    values = given(arguments, KEYS)
    env, valid = values.get("env", ""), {*environments(), METAWORLD} - {"point2d"}
    if env not in valid:
        raise ConfigError(f"env={env}: unknown environment; {nearest(env, valid)}")
    quick = flag(values, "quick")
    seeds = numbers(values, "seeds", usual_seeds(env, quick))
    runs = Path(values.get("runs") or ("runs/compare-quick" if quick else "runs/compare"))
    steps = numbers(values, "steps", ())
    if len(steps) > 1 or 0 in steps:
        raise ConfigError(f"steps={values['steps']}: must be one integer from 1")
    task = values.get("task") or ("reach" if env == METAWORLD else None)
    if task and env != METAWORLD:
        raise ConfigError(f"task={task}: only env={METAWORLD} has tasks to choose from")
    plan = Plan(env, runs, seeds, SMALL if quick else (), 2 if quick else None, steps[0] if steps else None, task)
    known = tuple(contenders(plan))
    chosen = tuple(values["only"].split(",")) if values.get("only") else known
    chosen = () if chosen == ("none",) else chosen
    for name in chosen:
        if name not in known:
            raise ConfigError(f"only={name}: is not a contender on {plan.name}; {nearest(name, known)}")
    out = Path(values["out"]) if values.get("out") else runs / "results" if quick else RESULTS
    rest = [argument for argument in arguments if not argument.startswith(("only=", "seeds="))]
    return Request(plan, chosen, out, quick, shlex.join(["python", "-m", "experiments.compare", *rest]))


def usual_seeds(env: str, quick: bool) -> tuple[int, ...]:
    return (0, 1, 2) if env in (*MAIN, *ADAPTATION) and not quick else (0,)


def made_by(request: Request, results: Sequence[Result]) -> str:
    """The command lines that make exactly these results: one for contenders with the same seeds."""
    seeds: dict[str, tuple[int, ...]] = {}
    for result in results:
        seeds[result.contender] = (*seeds.get(result.contender, ()), result.seed)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, own in seeds.items():
        groups.setdefault(own, []).append(name)
    usual, everybody = usual_seeds(request.plan.env, request.quick), list(contenders(request.plan))
    lines = []
    for own, names in groups.items():
        words = [f"seeds={','.join(map(str, own))}"] if own != usual else []
        words += [f"only={','.join(names)}"] if names != everybody else []
        lines.append(" ".join([request.command, *map(shlex.quote, words)]))
    return " && ".join(lines)


def compare(arguments: Sequence[str]) -> None:
    """Train, measure and report.

    Raises:
        ConfigError: for a wrong argument, or results in `out` that cannot be read. Interrupted: after Ctrl-C.
    """
    request = read(arguments)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    env, again = request.plan.name, shlex.join(["python", "-m", "experiments.compare", *arguments])
    comparison = Comparison(request.plan, console, request.quick, request.command)
    pairs = comparison.order(request.chosen)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={request.out}: {error.strerror}") from None
    earlier = kept(request.out, env)  # a mistake in either should not wait until all are trained
    try:
        for number, (name, seed) in enumerate(pairs, 1):
            console.print(f"\n[{number}/{len(pairs)}] {env}: {name}, seed {seed}", style="bold", markup=False)
            comparison.train(name, seed)
    except Interrupted as stop:
        raise Interrupted(f"stopped; continue with: {again}", stop.signal) from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; continue with: {again}") from None
    results = comparison.results(earlier)
    content = document(env, results, request.quick, made_by(request, results), comparable(request.plan.env))
    paths = write(request.out, content, results)
    console.print("\n".join(["", *body(content), *(f"result: {path}" for path in paths)]), markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command(arguments, __doc__, compare, bare=False)


if __name__ == "__main__":
    sys.exit(main())
