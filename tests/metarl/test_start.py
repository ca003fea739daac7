"""How a run begins and goes on: its first checkpoint, its best one, its budget, its versions, its only writer."""

import csv
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import metarl.training.session
from envs.errors import TaskError
from metarl import runs
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import CheckpointError, Interrupted, RunFolderError, RunWarning
from metarl.run_folder import RunFolder, folder
from metarl.run_folder.files import discard
from metarl.runs import train
from metarl.training.trainer import Trainer

POINT = ["env=point2d", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "agent.hidden=[4]", "algo.outer.epochs=1"]
POINT += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "checkpoint.every=1", "device=cpu"]


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of point2d, two iterations long."""
    path = tmp_path_factory.mktemp("runs") / "point"
    return train(compose([*POINT, "budget.iterations=2", f"run_dir={path}"]))


@pytest.fixture
def run(point: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(point, tmp_path / "run"))


def resume(path: Path, *overrides: str) -> Path:
    return train(compose([f"resume={path}", *overrides]))


def iterations(path: Path) -> list[str]:
    with open(path / "metrics.csv", newline="") as file:
        return [row["iteration"] for row in csv.DictReader(file)]


def tensors(path: Path) -> dict[str, list[Any]]:
    return {name: value.tolist() for name, value in RunFolder.open(path).load_checkpoint().tensors.items()}


def test_a_run_that_ended_before_its_first_checkpoint_is_begun(
    point: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(metarl.training.session.Session, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(compose([*POINT, "budget.iterations=2", f"run_dir={path}"]))
    assert sorted(entry.name for entry in path.iterdir()) == [".lock", "config.yaml"]
    with pytest.raises(RunFolderError, match=r"has no complete checkpoint yet: begin it with resume="):
        open_run(path)
    resume(path)
    assert tensors(path) == tensors(point) and iterations(path) == ["1", "2"]


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunFolderError, match="half written, it has no complete checkpoint: delete it"):
        resume(run)
    assert iterations(run) == ["1", "2"]


def test_a_folder_that_a_kill_left_empty_can_become_a_run(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / f".config.yaml.{'0' * 32}.tmp").write_text("half")
    with pytest.raises(RunFolderError, match="was stopped before it began: train again with run_dir="):
        resume(tmp_path)
    train(compose([*POINT, "budget.iterations=1", f"run_dir={tmp_path}"]))
    assert not list(tmp_path.glob(".config*"))


def test_what_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RunFolderError("cannot save: No space left on device")

    monkeypatch.setattr(folder, "save", full)
    with pytest.raises(RunFolderError, match="No space left"):
        train(compose([*POINT, "budget.iterations=1", f"run_dir={tmp_path / 'run'}"]))
    with pytest.raises(TaskError, match="no parameter has values beyond"):  # said now, not after the training
        train(compose([*POINT, "env.tasks.goal=[[-9,-9],[9,9]]", "evaluate.split=ood", f"run_dir={tmp_path / 'run'}"]))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_being_written_is_not_resumed_nor_replaced(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with RunFolder(run).writing():
        with pytest.raises(RunFolderError, match="is being written by process"):
            resume(run, "budget.iterations=5")
        assert open_run(run).iteration == 2  # others may read it
        with pytest.raises(RunFolderError, match="is not empty"):
            train(compose([*POINT, f"run_dir={run}"]))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_best_checkpoint_is_kept_named_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Success rises to iteration 3 and falls; a resume in between changes nothing."""
    success = [0.0, 0.1, 0.9, 0.2, 0.1, 0.0, 0.0]
    iterate: Callable[[Trainer], dict[str, float]] = Trainer.iterate

    def told(trainer: Trainer) -> dict[str, float]:
        row = iterate(trainer)
        return row | {"success_after": success[trainer.iteration - 1], "return_after": 0.0}

    monkeypatch.setattr(Trainer, "iterate", told)
    monkeypatch.setattr("metarl.training.best.SMOOTHING", 0.5)
    whole, half = tmp_path / "whole", tmp_path / "half"
    train(compose([*POINT, "checkpoint.keep=2", "budget.iterations=7", f"run_dir={whole}"]))
    train(compose([*POINT, "checkpoint.keep=2", "budget.iterations=4", f"run_dir={half}"]))
    assert RunFolder.open(half).best == 3
    resume(half, "budget.iterations=7")
    for path in (whole, half):
        assert RunFolder.open(path).iterations() == [3, 6, 7] and RunFolder.open(path).best == 3
        assert open_run(path, checkpoint="best").iteration == 3 and open_run(path).iteration == 7
    runs.evaluate_run(compose([f"run={whole}", "checkpoint=best", "tasks=2"], "evaluate"))
    assert RunFolder.open(whole).read_evaluation("test")["iteration"] == 3
    (whole / "checkpoints" / "best.json").unlink()
    with pytest.raises(CheckpointError, match="no best checkpoint yet: choose checkpoint=last"):
        open_run(whole, checkpoint="best")
    resume(whole)  # what it knew stands in the checkpoint, too
    assert RunFolder.open(whole).best == 3


def test_what_a_kill_right_after_a_checkpoint_leaves_is_put_right(run: Path) -> None:
    """The newest is the best, which best.json did not come to say, nor was the older one removed."""
    opened = RunFolder.open(run)
    _, values, state = opened.load_checkpoint()
    state["best"] = {"success_after": 1.0, "return_after": 1.0, "score": [1.0, 1.0], "iteration": 2}
    opened.save_checkpoint(2, values, state, keep=5)
    opened.name_best(0 if 0 in opened.iterations() else 1)
    shutil.copytree(opened.checkpoint_path(2), opened.checkpoint_path(0), dirs_exist_ok=True)
    resume(run)
    assert RunFolder.open(run).best == 2 and RunFolder.open(run).iterations() == [1, 2]


def test_a_new_budget_stays_for_the_next_resume(run: Path) -> None:
    resume(run, "budget.iterations=4")
    assert RunFolder.open(run).read_config()["budget"]["iterations"] == 4
    assert "resumed" not in RunFolder.open(run).read_config()
    discard(RunFolder(run).checkpoint_path(4))  # as if the process had been killed before it
    resume(run)
    assert iterations(run) == ["1", "2", "3", "4"]


def test_other_versions_are_warned_of_once_and_noted(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    made_by = config["versions"] | {"torch": "1.0", "mujoco": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"versions": made_by}))
    with pytest.warns(RunWarning, match="made with torch 1.0, now .*; mujoco None, now .*not continue bit"):
        resume(run)
    noted = RunFolder.open(run).read_config()
    assert noted["versions"] == made_by
    assert noted["resumed"] == [{"iteration": 2, "versions": config["versions"]}]
    with pytest.warns(RunWarning):
        resume(run)
    assert RunFolder.open(run).read_config() == noted
    assert open_run(run).iteration == 2


def test_the_same_versions_are_nothing_to_tell(run: Path) -> None:
    before = (run / "config.yaml").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(run)
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("seconds", ["x", -1.0, float("nan"), None])
def test_a_clock_that_is_none_is_refused(run: Path, seconds: object) -> None:
    opened = RunFolder.open(run)
    iteration, values, state = opened.load_checkpoint()
    opened.save_checkpoint(iteration, values, state | {"seconds": seconds})
    with pytest.raises(CheckpointError, match="its iteration or seconds are not those of a run"):
        resume(run)


@pytest.mark.parametrize("seconds", [6, 7, 8])  # three looks at the clock in an iteration
def test_the_last_iteration_of_a_budget_of_minutes_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """The clock goes on between the look that ends training and the next one."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    monkeypatch.setattr(runs, "time", Clock())
    path = train(
        compose([*POINT, "checkpoint.every=100", f"budget.minutes={seconds / 60}", f"run_dir={tmp_path / 'run'}"])
    )
    assert iterations(path)[-1] == str(RunFolder.open(path).iterations()[-1])


def test_a_stop_asks_to_resume_and_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl.training.signals.StopRequest.signal", 15, raising=False)
    monkeypatch.setattr("metarl.training.signals.StopRequest.__init__", lambda self: None)
    with pytest.raises(Interrupted, match=f"continue with: python -m metarl.train resume={tmp_path / 'run'}"):
        train(compose([*POINT, f"run_dir={tmp_path / 'run'}"]))
    with RunFolder(tmp_path / "run").writing():  # and lets go of the lock
        pass


REACH = ["env=reach", "env.horizon=4", "agent.width=8", "agent.layers=1", "algo.outer.n_epochs=1", *POINT[-5:]]


def machine_with(count: int, patch: pytest.MonkeyPatch) -> None:
    """A machine of so many cores."""
    for module in ("training.session", "algorithms.gradient_learner"):
        patch.setattr(f"metarl.{module}.cores", lambda: count)


@pytest.mark.parametrize("algo", ["in_context", "maml"])
def test_a_run_keeps_the_number_of_workers_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str
) -> None:
    """A run that began on three cores and goes on on one or eight has the bits of one that stayed."""
    warm = ["algo.warm_start.iterations=1", "algo.warm_start.settings.tasks=7"] if algo == "maml" else []
    config = [*REACH, f"algo={algo}", "algo.tasks=7", *warm]
    machine_with(3, monkeypatch)
    train(compose([*config, "budget.iterations=3", f"run_dir={tmp_path / 'whole'}"]))
    train(compose([*config, "budget.iterations=1", f"run_dir={tmp_path / 'moved'}"]))
    stored = RunFolder(tmp_path / "moved").read_config()["algo"]
    assert stored["inner"]["workers"] == 3
    if algo == "maml":
        assert stored["warm_start"]["settings"]["inner"]["workers"] == 3
    machine_with(1, monkeypatch)
    with pytest.warns(RunWarning, match="shared by 3 threads.* has 1 cores: results stay the same, updates take long"):
        resume(tmp_path / "moved", "budget.iterations=2")
    machine_with(8, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(tmp_path / "moved", "budget.iterations=3")
    assert tensors(tmp_path / "moved") == tensors(tmp_path / "whole")


def test_a_number_of_workers_that_was_asked_for_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(3, monkeypatch)
    given = ["algo=in_context", "algo.tasks=2", "algo.inner.workers=2"]
    path = train(compose([*REACH, *given, "budget.iterations=1", f"run_dir={tmp_path / 'run'}"]))
    assert RunFolder(path).read_config()["algo"]["inner"]["workers"] == 2


class Fault(Exception):
    """Somebody's environment is broken."""


def broken(*_: object) -> None:
    raise Fault


@pytest.mark.parametrize("killed", [False, True])
def test_a_first_try_that_failed_is_in_nobodys_way(
    point: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """It fails in its first iteration, or is killed there; then the same command works, and so does another one."""
    path = tmp_path / "run"
    command = [*POINT, "budget.iterations=2", f"run_dir={path}"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "iterate", broken)
        if killed:
            patch.setattr(RunFolder, "abandon", lambda _: None)
        with pytest.raises(Fault):
            train(compose([*command, "seed=7"]))
    assert path.exists() == killed
    train(compose(command))
    assert tensors(path) == tensors(point) and iterations(path) == ["1", "2"]


def test_a_try_in_its_first_iteration_is_not_replaced_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    command = [*POINT, "budget.iterations=1", f"run_dir={path}"]
    iterate, tries = Trainer.iterate, []

    def second(trainer: Trainer) -> dict[str, float]:
        if not tries:
            tries.append(1)
            with pytest.raises(RunFolderError, match="is being written by process"):
                train(compose(command))
        return iterate(trainer)

    monkeypatch.setattr(Trainer, "iterate", second)
    train(compose(command))
    assert tries and iterations(path) == ["1"]


@pytest.mark.parametrize("more", ["metrics.csv", "notes.txt", "videos/a.mp4", "checkpoints/iteration-000001/x"])
def test_a_folder_with_anything_more_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    path = tmp_path / "run"
    monkeypatch.setattr(RunFolder, "abandon", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "iterate", broken)
        with pytest.raises(Fault):
            train(compose([*POINT, f"run_dir={path}"]))
    (path / more).parent.mkdir(parents=True, exist_ok=True)
    (path / more).touch()
    with pytest.raises(RunFolderError, match="is not empty"):
        train(compose([*POINT, f"run_dir={path}"]))


def test_a_foreign_configuration_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("learning_rate: 1\n")
    with pytest.raises(RunFolderError, match="is not empty"):
        train(compose([*POINT, f"run_dir={tmp_path}"]))


def test_an_evaluation_is_printed_before_it_is_written_and_goes_where_it_is_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").touch()  # nothing can be written there, not even by root
    with pytest.raises(RunFolderError, match="^cannot make the folder "):
        runs.evaluate_run(compose([f"run={run}", "tasks=2"], "evaluate"))
    told = capsys.readouterr().out
    assert "success at end" in told and "with out=FOLDER writes it elsewhere" in told
    for out, path in (("new/of.json", "new/of.json"), ("folder", "folder/test.json")):
        runs.evaluate_run(compose([f"run={run}", "tasks=2", f"out={tmp_path / out}"], "evaluate"))
        assert f"evaluation: {tmp_path / path}\n" in capsys.readouterr().out
        assert (tmp_path / path).with_suffix(".png").exists() and (tmp_path / path).with_suffix(".csv").exists()
        assert '"split": "test"' in (tmp_path / path).read_text()
    assert (run / "evaluation").read_bytes() == b""
