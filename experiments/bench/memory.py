"""Peak memory of a training run of the default reach configuration."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.bench.measure import Row, Target, summary

# A child's peak counts from the size of the process that started it, so a small one stands between: it runs the command
# and prints the peak of its only child, in KiB on Linux and bytes on macOS.
MIDDLE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
UNIT = 2**30 if sys.platform == "darwin" else 2**20


def training(quick: bool) -> list[Row]:
    """Three meta-iterations of MAML, as `metarl.train` runs them."""
    with tempfile.TemporaryDirectory() as folder:
        train = ["-m", "metarl.train", "env=reach", "algo=maml", "seed=0", "device=cpu", "budget.iterations=3"]
        command = [sys.executable, "-c", MIDDLE, sys.executable, *train, f"run_dir={Path(folder) / 'run'}"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"`python {' '.join(train)}` failed: {reason}")
    peak = int(done.stdout.split()[-1]) / UNIT
    return [summary("memory", "peak of a default reach run", [peak], "GiB", Target("<=", 2.0), " ".join(train[1:]))]


MEASUREMENTS = (training,)
