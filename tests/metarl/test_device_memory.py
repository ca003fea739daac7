"""A GPU whose memory is too small, or used up: said in one line, and never taken for a damaged checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import metarl.assembly.opened as opened
import metarl.runs as runs
import metarl.training.trainer as trainer
from metarl.algorithms.maml import MAML
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.config.memory import check_rollout, check_training
from metarl.config.settings import TrainSettings
from metarl.errors import CheckpointError, ConfigError, DeviceError
from metarl.runs import evaluate_run, reproduce, train

SMALL = ["env=point2d", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "agent.hidden=[4]"]
SMALL += ["evaluate.tasks=2", "evaluate.episodes_per_step=1", "budget.iterations=1", "report=page"]
USED_UP = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9 GiB."
LINE = r"^the device has not enough memory: CUDA out of memory; choose device=cpu, fewer tasks"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(compose([*SMALL, f"run_dir={tmp_path_factory.mktemp('runs') / 'point'}"]))


def used_up(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError(USED_UP)


def test_what_a_gpu_cannot_hold_is_refused_before_training(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runs, opened):
        monkeypatch.setattr(module, "gpu_memory", lambda _: 100)
    with pytest.raises(ConfigError, match=r"^env.horizon=5, .* and its GPU has 0 GB of memory$"):
        train(compose([*SMALL, f"run_dir={tmp_path / 'new'}"]))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="episodes at once of 5 steps: .* and its GPU has 0 GB"):
        evaluate_run(compose([f"run={run}", "tasks=10", "episodes=10"], "evaluate"))


def test_each_part_is_compared_with_the_memory_that_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = compose(["env=reach"])
    assert isinstance(settings, TrainSettings)
    monkeypatch.setattr("metarl.config.memory._memory", lambda: 3_000_000)  # holds the physics, not what is remembered
    check_training(settings, gpu=10**12)
    check_rollout(settings.agent, 1000, 100, "", gpu=10**12)
    with pytest.raises(ConfigError, match="this machine has"):
        check_training(settings)
    with pytest.raises(ConfigError, match="told: .*this machine has"):
        check_rollout(settings.agent, 10**6, 1, "told", gpu=10**12)


def test_the_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = compose(["env=reach", "evaluate.tasks=1", "agent.width=512", "agent.heads=8"])
    assert isinstance(settings, TrainSettings)
    weights = 16 * settings.agent.parameters()  # in bytes: with gradients and what Adam remembers
    alone = _needed(settings, monkeypatch)
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    tasks = alone - weights
    assert _needed(settings, monkeypatch) == pytest.approx(tasks / 2 + 4 * weights, rel=0.05)
    with pytest.raises(ConfigError, match="would take at least .* GB in 4 processes, and this machine has"):
        check_training(settings)
    monkeypatch.setattr("metarl.config.memory._memory", lambda: 10**15)
    check_training(settings, gpu=int(tasks / 8 + 1.1 * weights))
    with pytest.raises(ConfigError, match="in 4 processes, and its 4 GPUs have"):
        check_training(settings, gpu=weights)


def _needed(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> int:
    """The smallest memory, in bytes, in which these settings may train; afterwards the machine has a byte less."""
    low, high = 0, 10**15
    while high - low > 1:
        middle = (low + high) // 2
        monkeypatch.setattr("metarl.config.memory._memory", lambda there=middle: there)
        try:
            check_training(settings)
            high = middle
        except ConfigError:
            low = middle
    monkeypatch.setattr("metarl.config.memory._memory", lambda: low)
    return high


@pytest.mark.parametrize("where", ["build_policy", "load_policy"])
def test_memory_that_is_used_up_while_a_run_is_opened(run: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(opened, where, used_up)
    with pytest.raises(DeviceError, match=LINE):
        open_run(run, "cpu")


def test_memory_that_is_used_up_while_a_run_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = compose([f"resume={run}", "budget.iterations=2"])
    monkeypatch.setattr(MAML, "update", used_up)
    with pytest.raises(DeviceError, match=LINE):
        train(longer)
    monkeypatch.setattr(trainer, "load_policy", used_up)
    with pytest.raises(DeviceError, match=LINE):
        train(longer)


def test_memory_that_is_used_up_in_an_evaluation_or_a_reproduction(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "adaptation_rounds", used_up)
    with pytest.raises(DeviceError, match=LINE):
        evaluate_run(compose([f"run={run}"], "evaluate"))
    monkeypatch.setattr(runs, "read_checkpoint", lambda _: (0, {}, {"config": {}}))
    monkeypatch.setattr(runs, "checked_settings", used_up)
    with pytest.raises(DeviceError, match=LINE):
        reproduce(run)


def test_what_does_not_fit_is_still_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any) -> None:
        raise RuntimeError("size\nmismatch")

    monkeypatch.setattr(opened, "load_policy", damaged)
    with pytest.raises(CheckpointError, match="the checkpoint does not fit the run's configuration: size mismatch$"):
        open_run(run, "cpu")
