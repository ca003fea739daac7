"""A run's folder: making, opening, configuration and evaluation."""

import csv
import json
import math
import os
import pickle
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

import metarl
from metarl.errors import ConfigError, MetaRLError, RunFolderError
from metarl.run_folder import RunFolder, atomic_write, folder
from metarl.run_folder.files import hidden
from metarl.run_folder.provenance import git_commit, versions


def error_of(path: str | Path) -> str:
    """The one-line text with which `RunFolder.open` refuses."""
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A small complete run."""
    run = RunFolder.create(tmp_path / "run")
    run.write_config({"seed": 3})
    run.save_checkpoint(1, {"weight": torch.ones(2)}, {})
    return run


def test_without_a_path_runs_are_numbered(tmp_path: Path) -> None:
    runs = [RunFolder.create(base=tmp_path / "runs", name="point2d-fomaml-7") for _ in range(3)]
    assert [run.path.name for run in runs] == ["point2d-fomaml-7", "point2d-fomaml-7-2", "point2d-fomaml-7-3"]
    assert all(run.path.is_dir() for run in runs)


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: RunFolder.create(base=tmp_path).path, range(64)))
    assert {path.name for path in paths} == {"reach-maml-0"} | {f"reach-maml-0-{i}" for i in range(2, 65)}


def test_a_name_cannot_lead_out_of_the_base(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot name a file"):
        RunFolder.create(base=tmp_path / "runs", name="../elsewhere")


def test_a_folder_in_use_is_never_overwritten(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="is not empty: continue it with resume=.* or set another run_dir"):
        RunFolder.create(run.path)
    assert RunFolder.open(run.path).load_checkpoint().iteration == 1


def test_an_empty_folder_can_become_a_run(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path).path == tmp_path
    assert RunFolder.create(str(tmp_path / "deep" / "er")).path.is_dir()


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for call in (lambda: RunFolder.create(tmp_path / "file"), lambda: RunFolder.create(base=tmp_path / "file")):
        with pytest.raises(RunFolderError, match="cannot make .*; see that the folder is there and may be written"):
            call()


def test_opening_a_missing_run_names_the_nearest(run: RunFolder) -> None:
    assert "no run at" in (text := error_of(run.path.with_name("rum"))) and "did you mean 'run'? (valid: run)" in text
    assert "python -m metarl.train" in error_of(run.path / "nowhere" / "at-all")


def test_opening_something_else(tmp_path: Path, run: RunFolder) -> None:
    (tmp_path / "other").mkdir()
    assert "is not a run of metarl: it has no config.yaml" in error_of(tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text("learning_rate: 3")
    assert "lacks `format: metarl-run`" in error_of(tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text("- a list")
    assert "lacks `format: metarl-run`" in error_of(tmp_path / "other")
    assert "no run at" in error_of(run.path / "config.yaml")


@pytest.mark.parametrize("version", [2, "1", None])
def test_opening_a_run_of_another_format_version(run: RunFolder, version: object) -> None:
    config = run.read_config() | {"format_version": version}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"has format version {version!r}, this metarl reads only 1" in error_of(run.path)


@pytest.mark.parametrize("content", [b"a: [1,\nb", b"\xff\xfe\x00", b"!!python/object/apply:os.getcwd []", b"[" * 1200])
def test_an_unreadable_configuration(run: RunFolder, content: bytes) -> None:
    (run.path / "config.yaml").write_bytes(content)
    assert "config.yaml is unreadable" in error_of(run.path)


def test_a_half_written_run(run: RunFolder) -> None:
    (run.path / "checkpoints" / "iteration-000001" / "state.json").unlink()
    assert "half written, it has no complete checkpoint" in error_of(run.path)
    (run.path / "config.yaml").unlink()
    assert "half written, it has no config.yaml" in error_of(run.path)


def test_opening_removes_only_old_leftovers(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    leftovers = [hidden(run.path / "config.yaml", "tmp"), hidden(run.checkpoint_path(2), "tmp")]
    leftovers[0].write_text("half")
    leftovers[1].mkdir()
    (run.path / ".notes.tmp").write_text("not ours")
    RunFolder.open(run.path)
    assert all(leftover.exists() for leftover in leftovers)  # a trainer may be writing them
    monkeypatch.setattr(folder, "LEFTOVER_AGE", 0.0)
    RunFolder.open(run.path)
    assert not any(leftover.exists() for leftover in leftovers)
    assert (run.path / ".notes.tmp").exists()


def test_configuration_keeps_its_values_and_says_what_made_it(run: RunFolder) -> None:
    given = {"env": {"name": "reach", "text": "1e-3", "yes": "no"}, "rate": 1e-5, "layers": [1, 2], "none": None}
    run.write_config(given | {"format": "forged", "versions": "forged"})
    read = run.read_config()
    assert {key: read[key] for key in given} == given
    assert read["format"] == "metarl-run"
    assert read["versions"] == versions()
    assert set(read["versions"]) == {"python", "metarl", "torch", "mujoco", "numpy", "gymnasium"}
    assert read["versions"]["metarl"] == metarl.__version__
    assert read["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"git_commit", "git_dirty"} <= set(read)


def test_configuration_is_plain_data(run: RunFolder) -> None:
    before = run.read_config()
    with pytest.raises(ConfigError, match="more than plain data"):
        run.write_config({"rate": torch.tensor(1.0)})
    assert run.read_config() == before


def test_git_commit_of_a_source_file(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("x = 1\n")
    identity = ["-c", "user.name=name", "-c", "user.email=name@example.org"]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert git_commit(source) == (None, None)
    git("init", "--quiet")
    assert git_commit(source) == (None, None)  # somebody's repository, that does not track the file
    git("add", "source.py")
    assert git_commit(source) == (None, None)  # no commit yet
    git(*identity, "commit", "--quiet", "-m", "one")
    assert git_commit(source) == (git("rev-parse", "HEAD").strip(), False)
    (tmp_path / "untracked").write_text("x")
    assert git_commit(source)[1] is False
    source.write_text("x = 2\n")
    assert git_commit(source)[1] is True


def test_no_git_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == (None, None)


RESULT = {
    "env": "reach",
    "curve": [
        {"step": 0, "episodes": 0, "success": {"mean": 0.12, "ci95": [0.09, 0.15]}},
        {"step": 1, "episodes": 10, "success": {"mean": 0.5, "ci95": [0.4, math.nan]}},
    ],
}


def test_evaluation_as_json_and_csv(run: RunFolder) -> None:
    path = run.write_evaluation("test", RESULT)
    assert path == run.path / "evaluation" / "test.json"
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert content["curve"][0] == RESULT["curve"][0]
    assert content["curve"][1]["success"]["ci95"] == [0.4, None]
    assert run.read_evaluation("test") == content
    rows = list(csv.reader((run.path / "evaluation" / "test.csv").read_text().splitlines()))
    assert rows[0] == ["step", "episodes", "success_mean", "success_low", "success_high"]
    assert rows[1] == ["0", "0", "0.12", "0.09", "0.15"]


def test_evaluation_errors_are_one_line(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"python -m metarl.evaluate run=.* split=ood"):
        run.read_evaluation("ood")
    run.write_evaluation("test", RESULT).write_text("{")
    with pytest.raises(RunFolderError, match="test.json is unreadable"):
        run.read_evaluation("test")
    for split in ("../config", "", ".hidden", "a/b"):
        with pytest.raises(RunFolderError, match="cannot name a file"):
            run.write_evaluation(split, RESULT)


def test_atomic_write_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunFolderError, match="No space left on device; make room"):
        patch.setattr(os, "fsync", full)
        atomic_write(path, b"newer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"


def test_a_file_in_place_of_a_folder_is_one_line(run: RunFolder) -> None:
    (run.path / "evaluation").write_text("a file")
    with pytest.raises(RunFolderError, match="cannot make the folder") as caught:
        run.write_evaluation("test", RESULT)
    assert "\n" not in str(caught.value)


def test_reading_a_run_needs_no_pickle(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    opened = RunFolder.open(run.path)
    assert opened.load_checkpoint().iteration == 1
    assert not any(path.suffix in (".pt", ".pth", ".pkl") for path in run.path.rglob("*"))


def test_errors_are_those_that_commands_catch() -> None:
    assert issubclass(RunFolderError, MetaRLError)
