"""Trackers in place of TensorBoard: what they are told, that nothing is sent unasked, and that they can fail."""

from __future__ import annotations

import os
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from metarl.errors import ConfigError, RunWarning
from metarl.run_folder.metrics import MetricsLog
from metarl.run_folder.tracking import SILENCE, TRACKERS


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What modules in the places of the trackers are told; a step 13 they cannot take."""
    calls: list[tuple[str, Any]] = []

    class Run:
        def log(self, scalars: dict[str, float], step: int) -> None:
            if step == 13:
                raise OSError("the network\nis away")
            calls.append(("log", (step, scalars)))

    def init(**options: Any) -> Run:
        print("* Created new run")
        calls.append(("init", options | {"mode": os.environ["WANDB_MODE"]}))
        return Run()

    for name in TRACKERS:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, origin="fake.py")
        module.init = init  # type: ignore[attr-defined]
        module.finish = lambda: calls.append(("finish", None))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    for name in SILENCE:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    return calls


@pytest.mark.parametrize("logger", TRACKERS)
def test_a_tracker_gets_every_row_and_nothing_is_sent(
    logger: str, tmp_path: Path, told: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with MetricsLog(tmp_path, 0, logger, {"seed": 3}) as log:
        assert told == [], "nothing begins before the first row"
        log.append({"iteration": 1, "loss": 0.5})
        log.append({"iteration": 2, "loss": 0.25})
    assert [kind for kind, _ in told] == ["init", "log", "log", "finish"]
    assert capsys.readouterr().out == "", "the display is the training's"
    options = told[0][1]
    assert (options["project"], options["config"], options["resume"]) == ("metarl", {"seed": 3}, "allow")
    assert options["mode"] == "offline"
    assert told[1:3] == [("log", (1, {"loss": 0.5})), ("log", (2, {"loss": 0.25}))]
    assert not (tmp_path / "tensorboard").exists()
    with MetricsLog(tmp_path, 2, logger) as log:
        log.append({"iteration": 3, "loss": 0.1})
    known = "id" if logger == "wandb" else "name"
    assert told[4][1][known] == options[known], "a run that goes on is the same run"
    other = tmp_path / "other"
    other.mkdir()
    with MetricsLog(other, 0, logger) as log:
        log.append({"iteration": 1})
    assert told[7][1][known] != options[known]


def test_what_the_user_asks_for_is_sent(
    tmp_path: Path, told: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with MetricsLog(tmp_path, 0, "wandb") as log:
        log.append({"iteration": 1})
    assert told[0][1]["mode"] == "online"


def test_a_tracker_that_fails_is_left_alone(tmp_path: Path, told: list[tuple[str, Any]]) -> None:
    with MetricsLog(tmp_path, 0, "wandb") as log:
        log.append({"iteration": 12})
        with pytest.warns(RunWarning, match="^logger=wandb failed and is left alone: OSError: the network is away;"):
            log.append({"iteration": 13})
        log.append({"iteration": 14})
    assert [kind for kind, _ in told] == ["init", "log"]
    assert (tmp_path / "metrics.csv").read_text() == "iteration\n12\n13\n14\n"


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl.run_folder.tracking.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^logger=trackio: it is not installed; in your clone of .* -e '\.\[trackio\]', or"
    ):
        MetricsLog(tmp_path, 0, "trackio")
    folder = ModuleSpec("wandb", None, origin=None, is_package=True)  # the one where it keeps its files
    monkeypatch.setattr("metarl.run_folder.tracking.find_spec", lambda name: folder)
    with pytest.raises(ConfigError, match="^logger=wandb: it is not installed"):
        MetricsLog(tmp_path, 0, "wandb")
    assert list(tmp_path.iterdir()) == []
