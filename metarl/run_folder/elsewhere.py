"""The folder of a run that another process of it writes: what this one would write is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metarl.run_folder.folder import RunFolder
from metarl.run_folder.metrics import MetricsLog


class DroppedMetrics(MetricsLog):
    """A log that nobody reads."""

    def __init__(self) -> None:
        pass

    def append(self, row: Mapping[str, float | int]) -> None:
        pass

    def _close(self) -> None:
        pass


class Elsewhere(RunFolder):
    """Its path need not exist on this machine."""

    def metrics(self, after: int, logger: str | None = "tensorboard") -> MetricsLog:
        return DroppedMetrics()

    def save_checkpoint(
        self, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2, best: bool = False
    ) -> Path:
        return self.checkpoint_path(iteration)

    def save_dump(self, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        return self.path / "dumps"
