"""Checkpoints survive kills, full disks and damage; what is wrong with one is said in one line."""

import hashlib
import json
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.errors import CheckpointError, RunFolderError
from metarl.run_folder import RunFolder, checkpoints, files

ROOT = Path(__file__).parents[2]


def tensors_of(iteration: int) -> dict[str, Tensor]:
    return {"policy.weight": torch.full((3, 4), float(iteration)), "generator": torch.Generator().get_state()}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with checkpoints of iterations 100 and 120."""
    run = RunFolder.create(tmp_path / "run")
    run.write_config({"seed": 0})
    for iteration in (100, 120):
        run.save_checkpoint(iteration, tensors_of(iteration), {"env_steps": iteration * 10})
    return run


def file_of(run: RunFolder, iteration: int, name: str = "tensors.safetensors") -> Path:
    return run.checkpoint_path(iteration) / name


def temporaries(run: RunFolder) -> list[str]:
    return [entry.name for entry in (run.path / "checkpoints").iterdir() if entry.name.startswith(".")]


def test_everything_comes_back(run: RunFolder) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "double": torch.tensor([math.pi, math.nan, -0.0], dtype=torch.float64),
        "half.bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "a_view": shared[::2],
        "tied": shared,
        "expanded": torch.tensor([2.0]).expand(4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "random-state": torch.Generator().get_state(),
    }
    state = {"best": -math.inf, "nested": {"list": [1, 2.5, None, "text"]}, "large": 2**100}
    run.save_checkpoint(130, tensors, state)
    iteration, read, read_state = run.load_checkpoint()
    assert iteration == 130
    assert read_state == state
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(read[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)
        assert read[name].dtype == tensor.dtype
    read["double"][0] = 1.0  # writable


def test_the_last_ones_and_the_best_are_kept(run: RunFolder) -> None:
    run.save_checkpoint(140, tensors_of(140), {}, best=True)
    assert run.iterations() == [120, 140]
    for iteration in (160, 180, 200):
        run.save_checkpoint(iteration, tensors_of(iteration), {})
    assert run.iterations() == [140, 180, 200]
    assert run.best == 140
    assert run.load_checkpoint(run.best).tensors["policy.weight"][0, 0] == 140
    run.save_checkpoint(220, tensors_of(220), {}, keep=1, best=True)
    assert run.iterations() == [220]
    assert temporaries(run) == []


def test_a_future_that_was_given_up_is_removed(run: RunFolder) -> None:
    assert run.load_checkpoint(100).iteration == 100
    run.save_checkpoint(110, tensors_of(110), {})
    assert run.iterations() == [100, 110]


def test_the_same_iteration_can_be_saved_again(run: RunFolder) -> None:
    run.save_checkpoint(120, tensors_of(7), {"second": True})
    assert run.iterations() == [100, 120]
    assert run.load_checkpoint().state == {"second": True}
    assert temporaries(run) == []


def forge(run: RunFolder, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the newest state.json as somebody would who recomputes its checksum."""
    path = file_of(run, 120, "state.json")
    record = json.loads(path.read_text())
    del record["record_sha256"]
    change(record)
    record["record_sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record))


def put_tensors(run: RunFolder, content: bytes) -> None:
    """Replace the newest tensors, and the sizes and checksums that state.json states of them."""
    file_of(run, 120).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    forge(run, lambda record: record.update(bytes=len(content), sha256=digest))


def edit(run: RunFolder, name: str, change: Callable[[bytes], bytes]) -> None:
    path = file_of(run, 120, name)
    path.write_bytes(change(path.read_bytes()))


def flip(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


DAMAGE: dict[str, tuple[Callable[[RunFolder], Any], str]] = {
    "cut short": (lambda run: edit(run, "tensors.safetensors", lambda b: b[:-9]), "truncated: [0-9]+ bytes of the"),
    "empty": (lambda run: edit(run, "tensors.safetensors", lambda b: b""), "truncated: 0 bytes"),
    "longer": (lambda run: edit(run, "tensors.safetensors", lambda b: b + b"x"), "damaged: [0-9]+ bytes, but"),
    "one bit": (
        lambda run: edit(run, "tensors.safetensors", flip),
        "does not match its checksum: it is damaged",
    ),
    "no tensors": (lambda run: file_of(run, 120).unlink(), "incomplete: it has no tensors.safetensors"),
    "no state": (lambda run: file_of(run, 120, "state.json").unlink(), "incomplete: it has no state.json"),
    "half a state": (lambda run: edit(run, "state.json", lambda b: b[: len(b) // 2]), "unreadable: JSONDecodeError"),
    "changed state": (
        lambda run: edit(run, "state.json", lambda b: b.replace(b'"env_steps": 1200', b'"env_steps": 1300')),
        "state.json does not match its checksum",
    ),
    "not JSON": (lambda run: edit(run, "state.json", lambda b: pickle.dumps(os.getcwd)), "unreadable"),
    "deep JSON": (lambda run: edit(run, "state.json", lambda b: b"[" * 100_000), "unreadable: RecursionError"),
    "other JSON": (lambda run: edit(run, "state.json", lambda b: b"[1, 2]"), "lacks the format"),
    "a folder": (lambda run: (file_of(run, 120).unlink(), file_of(run, 120).mkdir()), "damaged|unreadable|truncated"),
    "other iteration": (lambda run: forge(run, lambda r: r.update(iteration=7)), "it holds iteration 7"),
    "newer": (lambda run: forge(run, lambda r: r.update(format_version=2)), "format version 2, this metarl reads 1"),
    "no checksum": (lambda run: edit(run, "state.json", lambda b: b'{"format": "metarl-checkpoint"}'), "unreadable"),
    "another's tensors": (
        lambda run: put_tensors(run, header({"policy.weight": entry(0, 4, [1])}, b"1234")),
        "other names, shapes or types",
    ),
    "names with paths": (
        lambda run: put_tensors(run, header({"../../evil": entry(0, 4, [1])}, b"1234")),
        "'../../evil' cannot name a tensor",
    ),
    "names with lines": (
        lambda run: put_tensors(run, header({"a\n\nb": entry(0, 4, [1])}, b"1234")),
        "cannot name a tensor",
    ),
    "header beyond the file": (
        lambda run: put_tensors(run, struct.pack("<Q", 2**40) + b"{}"),
        "truncated: 10 bytes",
    ),
    "tensor beyond the file": (
        lambda run: put_tensors(run, header({"a": entry(0, 2**40, [2**38])}, b"1234")),
        "truncated: .* that its header states",
    ),
    "tensors that overlap": (
        lambda run: put_tensors(run, header({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234")),
        "unreadable: SafetensorError",
    ),
    "pickled tensors": (lambda run: put_tensors(run, pickle.dumps({"a": 1})), "truncated|unreadable"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_the_checkpoint_before_is_used(run: RunFolder, kind: str) -> None:
    damage, text = DAMAGE[kind]
    damage(run)
    with pytest.raises(CheckpointError, match=text) as caught:
        run.load_checkpoint(120)
    assert "\n" not in str(caught.value)
    assert "iteration-000120" in str(caught.value) or "cannot name a tensor" in str(caught.value)
    with pytest.warns(UserWarning, match="continuing with iteration 100"):
        iteration, tensors, state = RunFolder.open(run.path).load_checkpoint()
    assert (iteration, state) == (100, {"env_steps": 1000})
    assert torch.equal(tensors["policy.weight"], torch.full((3, 4), 100.0))


def test_no_good_checkpoint_names_every_problem(run: RunFolder) -> None:
    edit(run, "tensors.safetensors", flip)
    file_of(run, 100).write_bytes(b"")
    with pytest.raises(CheckpointError, match="000120.*checksum.*; .*000100.*truncated: 0 bytes") as caught:
        run.load_checkpoint()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_not_there(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of iteration 7; it has: 100, 120"):
        run.load_checkpoint(7)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        RunFolder.create(tmp_path / "empty").load_checkpoint()


def test_a_sound_checkpoint_gives_no_warning(run: RunFolder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.load_checkpoint()


def test_what_cannot_be_stored_is_refused_before_anything_is_written(run: RunFolder) -> None:
    for name in ("a/b", "..", "", "a\\b", ".hidden", "__metadata__\n"):
        with pytest.raises(CheckpointError, match="cannot name a tensor"):
            run.save_checkpoint(140, {name: torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="plain JSON data"):
        run.save_checkpoint(140, {}, {"tensor": torch.ones(1)})
    assert run.iterations() == [100, 120]


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours runs after it."""


CALLS = ("fsync", "rename", "replace", "mkdir")


def interrupt(patch: pytest.MonkeyPatch, at: int, error: BaseException) -> list[str]:
    """Let the `at`-th call of the operating system fail; returns the list of calls as it grows."""
    calls: list[str] = []

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == at + 1:
                raise error
            return real(*arguments, **options)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrapped(name, getattr(os, name)))
    return calls


@pytest.mark.parametrize("iteration", [120, 140])
@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device"), OSError(30, "Read-only")])
def test_a_fault_at_any_call_leaves_a_good_checkpoint(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, error: BaseException, iteration: int
) -> None:
    run.save_checkpoint(120, tensors_of(120), {"env_steps": 1200}, keep=1)  # nothing else to fall back to
    for at in range(100):
        with monkeypatch.context() as patch:
            calls = interrupt(patch, at, error)
            if isinstance(error, Killed):  # a dead process tidies nothing up
                patch.setattr(checkpoints, "sweep", lambda *_: None)
            try:
                run.save_checkpoint(iteration, tensors_of(iteration), {"env_steps": iteration * 10}, keep=1)
            except (Killed, RunFolderError) as caught:
                assert "\n" not in str(caught)
        monkeypatch.setattr("metarl.run_folder.folder.LEFTOVER_AGE", 0.0)
        found, tensors, state = RunFolder.open(run.path).load_checkpoint()
        assert found in (120, iteration)
        assert state == {"env_steps": found * 10}
        assert torch.equal(tensors["policy.weight"], tensors_of(found)["policy.weight"])
        assert temporaries(run) == []
        if len(calls) <= at:
            break
    assert at >= 6 and set(calls) >= {"fsync", "rename", "mkdir"}
    assert run.iterations() == [iteration]


LIMITED = """
import resource, sys, torch
from pathlib import Path
from metarl.errors import RunFolderError
from metarl.run_folder import MetricsLog, RunFolder
run = RunFolder.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
def report(task):
    try:
        task()
    except RunFolderError as error:
        print(error)
def fill(folder, tensorboard):
    folder.mkdir(exist_ok=True)
    with MetricsLog(folder, 0, "tensorboard" if tensorboard else None) as log:
        for iteration in range(1, 2000):
            log.append({"iteration": iteration, "loss": iteration / 7})
report(lambda: run.save_checkpoint(140, {"weight": torch.ones(100_000)}, {}))
report(lambda: fill(run.path, False))
report(lambda: fill(run.path / "events", True))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on file sizes")
def test_a_disk_that_is_full_for_real(run: RunFolder) -> None:
    command = [sys.executable, "-c", LIMITED, str(run.path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["File too large; make room on that disk"] * 3
    assert lines[0].startswith("cannot save") and "metrics.csv" in lines[1] and "tfevents" in lines[2]
    assert temporaries(run) == []
    assert run.iterations() == [100, 120]
    assert run.load_checkpoint().iteration == 120
    for folder in (run.path, run.path / "events"):
        assert (folder / "metrics.csv").read_text().endswith("\n")
        rows = RunFolder(folder).read_metrics()
        assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))


SAVER = """
import sys, torch
from metarl.run_folder import RunFolder
run = RunFolder(sys.argv[1])
run.write_config({})
for iteration in range(1, 10_000):
    run.save_checkpoint(iteration, {"weight": torch.full((50_000,), float(iteration))}, {"number": iteration})
    print(iteration, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_process_killed_while_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl.run_folder.folder.LEFTOVER_AGE", 0.0)
    process = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines += process.stdout.read().splitlines()
    process.stdout.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iteration, tensors, state = RunFolder.open(tmp_path).load_checkpoint()
    assert iteration in (int(lines[-1]), int(lines[-1]) + 1)
    assert state == {"number": iteration}
    assert torch.equal(tensors["weight"], torch.full((50_000,), float(iteration)))


def test_what_is_left_is_put_back_or_removed(tmp_path: Path) -> None:
    gone, replaced, half = (files.hidden(tmp_path / n, k) for n, k in (("a", "old"), ("b", "old"), ("c", "tmp")))
    for folder in (gone, replaced, half, tmp_path / "b", tmp_path / ".user.tmp"):
        folder.mkdir()
    (gone / "content").write_text("x")
    files.hidden(tmp_path / "d", "tmp").write_text("x")
    files.sweep(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".user.tmp", "a", "b"]
    assert (tmp_path / "a" / "content").exists()
    files.sweep(tmp_path / "missing")
