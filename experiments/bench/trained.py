"""A few iterations of `metarl.train` in a process of its own: how long they take, and how much memory."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A child's peak counts from the size of the process that started it, so a small one stands between: it runs the command
# and prints the peak of its only child, in KiB on Linux and bytes on macOS.
MIDDLE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
UNIT = 2**30 if sys.platform == "darwin" else 2**20


@dataclass(frozen=True)
class Trained:
    """What one iteration takes, by the median, and what the run takes at most."""

    rollout: float  # seconds
    update: float  # seconds
    peak: float  # GiB; with several processes that of the largest


def trained(settings: Sequence[str], launch: Sequence[str] = (), folder: Path | None = None) -> Trained:
    """Train; the first iteration, which warms up, is left out of the times where there are several.

    Args:
        launch: what stands between `python` and `-m metarl.train`.
        folder: with another state of this project, to train with that; it may know no reports.

    Raises:
        RuntimeError: if training fails; says why.
    """
    with tempfile.TemporaryDirectory() as parent:
        run = Path(parent) / "run"
        words = [*settings, *([] if folder else ["report=none"]), f"run_dir={run}"]
        command = [sys.executable, *launch, "-m", "metarl.train", *words]
        environment = os.environ | ({"PYTHONPATH": str(folder)} if folder else {})
        options: dict[str, Any] = {"capture_output": True, "text": True, "cwd": folder, "env": environment}
        done = subprocess.run([sys.executable, "-c", MIDDLE, *command], **options)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            reason = next((line for line in lines if line.startswith("error")), lines[-1])
            raise RuntimeError(f"`{' '.join(command[1:])}` failed: {reason}")
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    rollout, update = (
        statistics.median(float(row[f"{part}_seconds"]) for row in rows[1:] or rows) for part in ("rollout", "update")
    )
    return Trained(rollout, update, int(done.stdout.split()[-1]) / UNIT)
