"""python -m experiments.bench [environment acting latency gradient memory] [--quick] [--out FILE]"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import metarl  # noqa: F401  - first: it sets what torch reads at its import
from experiments.bench.measure import MissingPeer, machine
from experiments.bench.report import print_table, write_json

GROUPS = ("environment", "acting", "latency", "gradient", "memory")
OUT = Path(__file__).parents[1] / "results" / "bench.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the groups asked for; 0 if every target that was measured is met."""
    words = "Speed and memory; each figure is a ratio within one run."
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=words)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"any of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few rounds and tasks, to see that everything runs")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    unknown = [group for group in options.groups if group not in GROUPS]
    if unknown:
        parser.error(f"unknown group '{unknown[0]}' (valid: {', '.join(GROUPS)})")
    rows, missing = [], []
    chosen = options.groups or list(GROUPS)
    for group in chosen:
        print(f"measuring: {group}", file=sys.stderr, flush=True)
        for measurement in importlib.import_module(f"experiments.bench.{group}").MEASUREMENTS:
            try:
                rows += measurement(options.quick)
            except MissingPeer as absence:
                rows += absence.rows
                missing.append(str(absence))
    described = machine()
    write_json(options.out, described, {"groups": chosen, "quick": options.quick}, rows, missing)
    print_table(described, rows, missing)
    return 0 if all(row.target is None or row.target.met(row.value) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
