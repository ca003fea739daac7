"""Sweeps by Hydra's launchers: several runs at once on one machine; those for clusters by what they would be given."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["env=reach", "env.horizon=6", "algo=in_context", "algo.tasks=2", "agent.width=8", "agent.layers=1", "threads=1"]
TINY += ["budget.iterations=1", "evaluate.tasks=1", "evaluate.episodes_per_step=1", "device=cpu", "report=page"]


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-m", "metarl.train", *arguments]
    return subprocess.run(line, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def needs(launcher: str) -> None:
    if importlib.util.find_spec("hydra_plugins") is None or not importlib.util.find_spec(
        f"hydra_plugins.hydra_{launcher}_launcher"
    ):
        pytest.skip(f"needs hydra-{launcher}-launcher")


def test_runs_of_a_sweep_train_beside_each_other(tmp_path: Path) -> None:
    needs("joblib")
    (tmp_path / "run-0").mkdir()
    (tmp_path / "run-0" / "mine").touch()
    at_once = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = train(tmp_path, "-m", *at_once, *TINY, "seed=0,1", "run_dir=run-${seed}")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "error: run-0 is not empty" in done.stderr
    assert (tmp_path / "run-1" / "evaluation" / "test.json").exists(), done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0", "run-1"]
    done = train(tmp_path, "-m", *at_once, *TINY, "seed=2,3", "run_dir=run-${seed}")
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / f"run-{seed}" / "evaluation" / "test.json").exists() for seed in (2, 3))


@pytest.mark.parametrize(
    ("launcher", "package"), [("submitit_local", "submitit"), ("submitit_slurm", "submitit"), ("ray", "ray")]
)
def test_launchers_for_clusters_can_be_chosen(tmp_path: Path, launcher: str, package: str) -> None:
    needs(package)
    done = train(tmp_path, f"hydra/launcher={launcher}", *TINY, "--cfg", "hydra", "-p", "hydra.launcher")
    assert done.returncode == 0, done.stderr
    assert f"_target_: hydra_plugins.hydra_{package}_launcher" in done.stdout


def test_a_launcher_that_is_not_installed_is_named(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "hydra/launcher=elsewhere", *TINY, "seed=0,1", "run_dir=run-${seed}")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hydra/launcher=elsewhere: not installed; pip install hydra-joblib-launcher")
