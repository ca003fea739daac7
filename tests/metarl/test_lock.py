"""A run has one writer; a dead one is in nobody's way, and readers need no lock."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metarl.errors import RunFolderError, RunWarning
from metarl.run_folder import RunFolder, lock

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="this system has no locks for us")
ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from metarl.run_folder import RunFolder
with RunFolder(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A small complete run."""
    run = RunFolder.create(tmp_path / "run")
    run.write_config({"seed": 3})
    run.save_checkpoint(1, {"weight": torch.ones(2)}, {})
    return run


def holder(run: RunFolder) -> "subprocess.Popen[bytes]":
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(run: RunFolder) -> None:
    process = holder(run)
    with pytest.raises(RunFolderError) as caught, run.writing():
        pytest.fail("two writers")
    named = f"is being written by process {process.pid} on {socket.gethostname()}: wait until it ends, or stop it"
    assert str(caught.value) == f"{run.path} {named}"
    assert RunFolder.open(run.path).load_checkpoint().iteration == 1  # readers read
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert str(process.pid) in (run.path / ".lock").read_text()  # stale, and recognised as such
    with run.writing():
        assert f"process {os.getpid()} on" in (run.path / ".lock").read_text()
    with run.writing():
        pass


def test_a_child_that_outlives_its_parent_holds_no_lock(run: RunFolder) -> None:
    """As the processes of an asynchronous environment may, when the training is killed."""
    forking = multiprocessing.get_context("fork")
    runs = forking.Event()
    with run.writing():
        child = forking.Process(target=lambda: (runs.set(), time.sleep(100)))
        child.start()
        assert runs.wait(60)
        for descriptor in lock._held:  # the kernel closes a dead process' files, and unlocks nothing by itself
            os.close(descriptor)
        lock._held.clear()
    try:
        with run.writing():
            pass
    finally:
        child.kill()
        child.join()


def test_a_new_writer_removes_what_a_dead_one_left(run: RunFolder) -> None:
    leftovers = [run.path / f".config.yaml.{'0' * 32}.tmp", run.path / "checkpoints" / f".x.{'1' * 32}.tmp"]
    for leftover in leftovers:
        leftover.write_text("half")
    with run.writing():
        assert not any(leftover.exists() for leftover in leftovers)


def test_the_lock_goes_through_no_link(run: RunFolder, tmp_path: Path) -> None:
    """A foreign run's could point at any file of the user's."""
    (tmp_path / "precious").write_text("content")
    (run.path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunFolderError, match="cannot lock"), run.writing():
        pytest.fail("through a link")
    assert (tmp_path / "precious").read_text() == "content"


def test_a_file_system_without_locks_is_a_warning(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.warns(RunWarning, match="has no locks .No locks available."), run.writing():
        pass
