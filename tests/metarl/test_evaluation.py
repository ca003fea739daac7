"""An evaluation that cannot fool its user: it changes nothing, sees no training task, and states its protocol."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import metarl
from envs.registry import make, names
from metarl.assembly.build import STREAMS, stream_seed
from metarl.assembly.opened import Run, open_run
from metarl.config.composition import compose
from metarl.errors import ConfigError
from metarl.evaluation.curve import adaptation_rounds
from metarl.run_folder import RunFolder
from metarl.runs import evaluate, train
from metarl.training.trainer import Trainer

CPU = torch.device("cpu")
POINT = ["env=point2d", "env.horizon=5", "algo.tasks=4", "algo.episodes=2", "algo.outer.minibatches=1"]
EVALUATION = ["evaluate.tasks=3", "evaluate.episodes_per_step=2", "evaluate.steps=2", "report=page"]


def measure(run: Run, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "console": Console(quiet=True),
        "split": "test",
        "tasks": 3,
        "steps": 2,
        "episodes": 2,
        "seed": 0,
        "deterministic": False,
        "threads": 1,
    }
    return evaluate(run, **(options | changes))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of point2d whose trials have two episodes."""
    path = tmp_path_factory.mktemp("runs") / "trials"
    options = ["algo=in_context", "algo.trial_episodes=2", "agent.width=4", "agent.heads=1", "recipe=none"]
    yield train(compose([*POINT, *EVALUATION, *options, "budget.iterations=2", f"run_dir={path}"]))


@pytest.mark.parametrize("algo", ["maml", "fomaml", "reptile", "in_context", "multitask"])
def test_evaluating_leaves_every_number_of_training_as_it_was(algo: str) -> None:
    options = [POINT[:-1] if algo == "reptile" else POINT][0]
    trainer = Trainer(compose([*options, f"algo={algo}", "recipe=none"]), CPU)
    trainer.iterate()
    tensors, numbers = copy.deepcopy(trainer.state())
    assert any(name.startswith("policy.normaliser") for name in tensors)
    env = make("point2d", 6, horizon=5)
    tasks = trainer.distribution.published("test", 3)
    for deterministic in (False, True):
        adaptation_rounds(env, trainer.policy, trainer.learner, tasks, 2, torch.Generator(), deterministic)
    after, other_numbers = trainer.state()
    assert numbers == other_numbers and list(after) == list(tensors)
    for name, value in after.items():
        assert torch.equal(value, tensors[name]), name


def test_an_evaluation_writes_into_its_own_folder_alone(run_folder: Path) -> None:
    def digests() -> dict[str, str]:
        files = [path for path in run_folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(run_folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = digests()
    measure(open_run(run_folder, "cpu"), split="ood", seed=9)
    after = digests()
    assert {name: after[name] for name in before} == before
    assert sorted(Path(name).name for name in after.keys() - before.keys()) == ["ood.csv", "ood.json", "ood.png"]
    assert any(name.startswith("checkpoints") for name in before)


def test_an_evaluation_repeats_itself_whatever_was_drawn_before(run_folder: Path) -> None:
    first = measure(open_run(run_folder, "cpu"))
    torch.manual_seed(99)
    run = open_run(run_folder, "cpu")
    run.environment(4, 0, 1).distribution.sample(7)
    assert measure(run) == first
    assert measure(run, seed=1)["curve"] != first["curve"]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("split", ["test", "ood", "validation"])
def test_no_published_task_is_ever_drawn_in_training(name: str, split: str) -> None:
    distribution = make(name, 1, threads=1).distribution
    published, drawn = distribution.published(split, 100), distribution.sample(2000)
    assert set(distribution.split_of(published)) == {split} and set(distribution.split_of(drawn)) == {"train"}

    def rows(tasks: Any) -> torch.Tensor:
        return torch.cat([tasks[key] for key in sorted(distribution.parameters)], -1)

    assert bool((torch.cdist(rows(published).double(), rows(drawn).double()) > 0).all())


def test_no_random_stream_of_an_evaluation_is_one_of_training() -> None:
    """Also where an evaluation's seed is not the run's: 0 to 99 for both."""
    training = {stream_seed(seed, stream) for seed in range(100) for stream in STREAMS if stream != "evaluation"}
    assert len(training) == 100 * (len(STREAMS) - 1)
    evaluation = {stream_seed(seed, "evaluation") + more for seed in range(100) for more in (0, 1)}
    assert len(evaluation) == 200
    assert not training & evaluation
    # What the seeds of the streams give differs too.
    first = [torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in sorted(training | evaluation)]
    assert len(torch.stack(first).unique(dim=0)) == len(first)


def test_an_evaluation_uses_the_streams_that_are_its_own(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(env: Any, policy: Any, learner: Any, tasks: Any, steps: int, generator: torch.Generator, *rest: Any) -> Any:
        seen.extend([env.generator.initial_seed(), generator.initial_seed()])
        return adaptation_rounds(env, policy, learner, tasks, steps, generator, *rest)

    monkeypatch.setattr("metarl.runs.adaptation_rounds", spy)
    measure(open_run(run_folder, "cpu"), seed=4)
    assert seen == [stream_seed(4, "evaluation"), stream_seed(4, "evaluation") + 1]


def test_the_json_states_the_protocol(run_folder: Path) -> None:
    measure(open_run(run_folder, "cpu"))
    result = json.loads((run_folder / "evaluation" / "test.json").read_text())
    expected = {
        "env": "point2d",
        "algo": "in_context",
        "split": "test",
        "tasks": 3,
        "episodes_per_step": 2,
        "trial_episodes": 2,
        "horizon": 5,
        "actions": "sampled",
        "seed": 0,
        "deterministic": False,
        "iteration": 2,
        "training_env_steps": 2 * 4 * 2 * 2 * 5,
        "physics_failures": 0,
        "first_physics_failure": None,
    }
    assert {key: result[key] for key in expected} == expected
    assert result["success_criterion"] == make("point2d", 1).success_criterion
    assert "95%" in result["confidence_interval"] and "over tasks" in result["confidence_interval"]
    assert result["versions"]["metarl"] == metarl.__version__
    made_by = RunFolder.open(run_folder).read_config()
    assert (result["git_commit"], result["git_dirty"]) == (made_by["git_commit"], made_by["git_dirty"])


def test_the_curve_counts_the_environment_steps_that_a_task_has_cost(run_folder: Path) -> None:
    result = measure(open_run(run_folder, "cpu"))
    # Two gradient steps on 2 sequences of 2 episodes of 5 steps each; each trial's second episode has seen its first.
    assert [entry["step"] for entry in result["curve"]] == [0, 0, 1, 1, 2, 2]
    assert [entry["episodes"] for entry in result["curve"]] == [0, 1, 4, 5, 8, 9]
    assert [entry["env_steps"] for entry in result["curve"]] == [0, 5, 20, 25, 40, 45]
    assert result["environment_steps"] == 3 * 3 * 2 * 2 * 5
    with open(run_folder / "evaluation" / "test.csv", newline="") as file:
        assert [row["env_steps"] for row in csv.DictReader(file)] == ["0", "5", "20", "25", "40", "45"]


def test_a_trial_may_be_longer_than_in_training(run_folder: Path) -> None:
    result = measure(open_run(run_folder, "cpu"), steps=0, trial_episodes=5)
    assert result["trial_episodes"] == 5
    assert [entry["episode"] for entry in result["curve"]] == [1, 2, 3, 4, 5]
    assert [entry["env_steps"] for entry in result["curve"]] == [0, 5, 10, 15, 20]
    with pytest.raises(ConfigError, match="trained on trials of 2; add steps=0"):
        measure(open_run(run_folder, "cpu"), steps=1, trial_episodes=5)


def test_ood_is_told_by_moved_parameter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["env=reach", "env.horizon=4", "algo=in_context", "algo.trial_episodes=2", "recipe=none", "algo.tasks=2"]
    options += ["agent.width=4", "agent.heads=1", "algo.episodes=1", "algo.outer.minibatches=1"]
    path = train(compose([*options, *EVALUATION, "budget.iterations=1", f"run_dir={tmp_path / 'reach'}"]))
    assert "by_moved" not in RunFolder(path).read_evaluation("test")
    capsys.readouterr()
    run = open_run(path, "cpu")
    result = measure(run, split="ood", tasks=12, steps=1, console=Console(soft_wrap=True))
    assert RunFolder(path).read_evaluation("ood")["by_moved"] == result["by_moved"]
    tasks = run.held_out("ood", 12)
    beyond = {"payload_mass": tasks["payload_mass"][:, 0] > 1.5, "damping_scale": tasks["damping_scale"][:, 0] > 2.0}
    assert result["by_moved"].keys() == {"goal", *beyond}
    for name, moved in beyond.items():
        part = result["by_moved"][name]
        assert part["tasks"] == int(moved.sum()) and 0 < part["tasks"] < 12
        steps = [{key: entry[key] for key in ("step", "episodes", "env_steps")} for entry in part["curve"]]
        assert steps == [{key: entry[key] for key in steps[0]} for entry in result["curve"]] and len(steps) == 4
        for position, entry in enumerate(part["curve"]):
            own = torch.tensor([task["return"][position] for task in result["per_task"]])[moved]
            assert entry["return"]["mean"] == pytest.approx(own.mean().item())
            assert entry["return"]["ci95"][0] <= entry["return"]["mean"] <= entry["return"]["ci95"][1]
    printed = capsys.readouterr().out
    rows = printed.partition("beyond its training values\n")[2].splitlines()[1:4]
    assert [row.split()[:2] for row in rows] == [[n, str(p["tasks"])] for n, p in result["by_moved"].items()]


def test_mean_actions_count_the_exploring_episodes_that_they_adapt_to(run_folder: Path) -> None:
    result = measure(open_run(run_folder, "cpu"), deterministic=True)
    assert result["actions"] == "mean"
    assert result["environment_steps"] == (3 + 2) * 3 * 2 * 2 * 5
    # The adaptation data are as much as without.
    assert [entry["env_steps"] for entry in result["curve"]] == [0, 5, 20, 25, 40, 45]


@pytest.mark.parametrize("said", [False, True])
def test_if_nothing_is_said_actions_are_those_of_the_configuration(run_folder: Path, said: bool) -> None:
    run = open_run(run_folder, "cpu")
    evaluate = run.settings.evaluate.model_copy(update={"deterministic": said})
    run = replace(run, settings=run.settings.model_copy(update={"evaluate": evaluate}))
    assert measure(run, deterministic=None)["actions"] == ("mean" if said else "sampled")
    assert compose([f"run={run_folder}"], "evaluate").deterministic is None


@pytest.mark.parametrize("deterministic", [False, True])
def test_failed_episodes_are_counted_named_and_no_success(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], deterministic: bool
) -> None:
    run = open_run(run_folder, "cpu")
    kind, calls = type(run.environment(1, 0, 1)), 0
    step = kind.step

    def fail(self: Any, action: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        # Of the second rollout of two episodes; with mean actions that is the first one to adapt to.
        return step(self, action.index_fill(0, torch.tensor([3]), torch.nan) if calls == 13 else action)

    monkeypatch.setattr(kind, "step", fail)
    result = measure(run, console=Console(soft_wrap=True), deterministic=deterministic)
    assert result["physics_failures"] == 1
    task = result["per_task"][1]["task"]
    first = f"point2d: an episode failed in simulation 3, task 1 {task}, episode 0, control step 2"
    assert result["first_physics_failure"] == first
    assert f"warning: 1 episodes failed; their returns end there. The first: {first}" in capsys.readouterr().out
