"""Does a long training leak? A real run is a child process, whose memory, open files and threads are watched.

    python -m experiments.soak --minutes 60 algo.warm_start.iterations=0   reach by MAML, without training in context
    python -m experiments.soak --minutes 60 env=grasp algo=in_context      any settings of metarl.train

Every few seconds it reads the child's /proc: resident memory, open file descriptors, threads. After the first five
minutes, in which caches fill, the memory must grow by less than 2% (the median of the last tenth of the samples against
that of the first tenth), and the numbers of descriptors and threads must not grow. Samples go to
results/soak-<name>.csv, the verdict to results/soak-<name>.json; the exit status is 0 if it is good. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.bench.measure import machine

RESULTS = Path(__file__).parent / "results"
WARM_UP = 300.0  # seconds
GROWTH = 0.02
ENDLESS = "budget.minutes=1000000"  # the child is stopped, as Ctrl-C would stop it


class Sample(NamedTuple):
    """The child at one moment."""

    seconds: float
    rss_bytes: int
    descriptors: int
    threads: int


class Verdict(NamedTuple):
    """What the samples after the warm-up tell."""

    samples: int
    growth: float  # of the memory, as a share
    descriptors: tuple[int, int]  # fewest and most
    threads: tuple[int, int]
    good: bool


def sample(process: int, seconds: float) -> Sample:
    """A process by its number, from /proc.

    Raises:
        OSError: if it is gone.
    """
    folder = Path("/proc") / str(process)
    pages = int((folder / "statm").read_text().split()[1])
    threads = len(os.listdir(folder / "task"))
    return Sample(seconds, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(folder / "fd")), threads)


def judge(samples: Sequence[Sample], warm_up: float = WARM_UP) -> Verdict:
    """The verdict on the samples after the warm-up; fewer than ten are bad.

    A file that is open while a checkpoint is written, and the threads of a meta-gradient, come and go. Descriptors and
    threads are constant if their maximum in the second half does not exceed that in the first.
    """
    kept = [entry for entry in samples if entry.seconds >= warm_up]
    if len(kept) < 10:
        return Verdict(len(kept), float("nan"), (0, 0), (0, 0), False)
    part, half = max(len(kept) // 10, 1), len(kept) // 2
    first, last = (statistics.median(entry.rss_bytes for entry in some) for some in (kept[:part], kept[-part:]))
    growth = last / first - 1.0
    counts = {name: [getattr(entry, name) for entry in kept] for name in ("descriptors", "threads")}
    constant = all(max(values[half:]) <= max(values[:half]) for values in counts.values())
    ranges = [(min(values), max(values)) for values in counts.values()]
    return Verdict(len(kept), growth, ranges[0], ranges[1], growth < GROWTH and constant)


def watch(settings: Sequence[str], minutes: float, every: float, folder: Path) -> list[Sample]:
    """Train in a child process for so many minutes, and sample it.

    Raises:
        RuntimeError: if the child ends by itself, with what it said last.
    """
    log = folder / "train.log"
    command = [sys.executable, "-m", "metarl.train", *settings, ENDLESS, f"run_dir={folder / 'run'}"]
    samples: list[Sample] = []
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        start = time.monotonic()
        try:
            while (seconds := time.monotonic() - start) < 60.0 * minutes:
                if process.poll() is not None:
                    lines = log.read_text().strip().splitlines()
                    raise RuntimeError(f"training ended with status {process.returncode}: {lines[-1:]}")
                samples.append(sample(process.pid, seconds))
                time.sleep(every)
        finally:
            process.send_signal(signal.SIGINT)
    return samples


def write(samples: Sequence[Sample], verdict: Verdict, words: Mapping[str, object], out: Path) -> None:
    """The samples as out.csv and the verdict, with what was measured, as out.json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_suffix(".csv"), "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Sample._fields)
        table.writerows([round(entry.seconds, 1), *entry[1:]] for entry in samples)
    content = {**words, "verdict": verdict._asdict(), "machine": machine()}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 if nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="of metarl.train, such as env=grasp")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: %(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds to omit (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="without a suffix (default: results/soak-<env>-<algo>)")
    options = parser.parse_intermixed_args(arguments)
    named = dict(setting.partition("=")[::2] for setting in options.settings)
    out = options.out or RESULTS / f"soak-{named.get('env', 'reach')}-{named.get('algo', 'maml')}".replace(":", "-")
    with tempfile.TemporaryDirectory(prefix="metarl-soak-") as folder:
        try:
            samples = watch(options.settings, options.minutes, options.every, Path(folder))
        except (RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        rows = Path(folder, "run", "metrics.csv")
        iterations = max(len(rows.read_text().splitlines()) - 1, 0) if rows.exists() else 0
    verdict = judge(samples, options.warm_up)
    words = {"settings": options.settings, "minutes": options.minutes, "warm_up_seconds": options.warm_up}
    write(samples, verdict, words | {"iterations": iterations}, out)
    print(
        f"{'good' if verdict.good else 'BAD'}: {iterations} iterations in {options.minutes:g} minutes; after the first "
        f"{options.warm_up:g} s memory grew by {verdict.growth:.2%}, open files {verdict.descriptors[0]} to "
        f"{verdict.descriptors[1]}, threads {verdict.threads[0]} to {verdict.threads[1]} ({verdict.samples} samples)"
    )
    print(f"{out.with_suffix('.csv')}, {out.with_suffix('.json')}")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
