"""A disk that is really full, and one that is really read-only: a small file system of the test's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = """
import json, subprocess, sys
from pathlib import Path
import metarl.runs
from metarl.config.command_line import main
from metarl.run_folder import RunFolder

disk, run = Path(sys.argv[1]), Path(sys.argv[1]) / "run"
POINT = ["env=point2d", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "agent.hidden=[64,64]", "device=cpu",
         "algo.outer.epochs=1", "evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1",
         "checkpoint.every=1", "checkpoint.keep=1000", "report=page", f"run_dir={run}"]

def command(what, *settings):
    sys.argv, status = [what, *settings], 0
    print(f"## {what}", file=sys.stderr, flush=True)
    try:
        main(what, {"train": metarl.runs.train, "evaluate": metarl.runs.evaluate_run}[what])
    except SystemExit as error:
        status = error.code
    there = sorted(path.name for path in run.glob("**/*")) if run.exists() else None
    last = RunFolder.open(run).load_checkpoint().iteration if run.exists() else None
    print(f"## {json.dumps([status, last, there])}", flush=True)

def fill(room):
    junk = disk / "junk"
    with open(junk, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            file.truncate(max(file.tell() - room, 0))
"""
FULL = """
fill(400_000)
command("train", *POINT, "budget.iterations=100")
command("train", f"resume={run}")
(disk / "junk").unlink()
command("train", f"resume={run}", "budget.iterations=6")
fill(0)
command("evaluate", f"run={run}", "tasks=2")
"""
NO_ROOM = """
fill(8_000)
command("train", *POINT, "budget.iterations=2")
"""
READ_ONLY = """
command("train", *POINT, "budget.iterations=1")
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
command("train", f"resume={run}", "budget.iterations=3")
command("evaluate", f"run={run}", "tasks=2")
command("train", *POINT[:-1], "budget.iterations=1", f"run_dir={disk / 'other'}")
"""


def on_a_small_disk(tmp_path: Path, script: str) -> tuple[list[list[Any]], list[list[str]]]:
    """Run commands with a disk of 2 MB at `tmp_path`, in a name space of their own.

    Returns:
        For each command: exit status, iteration of the newest good checkpoint, names of all files; and its lines on
        stderr.
    """
    (tmp_path / "script.py").write_text(COMMANDS + script)
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=2m none {tmp_path / 'disk'}"
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        possible = subprocess.run([*inside, mount], capture_output=True, timeout=60).returncode == 0
    except OSError:
        possible = False
    if not possible:
        pytest.skip("no file systems can be mounted here")
    line = f"{mount} && exec {sys.executable} {tmp_path / 'script.py'} {tmp_path / 'disk'}"
    done = subprocess.run([*inside, line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    told = [json.loads(text[3:]) for text in done.stdout.splitlines() if text.startswith("## ")]
    errors = [part.strip().splitlines()[1:] for part in done.stderr.split("## ")[1:]]
    return told, errors


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def whole(names: list[str]) -> bool:
    """Whether nothing half written lies about."""
    return not any(name.endswith((".tmp", ".old")) for name in names)


def test_a_full_disk(tmp_path: Path) -> None:
    told, errors = on_a_small_disk(tmp_path, FULL)
    stopped, still_full, resumed, unwritable = told
    assert stopped[0] == still_full[0] == unwritable[0] == 1 and resumed[0] == 0
    for lines in (errors[0], errors[1], errors[3]):
        assert len(lines) == 1 and lines[0].startswith("error: cannot "), lines
        assert lines[0].endswith("No space left on device; make room on that disk")
    assert errors[2] == []
    assert 1 <= stopped[1] == still_full[1] < 6 and resumed[1] == 6 == unwritable[1]
    assert all(whole(names) for _, _, names in told)


def test_a_disk_without_room_for_a_run_gets_none(tmp_path: Path) -> None:
    ((status, _, names),), ((line,),) = on_a_small_disk(tmp_path, NO_ROOM)
    assert status == 1 and names is None
    assert line.startswith("error: cannot ") and line.endswith("make room on that disk")


def test_a_read_only_disk(tmp_path: Path) -> None:
    told, errors = on_a_small_disk(tmp_path, READ_ONLY)
    assert [status for status, _, _ in told] == [0, 1, 1, 1]
    assert all(last == 1 and names == told[0][2] for _, last, names in told)
    for lines in errors[1:]:
        assert len(lines) == 1 and "Read-only file system; see that the folder is there and may be written" in lines[0]
