"""Seeds side by side: what counts as one, and what cannot be joined."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from experiments.summary import main
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.run_folder import pretrained
from metarl.runs import evaluate, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    tiny = ["env=point2d", "algo=reptile", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "budget.iterations=1"]
    tiny += ["evaluate.tasks=3", "evaluate.episodes_per_step=2", "evaluate.steps=1", "report=none", "device=cpu"]
    return [train(compose([*tiny, f"seed={seed}", f"run_dir={folder / str(seed)}"])) for seed in (0, 1)]


def test_seeds_share_a_row(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, runs)]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:3] + [row.split(" | ")[5]] for row in rows] == [
        ["| point2d", "reptile", "2", "0 / 0"],
        ["| point2d", "reptile", "2", "1 / 2"],
    ]


def test_what_cannot_be_joined_is_said(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    measured = {"split": "test", "tasks": None, "episodes": None, "deterministic": None}
    evaluate(open_run(other), steps=2, seed=0, threads=1, console=Console(quiet=True), **measured)
    for given, text in (
        ([runs[0], runs[0]], "the same run is named twice"),
        ([runs[0], other], f"{other}: was measured at steps [0, 1, 2], others of its kind at [0, 1]"),
        ([pretrained.names()["reach"]], "has no metrics"),
    ):
        assert main([*map(str, given)]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and text in captured.err and len(captured.err.splitlines()) == 1
