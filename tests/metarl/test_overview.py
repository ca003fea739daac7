"""`python -m metarl`: what there is to use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metarl
from envs.registry import all_names, names
from metarl.config.composition import compose
from metarl.overview import hidden_parameters, overview, shipped, states
from metarl.run_folder import RunFolder
from metarl.run_folder.lock import is_written
from metarl.runs import train

ROOT = Path(__file__).parents[2]
TINY = ["env=point2d", "agent.hidden=[4]", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "algo.outer.n_epochs=1"]
TINY += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "budget.iterations=2", "device=cpu"]


def test_families_and_policies() -> None:
    assert [name for name in hidden_parameters() if name in names()] == names()
    assert set(hidden_parameters()) <= set(all_names())  # of the others not everybody has the package
    assert hidden_parameters()["reach"] == ["goal", "payload_mass", "damping_scale"]
    found = shipped()
    assert set(names()) - set(found) == {"point2d"}
    curve = RunFolder(ROOT / "metarl/run_folder/shipped/reach-maml").read_evaluation("test")["curve"]
    first, last = (f"{curve[index]['success']['mean']:.3f}" for index in (0, -1))
    assert found["reach"].startswith(f"reach-maml: test {first} -> {last}, ood 0.")
    for word in ("payload_mass", "pretrained/grasp ", "none"):
        assert word in overview("nowhere")


def test_the_state_of_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    done = train(compose([*TINY, "seed=3"]))
    again = train(compose([*TINY, "seed=3"]))
    assert (str(done), str(again)) == ("runs/point2d-maml-3", "runs/point2d-maml-3-2")  # the folder names the seed
    for name in ("stopped", "damaged", "unbegun", "writing"):
        shutil.copytree(done, f"runs/{name}")
    for name in ("stopped", "writing"):
        RunFolder(f"runs/{name}").change_config({"budget": {"iterations": 8, "env_steps": None, "minutes": None}})
    (Path("runs/damaged") / "config.yaml").write_text("format: [")
    (Path("runs/unbegun") / "metrics.csv").unlink()
    with RunFolder("runs/writing").writing():
        assert is_written(Path("runs/writing"))
        found = {path.name: text for path, text in states(Path("runs")).items()}
    assert not is_written(Path("runs/writing")) and not is_written(Path("runs/nothing"))
    assert found.pop("point2d-maml-3-2") == found["point2d-maml-3"]
    assert found.pop("point2d-maml-3").startswith("trained, iteration 2, 100% of its budget, success on test 0.")
    assert found.pop("damaged").startswith("damaged: runs/damaged/config.yaml is unreadable")
    assert found == {
        "stopped": "stopped, iteration 2, 25% of its budget: continue with resume=runs/stopped",
        "unbegun": "stopped, iteration 0, 0% of its budget: continue with resume=runs/unbegun",
        "writing": "in training, iteration 2, 25% of its budget",
    }


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        (["--version"], 0, f"metarl {metarl.__version__}\n", ""),
        ([], 0, "What there is to use", ""),
        (["lst"], 2, "", "error: argument command: invalid choice: 'lst'"),
        (["list"], 0, "Task families", ""),
    ],
)
def test_the_command(words: list[str], status: int, out: str, err: str) -> None:
    command = [sys.executable, "-m", "metarl", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (status, 1 if err else 0), result.stderr
    assert result.stdout.startswith(out) and result.stderr.startswith(err)
