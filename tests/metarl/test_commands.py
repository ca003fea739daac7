"""The boundary of the commands: exit statuses, one line on stderr, sweeps, help, and nothing left on the disk."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import metarl
from agents.errors import PolicyError
from envs.errors import ModelError, TaskError
from envs.registry import all_names
from metarl.config.command_line import main
from metarl.config.parsing import COMMANDS, leaves, train_settings
from metarl.errors import CheckpointError, Interrupted, RunWarning

ROOT = Path(__file__).parents[2]
Result = tuple[int, str, str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs `metarl.train` with a task of the test's own in an empty folder; returns exit status, stdout and stderr."""

    def run(*argv: str, task: Callable[[Any], object] = lambda config: None, name: str = "train") -> Result:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
        status = 0
        try:
            main(name, task)
        except SystemExit as error:
            status = int(error.code or 0)
        assert list(tmp_path.iterdir()) == []
        assert Path.cwd() == tmp_path
        assert sys.argv == [f"{name}.py", *argv]
        out, err = capfd.readouterr()
        return status, out, err

    return run


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, in the project's folder."""
    everything = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=everything, capture_output=True, text=True)


def test_the_task_gets_the_checked_settings(command: Callable[..., Result]) -> None:
    got: list[Any] = []
    assert command("env=point2d", "budget.env_steps=4e6", "run_dir=runs/${seed}", "seed=5", task=got.append) == (
        0,
        "",
        "",
    )
    assert got[0].env.name == "point2d"
    assert got[0].budget.plain() == {"iterations": None, "env_steps": 4_000_000, "minutes": None}
    assert (got[0].run_dir, got[0].seed) == ("runs/5", 5)
    json.dumps(got[0].plain())


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["env=reachh"], f"env=reachh: unknown environment; did you mean 'reach'? (valid: {', '.join(all_names())})"),
        (["budgett.iterations=3"], "budgett.iterations=3: unknown key; did you mean 'budget.iterations'?"),
        (["env=[reach"], "env=[reach: not understood ("),
        (["algo.discount=2"], "algo.gamma=2: must be a number above 0 up to 1"),
        (["env", "reach"], "env: not understood; settings are written key=value, as in env=reach"),
        (["--env", "reach"], "unrecognized arguments: --env; settings are written key=value"),
        (["--cfg", "everything"], "argument --cfg/-c: invalid choice: 'everything'"),
        (["-m", "--cfg", "job"], "only one of --run, --multirun, --cfg"),
        (["--resolve"], "--resolve belongs to --cfg or --help"),
        (["--help", "algo=mamll"], "algo=mamll: unknown algorithm"),
        (["recipe=nothing"], "recipe=nothing: unknown recipe; (valid: ant_dir-fomaml, "),
        (["--config-dir", "/nowhere/at/all"], "--config-dir /nowhere/at/all: there is no such folder"),
        (["-m", "algo=maml,reptil", "seed=0,1"], "algo=reptil: unknown algorithm; did you mean 'reptile'?"),
        (["-m", "seed=0,x"], "seed=x: must be an integer from 0"),
        (["-m", "seed=0,1", "algo.taskss=3"], "algo.taskss=3: unknown key; did you mean 'algo.tasks'?"),
        (["-m", "seed=0,1", "run_dir=runs/x"], "run_dir=runs/x: run 1 of the sweep would share it; write for example"),
        (["-m", "env=reach,a.b:C"], "env=reach,a.b:C: an environment of your own is written"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(command: Callable[..., Result], argv: list[str], line: str) -> None:
    def task(config: Any) -> None:
        raise AssertionError("the task must not begin")

    status, out, err = command(*argv, task=task)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "argv", "line"),
    [
        (
            "train",
            ["seed=0,1", "run_dir=runs/x"],
            "run_dir=runs/x: run 1 of the sweep would share it; write for example run_dir='runs/x-${seed}'",
        ),
        (
            "train",
            ["env=reach,push", "run_dir=x"],
            "run_dir=x: run 1 of the sweep would share it; write for example run_dir='x-${env.name}'",
        ),
        (
            "adapt",
            ["run=x", "task=0,1", "out=arm"],
            "out=arm: run 1 of the sweep would share it; write for example out='arm-${task}'",
        ),
        (
            "export",
            ["run=x", "checkpoint=last,best", "out=a.onnx"],
            "out=a.onnx: run 1 of the sweep would share it; write for example out='a-${checkpoint}.onnx'",
        ),
        ("render", ["run=x", "task=0,1", "out=a.mp4"], "out=a.mp4: run 1 of the sweep would share it"),
        ("report", ["run=x,y", "out=a"], "out=a: run 1 of the sweep would share it"),
        ("evaluate", ["run=x", "split=test,ood", "out=a.json"], "out=a.json: run 1 of the sweep would share it"),
        ("evaluate", ["run=x,y", "out=a"], "out=a: run 1 of the sweep would share it"),
        ("evaluate", ["run=x", "split=test,ood", "out=a"], None),
        ("adapt", ["run=x", "task=0,1", "out='arm-${task}'"], None),
    ],
)
def test_no_run_of_a_sweep_writes_over_another(
    command: Callable[..., Result], name: str, argv: list[str], line: str | None
) -> None:
    done: list[Any] = []
    status, _, err = command("-m", *argv, name=name, task=done.append)
    assert (status, len(done)) == ((0, 2) if line is None else (2, 0))
    assert err.startswith(f"error: {line}") if line else not err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CheckpointError("damaged\n  beyond repair"), 1, "error: damaged; beyond repair\n"),
        (ModelError("it does not compile"), 1, "error: it does not compile\n"),
        (TaskError("upside down"), 2, "error: upside down\n"),
        (PolicyError("width=3"), 2, "error: width=3\n"),
        (Interrupted("stopped; continue", 2), 130, "error: stopped; continue\n"),
        (Interrupted("stopped; continue", 15), 143, "error: stopped; continue\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_known_failures_are_one_line(
    command: Callable[..., Result], error: BaseException, status: int, line: str
) -> None:
    def task(config: Any) -> None:
        raise error

    assert command(task=task) == (status, "", line)


def test_a_warning_about_a_run_is_one_line_and_those_of_others_stay(
    command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[tuple[str, type[Warning]]] = []
    monkeypatch.setattr(warnings, "showwarning", lambda text, kind, *_, **__: others.append((str(text), kind)))

    def task(config: Any) -> None:
        for _ in range(2):
            warnings.warn("damaged;\n  continuing with iteration 3", RunWarning, stacklevel=1)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("of others", UserWarning, stacklevel=1)

    before = warnings.showwarning
    status, out, err = command(task=task)
    assert (status, out) == (0, "") and warnings.showwarning is before
    assert err == "warning: damaged; continuing with iteration 3\n" * 2
    assert others == [("of others", UserWarning)]


def test_a_bug_keeps_its_traceback(command: Callable[..., Result]) -> None:
    def task(config: Any) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug") as caught:
        command(task=task)
    assert caught.traceback[-1].name == "task"


def test_a_sweep_runs_every_combination(command: Callable[..., Result]) -> None:
    got: list[Any] = []
    status, out, err = command(
        "-m",
        "env=point2d,reach",
        "algo=in_context,multitask",
        "run_dir='runs/${env.name}-${algo.name}'",
        task=got.append,
    )
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "Launching 4 jobs locally"
    assert {config.run_dir: config.agent.name for config in got} == {
        "runs/point2d-in_context": "transformer",
        "runs/point2d-multitask": "mlp",
        "runs/reach-in_context": "transformer",
        "runs/reach-multitask": "transformer",
    }


def test_a_sweep_over_environments_of_the_users_own(command: Callable[..., Result]) -> None:
    got: list[Any] = []
    assert command("-m", "env=a.b:C,d.e:F", task=got.append)[0] == 0
    assert [config.env.entry for config in got] == ["a.b:C", "d.e:F"]


@pytest.mark.parametrize(
    ("error", "text"), [(CheckpointError("damaged"), "error: damaged\n"), (KeyError("bug"), "Traceback")]
)
def test_a_failure_does_not_end_a_sweep(command: Callable[..., Result], error: Exception, text: str) -> None:
    got: list[int] = []

    def task(config: Any) -> None:
        got.append(config.seed)
        if config.seed == 1:
            raise error

    status, _, err = command("-m", "seed=0,1,2", task=task)
    assert (status, got) == (1, [0, 1, 2])
    assert err.startswith(text)
    assert "Error executing job" not in err and err.splitlines()[-1].removeprefix("error: ") in (
        "damaged",
        "KeyError: 'bug'",
    )


def test_an_interruption_ends_a_sweep(command: Callable[..., Result]) -> None:
    got: list[int] = []

    def task(config: Any) -> None:
        got.append(config.seed)
        raise Interrupted("stopped", 15)

    status, _, err = command("-m", "seed=0,1,2", task=task)
    assert (status, got, err) == (143, [0], "error: stopped\n")


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_folder_with_configurations_of_the_users_own(
    command: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory, multirun: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "env").mkdir()
    (folder / "env" / "short.yaml").write_text("name: reach\nhorizon: 20\ntasks: {}\n")
    got: list[Any] = []
    assert command("--config-dir", str(folder), *multirun, "env=short", task=got.append)[0] == 0
    assert got[0].env.plain() == {"name": "reach", "horizon": 20, "tasks": {}}
    _, _, err = command("--config-dir", str(folder), *multirun, "env=shorn", task=got.append)
    valid = ", ".join(sorted([*all_names(), "short"]))
    assert err == f"error: env=shorn: unknown environment; did you mean 'short'? (valid: {valid})\n"


def test_options_may_stand_between_settings(command: Callable[..., Result]) -> None:
    got: list[Any] = []
    assert command("algo=reptile", "-m", "seed=0,1", task=got.append)[0] == 0
    assert [(config.algo.name, config.seed) for config in got] == [("reptile", 0), ("reptile", 1)]


@pytest.mark.parametrize("name", ["train", "evaluate", "render", "reproduce", "adapt", "export", "view", "report"])
def test_help_describes_every_key(command: Callable[..., Result], name: str) -> None:
    status, out, err = command("--help", name=name)
    assert (status, err) == (0, "")
    assert f"python -m metarl.{name}" in out
    kind = train_settings({"algo": {"name": "maml"}, "agent": {"name": "transformer"}})
    told: set[str] = set()
    for key, field in leaves(kind if name == "train" else COMMANDS[name]):
        if f"  {key}=" not in out:  # what this command line does not have
            assert field.default is None, key
        elif (description := field.description or "") not in told:
            text = " ".join(out.partition(f"  {key}=")[2].split())
            assert " ".join(description.split()) in text, key
            told.add(description)


@pytest.mark.parametrize("columns", [60, 80])
def test_help_fits_the_terminal(command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = command("--help")
    keys = out.partition("(null: none)")[2].partition("Options")[0].splitlines()
    assert len(keys) > 60
    assert [line for line in keys if len(line) > columns and " " in line.strip()] == []


def test_help_lists_the_choices(command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    _, out, _ = command("--help")
    for line in (
        "agent: mlp, transformer",
        "algo: fomaml, in_context, maml, multitask, reptile",
        f"env: {', '.join(sorted(all_names()))}",
    ):
        assert line in out.replace("\n  ", " ").splitlines(), "long lists are wrapped"


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_the_version_is_our_own(command: Callable[..., Result], name: str) -> None:
    assert command("--version", name=name) == (0, f"metarl {metarl.__version__}\n", "")


def test_cfg_shows_what_the_line_means(command: Callable[..., Result]) -> None:
    status, out, err = command("--cfg", "job", "env=point2d", "budget.minutes=5", "-p", "budget")
    assert (status, err) == (0, "")
    assert out.splitlines() == ["# @package budget", "iterations: null", "env_steps: null", "minutes: 5"]


def test_help_waits_for_neither_torch_nor_mujoco() -> None:
    code = "import sys, atexit, runpy; atexit.register(lambda: print(sorted({'torch', 'mujoco'} & set(sys.modules))))"
    run = f"{code}; sys.argv = ['train.py', '--help']; runpy.run_module('metarl.train', run_name='__main__')"
    result = python("-c", run)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["train", "evaluate", "render", "adapt"])
def test_the_commands_run_as_modules(name: str) -> None:
    result = python("-m", f"metarl.{name}", "device=gpu")
    message = "run=null: must be the folder" if name != "train" else "device=gpu: must be auto, cpu or an accelerator"
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes end differently elsewhere")
def test_a_closed_pipe_is_quiet() -> None:
    task = "lambda config: [print('line ' * 1000) for _ in range(1000)]"
    code = f"from metarl.config.command_line import main; import sys; sys.argv = ['x.py']; main('train', {task})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "-m", "metarl.train", "algo", "=", "re"], ["reptile"]),
        (["python", "-m", "metarl.train", "budget.m"], ["budget.minutes="]),
        (["python", "-m", "metarl.evaluate", "sp"], ["split="]),
        (["python", "-m", "metarl.evaluate", "checkpoint="], ["last", "best"]),
        (["python", "-m", "metarl.evaluate", "split", "=", "o"], ["ood"]),
        (["python", "-m", "metarl.evaluate", "deterministic="], ["true", "false"]),
        (["python", "-m", "metarl.report", "fil"], ["films="]),
        (["python", "-m", "metarl.train", "logger", "=", "t"], ["tensorboard", "trackio"]),
        (["python", "-m", "metarl.render", "run", "=", "pretrained/grasp-"], ["pretrained/grasp-in_context"]),
        (["python", "-m", "metarl.view", "beside", "=", "pretrained/grasp-"], ["pretrained/grasp-in_context"]),
        (["python", "-m", "metarl.train", "algo.inner.adapt", "=", "h"], ["head"]),
        (["python", "-m", "metarl.train", "algo=in_context", "agent.context", "=", "e"], ["episode"]),
        (["python", "-m", "metarl.train", "agent=mlp", "agent.activation="], ["relu", "tanh"]),
        (["python", "-m", "http.server", "sp"], []),
    ],
)
def test_tab_completion(words: list[str], expected: list[str]) -> None:
    script = python("-m", "metarl.train", "--shell-completion", "install=bash").stdout
    line = " ".join(words).replace(" = ", "=")
    quoted = " ".join(f"'{word}'" for word in words)
    setup = f"COMP_WORDS=({quoted}); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _metarl_complete"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-c", f'{script}\n{setup}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == expected, result.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes end differently elsewhere")
def test_a_training_whose_reader_leaves_ends_as_others_do(tmp_path: Path) -> None:
    given = ["env=point2d", "algo=in_context", "algo.tasks=2", "algo.episodes=1", "agent.width=8", "run_dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "metarl.train", *given, "budget.iterations=1", "evaluate.tasks=2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(120), process.stderr.read()) == (128 + 13, b"")
