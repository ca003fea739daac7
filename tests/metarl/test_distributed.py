"""Several processes that torchrun starts train what one process trains, and end together."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from metarl.config.command_line import main
from metarl.config.composition import compose
from metarl.distributed import Group, Ranks, joined
from metarl.errors import ConfigError, ProcessLostError
from metarl.launched import python
from metarl.run_folder import RunFolder
from metarl.runs import train as train_run
from metarl.training.trainer import Trainer
from tests.metarl.together import CASES, CPU, ONCE, REACH, train

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
RUN = [*REACH, "algo=maml", ONCE, "algo.episodes=2", "checkpoint.every=1", "evaluate.tasks=1", "evaluate.steps=0"]
RUN += ["report=page"]
TRAIN = "metarl.train"


def started(processes: int, module: str, *arguments: str, meeting: str = "--standalone") -> subprocess.Popen[str]:
    """A command of the project in several processes of one launcher, or of one that meets others."""
    command = [*TORCHRUN, *meeting.split(), f"--nproc-per-node={processes}", "-m", module, *arguments]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(
    processes: int, module: str, *arguments: str, meeting: str = "--standalone"
) -> Iterator[subprocess.Popen[str]]:
    """The same, which ends with the test."""
    process = started(processes, module, *arguments, meeting=meeting)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def worker(launcher: subprocess.Popen[str], rank: int) -> int:
    """The id of the process with this rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return next(int(pid) for pid in children if f"RANK={rank}".encode() in environment(pid))


def environment(pid: str) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def reached(path: Path, iteration: int) -> bool:
    """Whether a run has a whole checkpoint of this iteration or a later one."""
    whole = path.glob("checkpoints/iteration-*/state.json")
    return any(int(file.parent.name[-6:]) >= iteration for file in whole)


def said(stderr: str) -> list[str]:
    """The lines that the project printed of errors, without the launcher's own report."""
    assert str(ROOT / "metarl") not in stderr, "a traceback of ours"
    return [line for line in stderr.splitlines() if line.startswith("error:")]


def eventually(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    """Wait for a condition that a process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both of two processes end with in every case."""
    folder = tmp_path_factory.mktemp("together")
    process = started(2, "tests.metarl.together", str(folder))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return [torch.load(folder / f"2-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name: str, ends: list[dict[str, Any]]) -> None:
    alone, (first, second) = train(CASES[name]), (end[name] for end in ends)
    assert alone["tensors"].keys() == first["tensors"].keys()
    for key, value in first["tensors"].items():
        assert torch.equal(value, second["tensors"][key]), f"the processes disagree on {key}"
        if "physics" in name:  # other numbers are drawn once a simulation was reset in the midst of an episode
            continue
        if key.startswith("generator."):
            assert torch.equal(value, alone["tensors"][key]), f"{key} is elsewhere"
        torch.testing.assert_close(value, alone["tensors"][key], atol=1e-5, rtol=0.0)
    assert first["row"] == pytest.approx(second["row"], abs=0.0, nan_ok=True)
    same = ("env_steps", "physics_failures", "return_before") if "physics" in name else alone["row"]
    for key in same:
        assert first["row"][key] == pytest.approx(alone["row"][key], abs=1e-5, nan_ok=True), key
    assert first["troubles"] == second["troubles"] == alone["troubles"]
    assert first["failed"] == alone["failed"]


def test_a_run_that_is_resumed_goes_on_exactly(ends: list[dict[str, Any]]) -> None:
    for end in ends:
        for name, value in end["a warm start"]["tensors"].items():
            assert torch.equal(end["a resume"]["tensors"][name], value), name


@pytest.fixture(scope="module", params=[0, 1], ids=["the first", "the second"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, str]:
    """A run of two processes, one of which was killed: its folder, the seconds until the end, its last words.

    The first one writes the folder, and the other has to tell how to go on.
    """
    path = tmp_path_factory.mktemp("killed") / "run"
    with running(2, TRAIN, *RUN, "budget.minutes=30", f"run_dir={path}") as process:
        eventually(lambda: reached(path, 2), process)
        os.kill(worker(process, request.param), signal.SIGKILL)
        since = time.monotonic()
        _, stderr = process.communicate(timeout=120)
        assert process.returncode != 0
        return path, time.monotonic() - since, stderr


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process of the launcher's by /proc")
def test_if_one_process_is_killed_the_others_end_with_a_line(killed: tuple[Path, float, str]) -> None:
    path, seconds, stderr = killed
    assert seconds < 30.0
    (line,) = said(stderr)
    # What the launcher says may stand on the same line: both write at once.
    assert re.match(f"error: another process of this run .* torchrun .* resume={re.escape(str(path))}", line)
    with RunFolder(path).writing():  # and the lock is free
        iteration, _, numbers = RunFolder.open(path).load_checkpoint()
    assert iteration == numbers["iteration"] >= 2


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="as above")
def test_a_run_goes_on_with_another_number_of_processes(killed: tuple[Path, float, str], tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "three"]
    for path in paths:
        shutil.copytree(killed[0], path)
    last = RunFolder.open(paths[0]).load_checkpoint().iteration
    goal = f"budget.iterations={last + 2}"
    with running(3, TRAIN, f"resume={paths[1]}", goal) as process:
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert (
        stdout.count("trained ") == stdout.count("evaluation: ") == stdout.count("report: ") == 1 and said(stderr) == []
    )
    train_run(compose([f"resume={paths[0]}", goal]))
    one, three = (RunFolder.open(path).load_checkpoint() for path in paths)
    assert one.iteration == three.iteration == last + 2
    for name, value in one.tensors.items():
        torch.testing.assert_close(three.tensors[name], value, atol=1e-5, rtol=0.0)
    rows = [RunFolder.open(path).read_metrics() for path in paths]
    assert [row["iteration"] for row in rows[1]] == list(range(1, last + 3))
    assert rows[0][-1]["env_steps"] == rows[1][-1]["env_steps"]


def test_two_launchers_train_what_one_process_does(tmp_path: Path) -> None:
    """As on two machines, which meet at a port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = f"--nnodes=2 --rdzv-id=test --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port}"
    given = [*RUN, "budget.iterations=2"]
    command = (1, TRAIN, *given, f"run_dir={tmp_path / 'two'}")
    with running(*command, meeting=meeting) as first, running(*command, meeting=meeting) as second:
        (out, err), (other_out, other_err) = (each.communicate(timeout=600) for each in (first, second))
    assert (first.returncode, second.returncode) == (0, 0), err + other_err
    for words in ("shared by 2 processes", "trained ", "evaluation: "):
        assert (out + other_out).count(words) == 1, words
    train_run(compose([*given, f"run_dir={tmp_path / 'one'}"]))
    one, two = (RunFolder.open(tmp_path / name) for name in ("one", "two"))
    alone, shared = one.load_checkpoint(), two.load_checkpoint()
    assert alone.iteration == shared.iteration == 2
    for name, value in alone.tensors.items():
        torch.testing.assert_close(shared.tensors[name], value, atol=1e-5, rtol=0.0)
    assert one.read_metrics()[-1]["env_steps"] == two.read_metrics()[-1]["env_steps"]


def test_one_interrupt_stops_all_and_another_run_keeps_out(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with running(2, TRAIN, *RUN, "budget.minutes=30", f"run_dir={path}") as process:
        eventually(lambda: reached(path, 1), process)
        with running(2, TRAIN, f"resume={path}") as other:
            _, stderr = other.communicate(timeout=120)
        assert other.returncode != 0
        (line,) = said(stderr)
        assert "is being written by process" in line
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert said(stderr) == [f"error: stopped; continue with: torchrun --nproc-per-node=2 -m metarl.train resume={path}"]
    folder = RunFolder.open(path)
    assert folder.load_checkpoint().iteration == folder.read_metrics()[-1]["iteration"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of the launcher's end")
def test_a_launcher_that_is_killed_ends_what_it_started(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with running(2, TRAIN, *RUN, "budget.minutes=2", f"run_dir={path}") as process:
        eventually(lambda: reached(path, 1), process)
        process.kill()
        _, stderr = process.communicate(timeout=30)  # the processes hold the other ends of its pipes
    assert said(stderr) == [f"error: stopped; continue with: torchrun --nproc-per-node=2 -m metarl.train resume={path}"]
    with RunFolder(path).writing():
        folder = RunFolder.open(path)
        assert folder.load_checkpoint().iteration == folder.read_metrics()[-1]["iteration"]


def test_a_sweep_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["metarl.train", "-m", "env=point2d", "seed=0,1"])
    with pytest.raises(SystemExit, match="2"):
        main(TRAIN.partition(".")[2], print)


@pytest.mark.parametrize(
    "error",
    [
        dist.DistNetworkError("failed to recv, got 0 bytes"),
        dist.DistBackendError("NCCL error: remote process exited"),
        RuntimeError("[/src/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"),
        RuntimeError("[/src/third_party/gloo/gloo/rendezvous/context.cc:41] Gloo connectFullMesh failed with timeout"),
    ],
)
def test_a_connection_that_breaks_is_a_process_that_was_lost(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProcessLostError) as caught:
        _total_with(error, monkeypatch)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("ProcessGroupGloo::allgather: invalid tensor size at index 0 (expected (3), got (4))"),
        RuntimeError("[enforce fail at /src/gloo/gloo/transport/tcp/pair.cc:446] op.nbytes. 8 vs 4"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_mistake_of_ours_is_not_called_that(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as caught:
        _total_with(error, monkeypatch)
    assert caught.value is error


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> PrefixStore:
    """What this process, the second of two, reads of who speaks; it loses the first one while it connects."""

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("[/src/third_party/gloo/gloo/rendezvous/context.cc:41] Gloo connectFullMesh failed")

    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    monkeypatch.setattr("metarl.distributed.world_size", lambda: 2)
    monkeypatch.setattr("metarl.distributed.rendezvous", lambda *_, **__: iter([(store, 1, 2)]))
    monkeypatch.setattr("metarl.distributed._backends", lambda: "gloo")  # another test may pretend an accelerator
    monkeypatch.setattr("metarl.distributed._end_with_the_launcher", lambda: None)  # it would end pytest
    monkeypatch.setattr("metarl.distributed.GRACE", 0.0)
    monkeypatch.setattr(dist, "init_process_group", fails)
    return PrefixStore("metarl", store)


def test_a_process_that_was_lost_while_others_connect_speaks_for_them(words: PrefixStore) -> None:
    words.set("speaker", "0")
    words.set("spoken", "0")
    with pytest.raises(SystemExit, match="1"), joined():
        pass


def test_the_launcher_does_not_end_a_process_that_is_about_to_speak(words: PrefixStore) -> None:
    """It sends SIGTERM a tenth of a second after it has seen one end, and that may be before the line is printed."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ProcessLostError), joined():
            pass
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert words.get("spoken") == b"1"


def test_how_to_go_on_tells_of_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    meeting = "--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT"
    assert python() == f"torchrun --nnodes=2 --nproc-per-node=3 {meeting}"
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert python() == "torchrun --nproc-per-node=3"


def _total_with(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over two processes in which torch raises."""

    def fails(_: torch.Tensor) -> None:
        raise error

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", fails)
    Group().total(torch.ones(3))


def test_what_torch_refuses_keeps_its_own_error(tmp_path: Path) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="Invalid scalar type"):
            Group().total(torch.ones(3).to(torch.float8_e4m3fn))
    finally:
        dist.destroy_process_group()


def test_more_processes_than_tasks_are_refused() -> None:
    six = Ranks()
    six.size = 6
    with pytest.raises(ConfigError, match="6 processes cannot share 10 simulations, 2 at least for each"):
        Trainer(compose(CASES["maml"].settings), CPU, six)
