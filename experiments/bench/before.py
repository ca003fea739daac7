"""An iteration of training, and the same in an earlier state of this project; the two take turns, each in a process of
its own.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.bench.measure import MissingPeer, Row, Target, summary
from experiments.bench.trained import trained

GROUP = "before"
BEFORE = "283cc5a"  # the last state before training was made faster
ROOT = Path(__file__).parents[2]
COMMON = ["seed=0", "device=cpu", "evaluate.tasks=1", "evaluate.steps=0", "evaluate.episodes_per_step=1"]
KINDS = {
    "env=reach algo=in_context": ["env=reach", "algo=in_context"],
    "env=reach algo=maml": ["env=reach", "algo=maml", "algo.warm_start.iterations=0"],
}
QUICK = ["algo.tasks=4", "env.horizon=10", "agent.width=8"]
ROUNDS, ITERATIONS = 3, 12


def against(quick: bool = False) -> list[Row]:
    """How much of its former time an iteration takes.

    Raises:
        MissingPeer: without the project's history.
    """
    rounds, iterations = (1, 2) if quick else (ROUNDS, ITERATIONS)
    rows = []
    with _state(BEFORE) as folder:
        for name, kind in KINDS.items():
            settings = [*kind, *COMMON, *(QUICK if quick else []), f"budget.iterations={iterations}"]
            pairs = [(_seconds(settings), _seconds(settings, folder)) for _ in range(rounds)]
            ratios = [now / then for now, then in pairs]
            now, then = (min(seconds) for seconds in zip(*pairs, strict=True))
            detail = f"{now:.3f} s against {then:.3f} s in {BEFORE}, the fastest of {rounds} rounds"
            words = f"an iteration of {name}: now / before"
            rows.append(summary(GROUP, words, ratios, "x", Target("<=", 0.65), detail))
    return rows


def _seconds(settings: Sequence[str], folder: Path | None = None) -> float:
    found = trained(settings, folder=folder)
    return found.rollout + found.update


@contextmanager
def _state(commit: str) -> Iterator[Path]:
    """A folder with the project as it was; it is gone afterwards."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "before")
        made = subprocess.run(_git("worktree", "add", "--detach", str(folder), commit), capture_output=True, text=True)
        if made.returncode:
            raise MissingPeer(f"{GROUP}: needs the project's history with the commit {commit}: git fetch --unshallow")
        try:
            yield folder
        finally:
            subprocess.run(_git("worktree", "remove", "--force", str(folder)), check=True, capture_output=True)


def _git(*words: str) -> list[str]:
    return ["git", "-C", str(ROOT), *words]


MEASUREMENTS = (against,)
