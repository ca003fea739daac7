"""python -m experiments.bench [GROUP ...] [--quick] [--out FILE]
python -m experiments.bench gpu [--dry] [--out FILE]
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import metarl  # noqa: F401  - first: it sets what torch reads at its import
from experiments.bench import growth
from experiments.bench.measure import MissingPeer, Row, machine
from experiments.bench.report import print_table, write_json
from metarl.errors import DeviceError

GROUPS = ("environment", "metaworld", "acting", "latency", "gradient", "memory", "growth", "scaling", "before")
GPU = "gpu"  # alone: it needs an accelerator
RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the groups asked for; 0 if every target that was measured is met."""
    words = "Speed and memory; each figure is a ratio within one run."
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=words)
    others = f"any of {', '.join(GROUPS)} (default: all of these); or {GPU} alone: an accelerator against the CPU"
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=others)
    parser.add_argument("--quick", action="store_true", help="few rounds and tasks, to see that everything runs")
    parser.add_argument("--dry", action="store_true", help=f"{GPU}: the same, with the CPU in the accelerator's place")
    results = f"JSON file to write (default: bench.json in {RESULTS}, of one group <group>.json; nothing with --dry)"
    parser.add_argument("--out", type=Path, help=results)
    options = parser.parse_args(arguments)
    chosen = options.groups or list(GROUPS)
    unknown = [group for group in chosen if group not in (*GROUPS, GPU)]
    if unknown:
        parser.error(f"unknown group '{unknown[0]}' (valid: {', '.join((*GROUPS, GPU))})")
    if (GPU in chosen and chosen != [GPU]) or (options.dry and chosen != [GPU]):
        parser.error(f"--dry belongs to {GPU}, and {GPU} stands alone: python -m experiments.bench {GPU} --dry")
    # What one group measures must not take the place of what all have.
    out = options.out or (None if options.dry else RESULTS / f"{chosen[0] if len(chosen) == 1 else 'bench'}.json")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        parser.error(f"--out {out}: must be a file in a folder that there is")
    rows: list[Row] = []
    missing: list[str] = []
    try:
        for measurement in _measurements(chosen, options.quick, options.dry):
            try:
                rows += measurement()
            except MissingPeer as absence:
                rows += absence.rows
                missing.append(str(absence))
    except DeviceError as error:
        parser.error(str(error))
    except BaseException:
        if rows:  # what was measured before
            print_table(machine(), rows, missing)
        raise
    described = machine()
    if out is not None:
        write_json(out, described, {"groups": chosen, "quick": options.quick or options.dry}, rows, missing)
        if growth.GROUP in chosen:
            growth.draw(rows, out.with_name(f"{growth.GROUP}.png"))
    print_table(described, rows, missing)
    judged = [row for row in rows if row.target is not None and not options.dry]  # a dry run compares a CPU with itself
    return 0 if all(row.target is None or row.target.met(row.value) for row in judged) else 1


def _measurements(groups: Sequence[str], quick: bool, dry: bool) -> Iterable[Callable[[], list[Row]]]:
    """What the groups measure, each announced before it begins."""
    for group in groups:
        print(f"measuring: {group}", file=sys.stderr, flush=True)
        module = importlib.import_module(f"experiments.bench.{group}")
        if group == GPU:
            yield from module.measurements(dry, quick)
        else:
            yield from (partial(measurement, quick) for measurement in module.MEASUREMENTS)


if __name__ == "__main__":
    sys.exit(main())
