"""The commands for real, as subprocesses: train, resume, evaluate, render; and a loaded agent."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import envs  # noqa: F401  (registers the Gymnasium environments)
import metarl
from metarl.assembly.opened import open_run
from metarl.errors import MetaRLError
from metarl.evaluation.curve import adaptation_rounds

ROOT = Path(__file__).parents[2]
POINT = ["env=point2d", "env.horizon=12", "algo.tasks=4", "algo.episodes=3", "agent.hidden=[16]", "algo.outer.epochs=2"]
EVALUATION = ["evaluate.tasks=6", "evaluate.episodes_per_step=2", "evaluate.steps=1", "report=page"]
REACH = ["env=reach", "env.horizon=8", "algo.tasks=2", "algo.episodes=2", "agent.width=8", "algo.outer.epochs=1"]
WARM = ["algo.warm_start.iterations=1", "algo.warm_start.settings.tasks=4"]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"metarl.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns that depend on the clock."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clocks = {"seconds", "steps_per_second", "rollout_seconds", "update_seconds"}
    return [{key: value for key, value in row.items() if key not in clocks} for row in rows]


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained run of point2d, three iterations long."""
    folder = tmp_path_factory.mktemp("runs") / "point"
    result = run("train", *POINT, *EVALUATION, "budget.iterations=3", f"run_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert "success at end" in result.stdout and f"python -m metarl.render run={folder}" in result.stdout
    yield folder


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained run of reach: one iteration in context, one of MAML."""
    folder = tmp_path_factory.mktemp("runs") / "reach"
    result = run("train", *REACH, *WARM, *EVALUATION, "budget.iterations=2", f"run_dir={folder}")
    assert result.returncode == 0, result.stderr
    yield folder


def test_a_run_leaves_what_it_promises(point: Path) -> None:
    result = json.loads((point / "evaluation" / "test.json").read_text())
    assert [entry["step"] for entry in result["curve"]] == [0, 1]
    assert [entry["episodes"] for entry in result["curve"]] == [0, 2]
    assert len(result["per_task"]) == result["tasks"] == 6
    for entry in result["curve"]:
        low, high = entry["success"]["ci95"]
        assert 0 <= low <= entry["success"]["mean"] <= high <= 1
    mean = np.mean([task["return"][1] for task in result["per_task"]])
    assert result["curve"][1]["return"]["mean"] == pytest.approx(mean)
    assert (point / "evaluation" / "test.csv").exists()
    assert (point / "evaluation" / "test.png").read_bytes()[:4] == b"\x89PNG"
    assert [row["iteration"] for row in metrics(point)] == ["1", "2", "3"]
    assert list((point / "tensorboard").iterdir())


def test_interrupted_and_resumed_equals_uninterrupted(point: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    settings = [*POINT, *EVALUATION, f"run_dir={folder}"]
    assert run("train", *settings, "budget.iterations=1").returncode == 0
    result = run("train", f"resume={folder}", "budget.iterations=3")
    assert result.returncode == 0, result.stderr
    assert metrics(folder) == metrics(point)
    whole, resumed = (open_run(path).folder.load_checkpoint(3)[1] for path in (point, folder))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_checkpoints_and_exits_130(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    command = [sys.executable, "-m", "metarl.train", *POINT, "budget.iterations=1000000", f"run_dir={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors and f"resume={folder}" in errors
    last = int(metrics(folder)[-1]["iteration"])
    assert open_run(folder).iteration == last >= 1


def test_evaluate(reach: Path) -> None:
    result = run("evaluate", f"run={reach}", "split=ood", "tasks=4", "episodes=2", "steps=2")
    assert result.returncode == 0, result.stderr
    content = json.loads((reach / "evaluation" / "ood.json").read_text())
    assert content["split"] == "ood" and [entry["step"] for entry in content["curve"]] == [0, 1, 2]
    assert content["environment_steps"] == 3 * 4 * 2 * 8


def test_evaluation_is_repeatable_and_changes_nothing(reach: Path) -> None:
    def measure() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        opened = open_run(reach, "cpu")
        before = {name: value.clone() for name, value in opened.policy.state_dict().items()}
        env = opened.environment(8, seed=3)
        generator = torch.Generator().manual_seed(0)
        rounds, _ = adaptation_rounds(env, opened.policy, opened.learner, opened.held_out("test", 4), 1, generator)
        after = opened.policy.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        return [episodes.returns for episodes in rounds], before

    first, second = measure()[0], measure()[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_render(reach: Path, tmp_path: Path, suffix: str) -> None:
    import av

    out = tmp_path / f"video.{suffix}"
    environment = os.environ | {"MUJOCO_GL": "disable"}  # ray casting: the same picture on every machine
    command = [sys.executable, "-m", "metarl.render", f"run={reach}", f"out={out}", "width=96", "height=72"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=240)
    assert result.returncode == 0, result.stderr
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) >= 9
    assert frames[0].shape[1] >= 2 * 96
    assert frames[0].std() > 10


def test_an_agent_adapts_and_acts(reach: Path) -> None:
    agent = metarl.load(reach)
    env = gymnasium.make("metarl/Reach-v0", horizon=8)
    adapted = agent.adapt(env, episodes=2, steps=1)
    assert agent.adapted is None and adapted.adapted is not None
    moved = [not torch.equal(adapted.adapted[name][0], agent.run.learner.parameters[name]) for name in adapted.adapted]
    assert any(moved)
    observation, _ = env.reset(seed=0)
    action, state = adapted.predict(observation)
    assert action.shape == (7,) and env.action_space.contains(action.astype(np.float32))
    observation, reward, *_ = env.step(action)
    again, state = adapted.predict(observation, state, reward=float(reward))
    blind, _ = adapted.predict(observation, adapted.predict(observation)[1], reward=float(reward) + 5.0)
    assert not np.array_equal(again, blind)


def test_an_agents_predictions_equal_the_policy_in_a_rollout(reach: Path) -> None:
    """`predict` builds the same tokens as `collect` does."""
    from metarl.rollouts.rollout import collect

    agent = metarl.load(reach, "cpu")
    env = agent.run.environment(2, seed=1)
    env.set_tasks(agent.run.held_out("test", 2))
    seen = collect(env, agent.run.policy, generator=torch.Generator(), deterministic=True)
    state = None
    size = agent.run.policy.observation_size
    for t in range(seen.tokens.shape[2]):
        observation = seen.tokens[:, 0, t, :size].numpy()
        reward = seen.reward[:, 0, t - 1].numpy() if t else 0.0
        action, state = agent.predict(observation, state, reward=reward)
        np.testing.assert_allclose(action, seen.actions[:, 0, t].clamp(-1, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("kwargs", [{"episodes": 0}, {"steps": -1}])
def test_adapting_out_of_range(reach: Path, kwargs: dict[str, Any]) -> None:
    with pytest.raises(MetaRLError, match="adapt needs"):
        metarl.load(reach).adapt(gymnasium.make("metarl/Reach-v0", horizon=8), **kwargs)


def test_an_environment_of_other_sizes_is_refused(point: Path) -> None:
    with pytest.raises(MetaRLError, match="observation and action shapes"):
        metarl.load(point).adapt(gymnasium.make("metarl/Reach-v0"))


def damaged(source: Path, target: Path, damage: str) -> Path:
    """A copy of a run with one thing wrong."""
    import shutil

    shutil.copytree(source, target)
    newest = sorted((target / "checkpoints").iterdir())[-1]
    for checkpoint in (target / "checkpoints").glob("iteration-*"):
        tensors = checkpoint / "tensors.safetensors"
        if damage == "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-50])
        elif damage == "tampered":
            content = bytearray(tensors.read_bytes())
            content[-3] ^= 1
            tensors.write_bytes(bytes(content))
        elif damage == "half":
            shutil.rmtree(checkpoint)
    if damage == "other":
        config = (target / "config.yaml").read_text().replace("name: point2d", "name: reach")
        (target / "config.yaml").write_text(config)
    if damage == "foreign":
        (target / "config.yaml").write_text("learning_rate: 1\n")
    assert newest.name == "iteration-000003"
    return target


@pytest.mark.parametrize("damage", ["truncated", "tampered", "half", "other", "foreign"])
def test_a_damaged_run_is_one_line(point: Path, tmp_path: Path, damage: str) -> None:
    result = run("evaluate", f"run={damaged(point, tmp_path / damage, damage)}")
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode in (1, 2)
    assert len(lines) == 1 and "Traceback" not in result.stderr
    assert damage in lines[0] or str(tmp_path) in lines[0]


@pytest.mark.parametrize(
    ("module", "arguments", "text"),
    [
        ("evaluate", ["run=nowhere"], "there is no run at nowhere"),
        ("render", ["run=nowhere"], "there is no run at nowhere"),
        ("train", ["resume=nowhere"], "there is no run at nowhere"),
        ("train", ["device=cuda"], "device=cuda"),
        ("train", ["env=reachh"], "did you mean 'reach'"),
        ("train", ["env.tasks.payload=[0,2]"], "payload_mass"),
        ("train", ["env.tasks.payload_mass=[2,0]"], "payload_mass"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, module: str, arguments: list[str], text: str) -> None:
    if arguments == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    extra = [f"run_dir={tmp_path / 'run'}"] if module == "train" and "resume=nowhere" not in arguments else []
    result = run(module, *arguments, *extra)
    assert result.returncode in (1, 2), result.stdout
    assert len(result.stderr.strip().splitlines()) == 1 and text in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(point: Path) -> None:
    before = (point / "metrics.csv").read_bytes()
    result = run("train", *POINT, f"run_dir={point}")
    assert result.returncode in (1, 2) and "resume=" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (point / "metrics.csv").read_bytes() == before
