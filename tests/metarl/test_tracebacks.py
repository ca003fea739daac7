"""Where a mistake in a user's own code happened, and the whole traceback for who asks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from envs import registry
from envs.errors import ContractError, EnvsError, ModelError, TaskError, UnknownEnvironmentError
from metarl.config.command_line import TRACEBACK
from tests.metarl.own import POINT, ROOT, cart, command

Write = Callable[[str], str]
DIVIDING = POINT.replace("        self.position = self.position +", "        1 / 0; self.position = self.position +")
HINT = f" \\({TRACEBACK}=1 shows the whole traceback\\)"


def use(place: str, **options: object) -> None:
    env = registry.make(place, 2, **options)
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    env.step(torch.zeros(2, env.action_size))


def failed(place: str, kind: type[EnvsError], **options: object) -> str:
    with pytest.raises(kind) as caught:
        use(place, **options)
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize("folder", ["envs_of_mine", "lib/python3/site-packages/robots"])
def test_the_innermost_frame_of_the_users_code(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Whatever the folder is called, and if the module is installed."""
    place = tmp_path / folder
    place.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(place))
    name = f"help_{folder.partition('_')[0].partition('/')[0]}"
    (place / f"{name}.py").write_text("import json\n\ndef look():\n    return json.loads('[')\n")
    own = written(
        cart(("import torch\n", f"import {name}\nimport torch\n"), ("self.distance < 0.05", f"{name}.look()"))
    )
    assert re.fullmatch(rf"{own}:Cart \({name}.py:4\): JSONDecodeError: .*", failed(f"{own}:Cart", ContractError))


def test_a_folder_whose_name_begins_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.core import explained

    monkeypatch.setattr(explained, "OURS", tmp_path / "envs")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "envs_beside.py").write_text(cart(("return self.distance < 0.05", "return 1 / 0")))
    assert re.match(r"envs_beside:Cart \(envs_beside.py:\d+\): Zero", failed("envs_beside:Cart", ContractError))


def test_code_that_is_installed(written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.core import explained

    name = written(cart(("return self.distance < 0.05", "return 1 / 0")))
    monkeypatch.setattr(explained, "INSTALLED", (*explained.INSTALLED, tmp_path))
    assert re.fullmatch(rf"{name}:Cart \({name}.py:\d+\): ZeroDivisionError: .*", failed(f"{name}:Cart", ContractError))


def test_our_own_errors_in_a_users_method_say_where(written: Write) -> None:
    name = written(cart(('{"body_mass": body_mass', '{"body_mas": body_mass')))
    line = rf"{name}:Cart \({name}.py:\d+\): 'body_mas' is not a model field; did you mean 'body_mass'\?"
    assert re.fullmatch(line, failed(f"{name}:Cart", ModelError))
    name = written(cart(('self.assigned["mass"]', 'self.assigned["weight"]')))
    assert re.fullmatch(rf"{name}:Cart \({name}.py:\d+\): there is no task .*", failed(f"{name}:Cart", TaskError))
    name = written("from envs.core.tasks import Range\nR = Range(2, 1)")
    line = failed(f"{name}:Cart", UnknownEnvironmentError)
    assert re.fullmatch(rf"{name}:Cart: cannot import {name}: \S+{name}.py:2: TaskError: range is upside .*", line)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_gymnasium_environment_in_this_process_or_in_others(
    written: Write, vectorization: str, recwarn: pytest.WarningsRecorder
) -> None:
    name = written(DIVIDING)
    line = failed(f"{name}:Point", ContractError, horizon=5, vectorization=vectorization)
    assert re.fullmatch(rf"{name}:Point \({name}.py:\d+\): ZeroDivisionError: division by zero", line)
    assert not [str(each.message) for each in recwarn if "Worker" in str(each.message)]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_whole_traceback_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectorization: str) -> None:
    (tmp_path / "wrong.py").write_text(DIVIDING)
    given = ["train", "env=wrong:Point", "env.horizon=5", f"env.vectorization={vectorization}", "algo=in_context"]
    given += ["algo.tasks=2", "algo.episodes=1", "run_dir=run"]
    short = command(tmp_path, *given)
    assert re.fullmatch(rf"error: wrong:Point \(wrong.py:\d+\): ZeroDivisionError: .*{HINT}\n", short.stderr)
    monkeypatch.setenv(TRACEBACK, "1")
    whole = command(tmp_path, *given[:-1], "run_dir=other")
    assert whole.returncode == short.returncode == 1
    assert 'wrong.py", line 26, in step' in whole.stderr and "Traceback" in whole.stderr
    assert re.fullmatch(
        r"error: wrong:Point \(wrong.py:26\): ZeroDivisionError: .*by zero", whole.stderr.splitlines()[-1]
    )


def test_no_hint_where_the_command_line_is_at_fault(tmp_path: Path) -> None:
    (tmp_path / "carts.py").write_text(cart())
    result = command(tmp_path, "train", "env=carts:Cart", "env.tasks.mass=[2,1]")
    assert TRACEBACK not in result.stderr and result.stderr.count("\n") == 1


def test_a_worker_process_leaves_the_environments_of_its_parent_alone(tmp_path: Path) -> None:
    """It holds copies of them, and may collect them as garbage."""
    collecting = POINT.replace("    def step(self, action):", "    def step(self, action):\n        gc.collect()")
    (tmp_path / "point.py").write_text(f"import gc\n{collecting}")
    (tmp_path / "main.py").write_text(
        "import gc\nimport torch\nfrom envs.registry import make\ngc.disable()\n"
        'make("point:Point", 2, horizon=5, vectorization="async")\n'
        'env = make("point:Point", 2, horizon=5, vectorization="async")\n'
        'env.set_tasks(env.distribution.published("test", 2))\n'
        "env.reset()\nenv.step(torch.zeros(2, 2))\n"
    )
    result = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_processes_end_with_their_environment(written: Write) -> None:
    import gc

    env = registry.make(f"{written(POINT)}:Point", 2, horizon=5, vectorization="async")
    processes = env.vector.processes  # type: ignore[attr-defined]
    assert all(process.is_alive() for process in processes)
    del env
    gc.collect()
    assert not any(process.is_alive() for process in processes)
