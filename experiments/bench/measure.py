"""Interleaved timing: contenders take turns, so that whatever else the machine does affects them alike."""

from __future__ import annotations

import operator
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from envs.core.cores import usable_cores


@dataclass(frozen=True)
class Target:
    """What a figure should reach: `Target(">=", 1.5)`."""

    relation: str  # ">=" or "<="
    bound: float

    def met(self, value: float) -> bool:
        """Whether the value reaches it."""
        return {">=": operator.ge, "<=": operator.le}[self.relation](value, self.bound)


@dataclass(frozen=True)
class Row:
    """One figure of the table: the median over rounds, and the lowest and highest round."""

    group: str
    name: str
    value: float
    low: float
    high: float
    unit: str  # "x" for a ratio, "share", "GiB", "s", ...
    target: Target | None = None
    detail: str = ""  # what the two sides did in absolute terms


class MissingPeer(Exception):
    """A peer is not installed; the message says what to install, and `rows` are the figures that do not need it."""

    def __init__(self, message: str, rows: Sequence[Row] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each contender in each round: A B C A B C ..., after one warm-up each."""
    if warm_up:
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(
    group: str, name: str, values: Sequence[float], unit: str, target: Target | None = None, detail: str = ""
) -> Row:
    """The row of one figure measured in several rounds."""
    return Row(group, name, statistics.median(values), min(values), max(values), unit, target, detail)


def speedup(
    group: str, name: str, ours: Sequence[float], peer: Sequence[float], target: Target | None, detail: str
) -> Row:
    """How many times faster ours is than the peer, from seconds for the same work, round by round."""
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    return summary(group, name, ratios, "x", target, detail)


def machine() -> dict[str, object]:
    """The machine in words, without names of hosts or users."""
    packages = ("torch", "mujoco", "numpy", "gymnasium", "stable-baselines3", "higher")
    installed = {
        item.metadata["Name"].lower(): item.version for item in metadata.distributions() if item.metadata["Name"]
    }
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in packages if name in installed},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
