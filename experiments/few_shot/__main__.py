"""python -m experiments.few_shot [sinusoid digits ratings] [--quick] [--seed N] [--out FILE]"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import metarl  # noqa: F401  - first: it sets what torch reads at its import
from experiments.bench.measure import machine
from experiments.few_shot.report import Results, markdown, track
from metarl.errors import KNOWN

PROBLEMS = ("sinusoid", "digits", "ratings")
OUT = Path(__file__).parents[1] / "results" / "few_shot.json"


def run(problem: str, quick: bool, seed: int, results: Results, console: Console) -> None:
    """Train and measure the contenders of a problem; what is finished is kept, whatever happens to the rest.

    Raises:
        MetaRLError: if a package is missing, or the results cannot be written.
    """
    module = sys.modules[f"experiments.few_shot.{problem}"]
    started, finished = time.monotonic(), []
    words = ["python", "-m", "experiments.few_shot", problem, *(["--quick"] if quick else []), "--seed", str(seed)]

    def content(complete: bool) -> dict[str, object]:
        return {
            "command": shlex.join(words),
            "machine": machine(),
            "protocol": " ".join((module.__doc__ or "").split()),
            "complete": complete,
            "seconds": round(time.monotonic() - started, 1),
            "rows": [row.record() for row in finished],
        }

    for row in module.rows(quick, seed, partial(track, console)):
        finished.append(row)
        results.save({problem: content(False)})
    results.save({problem: content(True)})
    print(f"\n{markdown(finished)}\n", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = "MAML, Reptile, in-context learning and prototypes on supervised few-shot problems."
    parser = argparse.ArgumentParser(prog="python -m experiments.few_shot", description=words)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=f"any of {', '.join(PROBLEMS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few iterations and tasks, to see that everything runs")
    parser.add_argument("--seed", type=int, default=0, help="of networks and tasks (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help=f"JSON file to write (default: {OUT.name} in experiments/results; none if quick)"
    )
    options = parser.parse_args(arguments)
    unknown = [problem for problem in options.problems if problem not in PROBLEMS]
    if unknown:
        parser.error(f"unknown problem '{unknown[0]}' (valid: {', '.join(PROBLEMS)})")
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    chosen = options.problems or PROBLEMS
    out = options.out or (None if options.quick else OUT)
    torch.set_num_threads(1)  # these networks are too small to be shared between cores
    console = Console(stderr=True, highlight=False, markup=False)
    try:
        for problem in chosen:  # to find what is missing before anything is trained
            importlib.import_module(f"experiments.few_shot.{problem}")
        results = Results(out)
        for problem in chosen:
            run(problem, options.quick, options.seed, results, console)
    except KNOWN as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is in {out or 'the tables above'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
