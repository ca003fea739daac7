"""`metarl.adapt`: any environment with the same spaces, feedback alone, and what an interruption leaves."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import metarl
from envs.adapters.gymnasium import TaskEnv
from metarl.config.completion import SCRIPT
from metarl.config.composition import compose
from metarl.deploy import adapt_run, presented
from metarl.errors import ConfigError, Interrupted, MetaRLError, RunFolderError
from metarl.run_folder.recordings import read_recording
from tests.metarl.test_agent import HORIZON, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "episode").run.folder.path


class Rig(gymnasium.Env):
    """A robot: it presents its one task, and has its options; it may stop in the middle."""

    observation_space, action_space = Box(-9, 9, (2,)), Box(-1, 1, (2,))
    closed = 0

    def __init__(self, left: int = 10**6, key: bool = False, number: int = 0, broken: str = "") -> None:
        self.left, self.key, self.number, self.broken = left, key, number, broken

    def close(self) -> None:
        Rig.closed += 1

    def reset(self, **_: object) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        assert np.isfinite(action).all()
        seen, felt = np.asarray(action, np.float32), float(action.sum())
        if self.left < 0:
            if self.number:
                signal.raise_signal(self.number)
            elif self.broken:
                seen, felt = (seen * np.nan, felt) if self.broken == "observation" else (seen, np.nan)
            else:
                raise KeyboardInterrupt if self.key else RuntimeError("the arm is stuck")
        return seen, felt, False, False, {}


RIG = f"env={__name__}:Rig"


def adapt(*given: str) -> Path:
    return adapt_run(compose(list(given), "adapt"))


def test_a_robot_of_ones_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = adapt(f"run={run}", RIG, "episodes=2", "steps=2", f"out='{tmp_path / 'arm[red]7'}'")
    *episodes, told, kept = capsys.readouterr().out.splitlines()
    heads = [f"step {step} of 2, episode {number} of 2: feedback " for step in (1, 2) for number in (1, 2)]
    assert [line[: len(head)] for line, head in zip(episodes, heads, strict=True)] == heads
    means = [sum(float(line.split()[-1]) for line in episodes[k : k + 2]) / 2 for k in (0, 2)]
    assert [float(word) for word in told.rpartition(": ")[2].split(", ")] == pytest.approx(means, rel=0.02)
    assert kept == f"kept: {out}" and out.name == "arm[red]7"
    adapt(f"run='{out}'", RIG, "env.left=100", "episodes=2", f"out='{out}'")
    kept = metarl.load(out, "cpu")
    assert [(entry["env"], entry["steps"]) for entry in kept.history] == [("Rig", 2), ("Rig", 1)]
    assert kept.run.kept and kept.run.kept.origin == str(run)


def test_a_task_of_the_list(run: Path, tmp_path: Path) -> None:
    settings = compose([f"run={run}", "env=point2d", f"env.horizon={HORIZON}", "task=2", "out=x"], "adapt")
    env = presented(settings.env, settings.split, settings.task)
    goal = metarl.load(run, "cpu").run.held_out("test", 3).values["goal"][2]
    env.reset()
    np.testing.assert_allclose(env.unwrapped.get_task()["goal"], goal)  # type: ignore[attr-defined]
    out = adapt(f"run={run}", "episodes=1", f"out={tmp_path / 'arm7'}")
    assert metarl.load(out, "cpu").history[0]["env"] == "point2d"


@pytest.mark.parametrize("key", [False, True])
def test_what_was_collected_is_kept(run: Path, tmp_path: Path, key: bool) -> None:
    out, stops = tmp_path / "arm 7", [f"env.left={3 * HORIZON}", f"env.key={key}".lower()]
    closed = Rig.closed
    with pytest.raises(MetaRLError, match="was stopped after .* ended with: python -m metarl.adapt") as error:
        adapt(f"run={run}", RIG, *stops, "episodes=2", "steps=3", f"out={out}")
    assert isinstance(error.value, Interrupted) == key
    assert Rig.closed == closed + 1
    words = shlex.split(str(error.value).partition("metarl.adapt ")[2])
    assert words[3] == "steps=2", "one is done"
    assert words[0] == f"run={out}" and len(read_recording(Path(words[1].partition("=")[2]))) == 1
    adapt(*words)
    assert [entry["env"] for entry in metarl.load(out, "cpu").history] == ["Rig", "a recording"]


def test_a_signal_to_end_keeps_it_too(run: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stops = [f"env.left={HORIZON + 3}", f"env.number={int(signal.SIGTERM)}"]
    with pytest.raises(Interrupted, match=f"stopped after {HORIZON + 3} steps by Terminated;") as error:
        adapt(f"run={run}", RIG, *stops, f"out={tmp_path / 'arm7'}")
    assert error.value.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert len(read_recording(tmp_path / "arm7-recording.npz")) == 1, "the episode that was running is not learned from"
    with pytest.raises(Interrupted, match=r"recording=\S*/arm7-recording-2.npz"):
        adapt(f"run={run}", RIG, f"env.left={HORIZON}", f"env.number={int(signal.SIGTERM)}", f"out={tmp_path / 'arm7'}")
    assert len(read_recording(tmp_path / "arm7-recording-2.npz")) == 1
    assert len(read_recording(tmp_path / "arm7-recording.npz")) == 1, "what was kept before is kept"
    again = [f"env.left={2 * HORIZON + 3}", f"env.number={int(signal.SIGTERM)}", "episodes=2", "steps=2"]
    with pytest.raises(Interrupted, match=r"no episode of this step had ended; kept after 1 steps: \S*arm8$"):
        adapt(f"run={run}", RIG, *again, f"out={tmp_path / 'arm8'}")
    assert [entry["steps"] for entry in metarl.load(tmp_path / "arm8", "cpu").history] == [1]


@pytest.mark.parametrize("broken", ["observation", "feedback"])
def test_a_broken_sensor_stops_the_robot(run: Path, tmp_path: Path, broken: str) -> None:
    """What came before it is kept, and no action is chosen by it."""
    stops = [f"env.left={HORIZON + 3}", f"env.broken={broken}"]
    line = f"stopped after {HORIZON + 3} steps by NotFiniteError: the {broken} is not finite in environment 0; adapt on"
    with pytest.raises(MetaRLError, match=line):
        adapt(f"run={run}", RIG, *stops, f"out={tmp_path / 'arm7'}")
    assert len(read_recording(tmp_path / "arm7-recording.npz")) == 1
    with pytest.raises(MetaRLError, match=f"^the {broken} is not finite"):  # nothing was collected
        adapt(f"run={run}", RIG, "env.left=0", f"env.broken={broken}", f"out={tmp_path / 'arm7'}")


def test_a_place_that_cannot_be_written_is_refused_before_the_robot_moves(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    closed = Rig.closed
    with pytest.raises(RunFolderError, match="^cannot write .*arm7: "):
        adapt(f"run={run}", RIG, f"out={tmp_path / 'file' / 'arm7'}")
    assert Rig.closed == closed, "no robot was there"


def test_an_environment_with_tasks_has_the_horizon_of_the_run(run: Path) -> None:
    settings = compose([f"run={run}", "env=gymnasium:metarl/Point2d-v0", "out=x"], "adapt")
    assert settings.env is not None
    env = presented(settings.env, settings.split, settings.task, 7)
    assert isinstance(env, TaskEnv) and env.environment.horizon == 7


@pytest.mark.parametrize("option", ["feedback=sparse", "action_repeat=5", "tasks.mass=[1,2]"])
def test_what_a_robot_of_ones_own_cannot_be_given_is_said(run: Path, tmp_path: Path, option: str) -> None:
    name = option.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=rf"^env\.{name}: .*:Rig has no tasks to give, so it is taken as it is"):
        adapt(f"run={run}", RIG, f"env.{option}", f"out={tmp_path / 'arm7'}")


def test_an_action_is_held_as_in_the_run(run: Path) -> None:
    place = "env=envs.families.reach:Reach"
    settings = compose([f"run={run}", place, "env.action_repeat=5", "out=x"], "adapt")
    assert settings.env is not None
    env = presented(settings.env, settings.split, settings.task, 7)
    assert isinstance(env, TaskEnv)
    assert (env.environment.horizon, env.environment.action_repeat) == (7, 5)


def test_a_mistake_is_one_line(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "mine"
    taken.mkdir()
    (taken / "x").touch()
    (tmp_path / "bad.npz").write_bytes(b"no")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "plain.npz", observations=np.zeros((5, 2)), actions=np.zeros((5, 2)))
    for given, kind, line in (
        ([], ConfigError, "out=null: must be a folder"),
        (["out=x", "steps=0"], ConfigError, "steps=0: must be an integer from 1"),
        ([f"out={taken}"], RunFolderError, "is there already"),
        (["out=x", "task=100000"], ConfigError, "task=100000: must be an integer"),
        (["out=x", "env=reach"], MetaRLError, "observation and action shapes"),
        (["out=x", "env=reahc"], Exception, "did you mean 'reach'"),
        (["out=x", RIG, "env.wings=2"], Exception, "wings"),
        (["out=x", f"recording={tmp_path / 'none.npz'}"], RunFolderError, "there is no recording at"),
        (["out=x", f"recording={tmp_path / 'bad.npz'}"], RunFolderError, "is not a recording: it is not an .npz file$"),
        (["out=x", f"recording={tmp_path / 'one.npy'}"], RunFolderError, "is not a recording: it is not an .npz file$"),
        (
            ["out=x", f"recording={tmp_path / 'plain.npz'}"],
            RunFolderError,
            "an array 'observations', .* 0.observations",
        ),
        (["out=x", "recording=a.npz", RIG], ConfigError, "recording takes the place of env"),
    ):
        with pytest.raises(kind, match=line) as error:
            adapt(f"run={run}", *given)
        assert "\n" not in str(error.value)
    assert not Path("x").exists() and '"-m metarl.adapt"' in SCRIPT


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (None, r"import of minari .*; in your clone of metarl, pip install -e '\.\[minari\]'"),
        (ImportError("h5py is not\ninstalled"), r"h5py is not installed; in your clone .* -e '\.\[minari\]'"),
        (FileNotFoundError("Use download=True"), "this machine has no such dataset; minari download lab/arm-v0"),
        (ValueError("bad id"), "bad id"),
    ],
)
def test_a_dataset_that_is_not_there(
    run: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception | None, line: str
) -> None:
    def load_dataset(name: str) -> object:
        assert raised is not None and name == "lab/arm-v0"
        raise raised

    fake = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "minari", None if raised is None else fake)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^recording=minari:lab/arm-v0: {line}") as error:
        adapt(f"run={run}", "recording=minari:lab/arm-v0", "out=x")
    assert "\n" not in str(error.value)
