"""Runs that are killed at random moments and resumed end like one that was not; and the comparison can tell."""

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import faults
from metarl.config.composition import compose
from metarl.runs import train

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def command(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: it forks, and this one may have threads, which a child would miss."""
    code = f"{before}; from experiments import faults; raise SystemExit(faults.main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", code.lstrip("; ")], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(("algo", "kills"), [("maml", 5), ("in_context", 3)])
def test_runs_that_are_killed_survive(algo: str, kills: int) -> None:
    result = command("--algo", algo, "--kills", str(kills), "--seed", "1")
    assert result.returncode == 0 and f"{kills} survived of {kills}" in result.stdout, result.stdout + result.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("env", ["point2d", "reach", "navigate"])
def test_many_kills(env: str) -> None:
    result = command("--env", env, "--kills", "10", "--seed", "2")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_resume_that_forgets_a_generator_is_noticed(tmp_path: Path) -> None:
    without = "from metarl.training.trainer import Trainer; Trainer._all_generators = lambda self: self.generators"
    result = command("--algo", "in_context", "--kills", "2", "--keep", str(tmp_path), before=without)
    assert result.returncode == 1
    assert "1 survived of 2" in result.stdout  # the one that was killed before it began
    assert "kill 2 in a checkpoint" in result.stdout and "differs in" in result.stdout


@pytest.mark.parametrize("moment", [{"at": 10_000}, {"after": 0.02}])
def test_a_run_that_was_never_killed_has_not_survived(
    moment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives: list[dict[str, Any]] = []
    monkeypatch.setattr(faults, "live", lambda settings, log, **when: lives.append(when) or 0)
    (tmp_path / "run").mkdir()
    overrides = faults.settings_of("point2d", "in_context", 0)
    wrong = faults.survive(overrides, {}, tmp_path / "run", random.Random(0), moment)
    assert wrong == ["it ended before it was killed"]
    assert lives == ([moment, {"after": 0.01}] if "after" in moment else [moment])


def test_a_mistake_is_one_line() -> None:
    for words, said in ((["--env", "x"], "error: env=x: "), (["--kills", "0"], "must be an integer from 1, got 0")):
        result = command(*words)
        assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr


def content() -> dict[str, Any]:
    points = [(1, 0.5), (2, 0.25)]
    return {"best": 2, "metrics.csv, row 1": {"loss": "0.5"}, "tensorboard, loss": points, "left over": []}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(best=1),
        lambda c: c.pop("metrics.csv, row 1"),
        lambda c: c.update({"metrics.csv, row 2": {"loss": "0.5"}}),
        lambda c: c["metrics.csv, row 1"].update(loss="0.50000001"),
        lambda c: c.update({"left over": [".x.tmp"]}),
    ],
)
def test_every_difference_is_found(change: Callable[[dict[str, Any]], object]) -> None:
    changed = copy.deepcopy(content())
    change(changed)
    assert len(faults.differences(content(), changed)) == 1
    assert faults.differences(content(), content()) == []


def test_a_step_that_is_shown_twice_is_found() -> None:
    faults.check_steps(content())
    with pytest.raises(AssertionError, match="tensorboard, loss"):
        faults.check_steps({"tensorboard, loss": [(1, 0.5), (2, 0.25), (2, 0.25)]})


def test_bits_tell_what_numbers_do_not() -> None:
    assert faults._bits(torch.tensor([0.0])) != faults._bits(torch.tensor([-0.0]))
    assert faults._bits(torch.tensor([torch.nan])) == faults._bits(torch.tensor([torch.nan]))
    assert faults._bits(torch.zeros(2)) != faults._bits(torch.zeros(2, 1))


def test_the_moments_are_of_every_kind() -> None:
    places = ["mkdir run", "write config.yaml", "rename r/checkpoints/iteration-000000", "write r/metrics.csv"]
    places += ["rename r/checkpoints/iteration-000002", "replace r/evaluation/test.json"]
    chosen = [moment for _, moment in faults.moments(places, 5.0, 10, random.Random(0))]
    assert all(moment["at"] <= 2 for moment in chosen[0::5]) and all(moment["at"] == 4 for moment in chosen[1::5])
    assert all(moment["at"] == 5 for moment in chosen[2::5]) and all(moment["at"] == 3 for moment in chosen[3::5])
    assert all(0 <= moment["after"] <= 5 for moment in chosen[4::5])


def test_the_runs_have_a_warm_start_that_ends_between_checkpoints() -> None:
    config = compose(faults.settings_of("reach", "maml", 3))
    assert config.algo.warm_start.iterations % config.checkpoint.every == 1
    assert config.seed == 3 and config.budget.iterations == 7


def test_what_the_source_was_is_no_difference(tmp_path: Path) -> None:
    small = ["env=point2d", "algo=maml", "env.horizon=3", "algo.tasks=2", "algo.episodes=2", "budget.iterations=1"]
    small += ["algo.outer.n_epochs=1", "evaluate.tasks=2", "evaluate.episodes_per_step=2", "device=cpu"]
    folder = train(compose([*small, f"run_dir={tmp_path / 'run'}"]))
    before, path = faults.content(folder), folder / "evaluation" / "test.json"
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps(evaluation | {"git_commit": "another", "git_dirty": None}))
    assert faults.content(folder) == before
    path.write_text(json.dumps(evaluation | {"seed": 7}))
    assert faults.content(folder) != before
