"""A run that a stranger made can be opened: it runs no code, fills no memory, and every trap is one line."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from envs.errors import UnknownEnvironmentError
from metarl.assembly import opened as metarl_opened
from metarl.assembly.opened import open_run
from metarl.assembly.trust import check_factory, check_outside
from metarl.config.composition import compose
from metarl.errors import KNOWN, CheckpointError, ConfigError, RunFolderError
from metarl.run_folder import RunFolder
from metarl.runs import evaluate_run, train

TINY = ["env.horizon=5", "algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1", "evaluate.tasks=2", "device=cpu"]
TINY += ["evaluate.episodes_per_step=2", "evaluate.steps=1", "budget.iterations=1", "report=page"]
# Imported, it says so in a file; named by a run, it must not be.
TRAP = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\nclass Trap: pass\n"
OWN = """
import gymnasium
from envs.families.point2d import Point2d

class Mine(Point2d):
    pass

def tells(num_simulations, **options) -> Point2d:
    return Mine(num_simulations, **options)

def tells_by_name(**options) -> "gymnasium.Env":
    raise NotImplementedError

def silent(num_simulations, **options):
    return Mine(num_simulations, **options)
"""


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of point2d."""
    path = tmp_path_factory.mktemp("runs") / "point"
    return train(compose(["env=point2d", "agent.hidden=[4]", *TINY, f"run_dir={path}"]))


@pytest.fixture
def run(point: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(point, tmp_path / "run"))


def put(run: Path, changes: dict[str, Any]) -> None:
    """Change settings, by dotted keys, in a run's configuration."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in changes.items():
        *path, leaf = key.split(".")
        group = config
        for name in path:
            group = group[name]
        group[leaf] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def refused(run: Path, kind: type[Exception] | tuple[type[Exception], ...] = KNOWN, trust: tuple[str, ...] = ()) -> str:
    """The one line with which opening and resuming a run are refused."""
    with pytest.raises(kind) as caught:
        open_run(run, trust=trust)
    with pytest.raises(kind):
        train(compose([f"resume={run}", f"trust=[{','.join(trust)}]"]))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Code


@pytest.mark.parametrize("place", ["subprocess:run", "os:system", "builtins:exec", "torch:load", "gymnasium:make"])
def test_a_function_that_makes_no_environment_is_never_called(run: Path, place: str) -> None:
    trust = (place.partition(":")[0],)
    put(run, {"env.entry": place, "env.args": ["touch", str(run / "executed")]})
    refused(run, UnknownEnvironmentError, trust)
    put(run, {"env.entry": "point2d:Point", "env.name": place})  # a name can be a place
    put(run, {"env": {"name": place, "args": ["touch", str(run / "executed")], "horizon": 5}})
    refused(run, UnknownEnvironmentError, trust)
    assert not (run / "executed").exists()


def test_a_class_that_is_no_environment_is_never_made(run: Path) -> None:
    put(run, {"env.entry": "subprocess:Popen", "env.args": ["touch", str(run / "executed")]})
    assert "is a subclass of neither" in refused(run, trust=("subprocess",))
    assert not (run / "executed").exists()


@pytest.mark.parametrize("place", ["trap:Trap", "run.trap:Trap", "run.deep.trap:Trap", "gymnasium:trap:Name-v0"])
def test_a_module_in_the_runs_folder_is_not_imported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Not even where Python would find it: the user stands in the folder, or in the one above."""
    for folder in (run, run / "deep"):
        folder.mkdir(exist_ok=True)
        (folder / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(run))
    put(run, {"env.entry": place})
    assert "names an environment in its own folder" in refused(run, UnknownEnvironmentError, ("trap", "run"))
    assert not list(tmp_path.rglob("executed")) and "trap" not in sys.modules


def test_a_module_of_the_users_own_is_imported(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "own_stored.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "place"))
    put(run, {"env.entry": "own_stored:Mine"})
    assert type(open_run(run, trust=["own_stored"]).environment(1, 0)).__name__ == "Mine"
    put(run, {"env.entry": "own_stored:tells"})
    assert type(open_run(run, trust=["own_stored"]).environment(1, 0)).__name__ == "Mine"
    check_factory("own_stored:tells_by_name")
    put(run, {"env.entry": "own_stored:silent"})
    assert "write def silent(...) -> gymnasium.Env" in refused(run, UnknownEnvironmentError, ("own_stored",))
    # Said before training too: whoever trains it wants to evaluate it.
    with pytest.raises(UnknownEnvironmentError, match="def silent"):
        train(compose(["env=own_stored:silent", "agent=mlp", *TINY, f"run_dir={tmp_path / 'new'}"]))
    assert not (tmp_path / "new").exists()


def test_names_of_this_package_are_no_places(run: Path) -> None:
    check_outside("reach", run)
    check_outside("envs.families.reach:Reach", run)
    check_outside("gymnasium:Name-v0", run)
    check_factory("reach")


# Sizes


@pytest.mark.parametrize(
    "changes",
    [
        {"agent.hidden": [10**9, 10**9]},
        {
            "agent": {
                "name": "transformer",
                "width": 10**9,
                "layers": 2,
                "heads": 2,
                "context": "episode",
                "initial_std": 0.5,
            }
        },
        {
            "agent": {
                "name": "transformer",
                "width": 8,
                "layers": 10**12,
                "heads": 2,
                "context": "episode",
                "initial_std": 0.5,
            }
        },
        {"env.horizon": 10**12},
        {"algo.tasks": 10**12},
        {"algo.episodes": 10**12},
        {"algo.trial_episodes": 10**12},
        {"evaluate.episodes_per_step": 10**12},
    ],
)
def test_sizes_that_no_memory_holds(run: Path, changes: dict[str, Any]) -> None:
    put(run, changes)
    line = refused(run, RunFolderError)
    assert "this would take at least" in line and "config.yaml" in line


def test_sizes_are_refused_before_training_and_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="env.horizon=1000000000000.*this would take at least"):
        compose(["env=point2d", "env.horizon=1000000000000"])
    compose(["env=reach"])
    with pytest.raises(ConfigError, match="episodes at once of 5 steps: this would take"):
        evaluate_run(compose([f"run={run}", "episodes=1000000000000"], "evaluate"))
    monkeypatch.setattr("metarl.config.memory._memory", lambda: 10**6)
    with pytest.raises(ConfigError, match="at least 0 GB, and this machine has 0 GB"):
        compose(["env=reach"])


def test_a_checkpoint_of_other_sizes_allocates_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run, {"agent.hidden": [7, 9]})
    made = []
    build = metarl_opened.build_policy

    def spy(*arguments: Any) -> Any:
        made.append(arguments[-1])
        return build(*arguments)

    monkeypatch.setattr(metarl_opened, "build_policy", spy)
    with pytest.raises(CheckpointError, match=r"body.0.weight is \(4, 2\) float32, expected \(7, 2\) float32"):
        open_run(run)
    assert made == [torch.device("meta")]


# Files


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a: &a [x,x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "it has references"),
        (b"x: " + b"a" * 2**20, "are more than the 1048576"),
        (b"x: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_a_configuration_that_is_more_than_data(run: Path, content: bytes, line: str) -> None:
    (run / "config.yaml").write_bytes((run / "config.yaml").read_bytes() + content)
    assert line in refused(run, RunFolderError)


def test_a_configuration_that_is_cut_short_says_so(run: Path) -> None:
    """Wherever it is cut: what remains is often sound YAML, with a setting less."""
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    assert lines[-1].startswith("git_dirty")
    for end in range(3, len(lines)):
        (run / "config.yaml").write_text("".join(lines[:end]))
        with pytest.raises(RunFolderError, match="config.yaml is cut short: it lacks"):
            open_run(run)
    (run / "config.yaml").write_text("".join(lines))
    open_run(run)


@pytest.mark.parametrize("key", ["seed: 3", "algo: {}"])
def test_a_key_that_stands_twice_is_refused(run: Path, key: str) -> None:
    with open(run / "config.yaml", "a") as file:
        file.write(f"{key}\n")
    assert f"config.yaml is unreadable: it has the key {key.partition(':')[0]} twice" in refused(run, RunFolderError)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/iteration-000001/state.json"])
def test_a_device_in_place_of_a_file_is_not_read(run: Path, name: str) -> None:
    for folder in run.glob("checkpoints/iteration-000000"):
        shutil.rmtree(folder)
    (run / name).unlink()
    (run / name).symlink_to("/dev/zero")
    assert "not a plain file" in refused(run)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"torch_threads": "x"}, "torch_threads=x: must be an integer from 1"),
        ({"torch_threads": 10**9}, "torch_threads=1000000000: must be an integer from 1 to 1024"),
        ({"algo.name": "mamll"}, "algo.name=mamll: must be one of"),
        ({"agent.colour": 3}, "agent.colour: unknown key"),
        ({"budget.iterations": None}, "budget: must have exactly one of"),
        ({"env": {1: 2, "name": "point2d"}}, "env.1: a setting's name must be a text"),
        ({"env.name": "../../x"}, "unknown environment '../../x'"),
        ({"env.name": None}, "env.name=null: must be a name"),
    ],
)
def test_a_configuration_is_checked_like_a_command_line(run: Path, changes: dict[str, Any], line: str) -> None:
    put(run, changes)
    assert line in refused(run)


@pytest.mark.parametrize("key", ["seed", "algo", "agent.name", "evaluate.tasks", "checkpoint", "torch_threads"])
def test_a_setting_that_is_missing_is_named(run: Path, key: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    group, _, leaf = key.rpartition(".")
    del (config[group] if group else config)[leaf]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"{key}" in refused(run, RunFolderError) and "is missing" in refused(run, RunFolderError)


def test_a_state_of_another_shape_is_refused(run: Path) -> None:
    """Its checksums are right, so only a look at the shapes helps."""
    opened = RunFolder.open(run)
    iteration, tensors, state = opened.load_checkpoint()

    def change(name: str) -> None:
        opened.save_checkpoint(iteration, tensors | {name: torch.zeros(3)}, state, keep=1)

    change("learner.0.optimiser.1.exp_avg")
    with pytest.raises(CheckpointError, match="optimiser.1.exp_avg is"):
        train(compose([f"resume={run}"]))
    change("learner.0.optimiser.99.exp_avg")
    with pytest.raises(CheckpointError, match="does not fit"):
        train(compose([f"resume={run}"]))


def test_our_own_configurations_have_no_references(run: Path) -> None:
    shared = [1, 2]
    RunFolder(run).write_config({"a": shared, "b": shared})
    assert RunFolder(run).read_config()["b"] == shared
    assert json.loads(json.dumps(RunFolder(run).read_config()["a"])) == shared
