"""`algo.warm_start.run`: a run that begins from another run's policy, tells so, and needs it no more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import ConfigError
from metarl.run_folder import RunFolder
from metarl.runs import train

SIZE = ["env=reach", "env.horizon=6", "agent.width=8", "agent.layers=1", "threads=1", "device=cpu"]
EVALUATION = ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "report=page"]
IN_CONTEXT = ["algo=in_context", "algo.tasks=4", "algo.outer.epochs=1"]
SMALL = {
    "maml": ["algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1"],
    "fomaml": ["algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1"],
    "reptile": ["algo.tasks=2", "algo.episodes=2", "algo.inner.steps=1"],
}


def trained(folder: Path, *overrides: str) -> Path:
    return train(compose([*SIZE, *EVALUATION, f"run_dir={folder}", *overrides]))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations in context: 2 x 4 tasks x 6 steps."""
    return trained(tmp_path_factory.mktemp("warm") / "run", *IN_CONTEXT, "budget.iterations=2", "seed=3")


def policy_of(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    tensors = RunFolder(folder).load_checkpoint(iteration).tensors
    return {name: value for name, value in tensors.items() if name.startswith("policy.")}


@pytest.mark.parametrize("algo", SMALL)
def test_it_begins_from_the_policy_and_goes_on_without_the_other_run(algo: str, warm: Path, tmp_path: Path) -> None:
    source, ours = tmp_path / "source", tmp_path / "ours"
    shutil.copytree(warm, source)
    # The recipe of reach trains 250 iterations in context first: a run to begin from takes their place.
    trained(
        ours, f"algo={algo}", *SMALL[algo], f"algo.warm_start.run={source}", "budget.iterations=1", "checkpoint.keep=9"
    )
    shutil.rmtree(source)
    start, end = policy_of(ours, 0), policy_of(warm, 2)
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) for name in end)
    assert float(start["policy.normaliser.count"]) == 48.0
    first = RunFolder(ours).load_checkpoint(0)
    assert (first.state["iteration"], first.state["env_steps"]) == (0, 48)
    train(compose([f"resume={ours}", "budget.iterations=2"]))
    rows = RunFolder(ours).read_metrics()
    assert [row["iteration"] for row in rows] == [1.0, 2.0]
    assert [row["env_steps"] for row in rows] == [48.0 + 48.0, 48.0 + 96.0]  # two rounds of 2 x 2 episodes
    stored = RunFolder(ours).read_config()["algo"]["warm_start"]
    origin = {name: stored["origin"][name] for name in ("env", "algo", "seed", "iteration", "env_steps")}
    assert origin == {"env": "reach", "algo": "in_context", "seed": 3, "iteration": 2, "env_steps": 48}
    assert (stored["run"], stored["iterations"]) == (str(source), 0)
    assert stored["origin"]["seconds"] > 0
    assert open_run(ours).iteration == 2


def test_a_longer_memory_is_kept(tmp_path: Path) -> None:
    """The policy remembers trials of two episodes; MAML on it shows it single ones."""
    source = trained(tmp_path / "source", *IN_CONTEXT, "algo.trial_episodes=2", "budget.iterations=1")
    settings = ["algo=maml", *SMALL["maml"], f"algo.warm_start.run={source}", "budget.iterations=1"]
    ours = trained(tmp_path / "ours", *settings, "algo.warm_start.settings.trial_episodes=2")
    assert open_run(ours).policy.max_length == open_run(source).policy.max_length == 12


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["agent.width=16"], "its policy has agent.width=8, not 16"),
        (["agent.context=none"], "its policy has agent.context=episode, not none"),
        (["agent=mlp", "agent.hidden=[8]"], "its policy has agent.name=transformer, not mlp"),
        (["env=grasp"], "its policy is for 24 numbers of observation and 7 of action, this environment"),
        (["env.goal_visible=true"], "its policy is for 24 numbers of observation and 7 of action, this environment"),
        (["env.horizon=7"], "its policy does not fit this configuration"),
    ],
)
def test_a_policy_that_does_not_fit_is_one_line(overrides: list[str], text: str, warm: Path, tmp_path: Path) -> None:
    without = [entry for entry in SIZE if not (overrides[0] == "agent=mlp" and entry.startswith("agent"))]
    settings = [*without, "algo=maml", *SMALL["maml"], *overrides, f"run_dir={tmp_path / 'ours'}"]
    with pytest.raises(ConfigError) as caught:
        train(compose([*settings, f"algo.warm_start.run={warm}"]))
    message = str(caught.value)
    assert message.startswith(f"algo.warm_start.run={warm}: ") and text in message and "\n" not in message
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, text in (("nowhere", "there is no run at"), ("empty", "is not a run of metarl")):
        with pytest.raises(ConfigError, match=f"algo.warm_start.run=.*{text}"):
            train(compose([*SIZE, "algo=maml", f"algo.warm_start.run={tmp_path / name}"]))


def test_a_given_run_wins_over_the_recipe_and_not_over_the_command_line() -> None:
    run = "algo.warm_start.run=runs/x"
    assert compose(["env=reach", "algo=maml"]).algo.warm_start.iterations == 250
    assert compose(["env=reach", "algo=maml", run]).algo.warm_start.iterations == 0
    compose(["env=reach", "algo=maml", run, "algo.warm_start.iterations=0"])
    with pytest.raises(ConfigError, match=r"^algo.warm_start.iterations=5: algo.warm_start.run takes its place"):
        compose(["env=reach", "algo=maml", run, "algo.warm_start.iterations=5"])
    with pytest.raises(ConfigError, match="algo.warm_start.run=runs/x: unknown key"):
        compose(["env=reach", "algo=in_context", run])


@pytest.mark.parametrize("algo", ["maml", "fomaml"])
def test_a_recipes_warm_start_keeps_its_share_of_a_shorter_budget(algo: str) -> None:
    """The recipe: 250 of 350 iterations. A number that is asked for is obeyed, and a longer budget changes nothing."""

    def warm(*overrides: str) -> int:
        return compose(["env=reach", f"algo={algo}", *overrides]).algo.warm_start.iterations

    expected = {1: 0, 2: 1, 7: 5, 60: 42, 250: 178, 349: 249, 350: 250, 1000: 250}
    assert {budget: warm(f"budget.iterations={budget}") for budget in expected} == expected
    assert warm("budget.iterations=60", "algo.warm_start.iterations=250") == 250
    assert warm("budget.iterations=60", "algo.warm_start.iterations=0") == 0
    assert warm("budget.iterations=60", "algo.warm_start={iterations: 100}") == 100
    assert warm("budget.env_steps=1000") == 250
    assert warm("budget.iterations=60", "recipe=none") == 0
    assert warm("budget.iterations=19", "recipe=grasp-maml") == 15


@pytest.mark.parametrize("budget", ["budget.iterations=2", "budget.env_steps=96", "budget.minutes=1e-6"])
def test_a_budget_that_ends_in_the_warm_start_is_told(
    budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the training where that can be known, and after it."""
    given = ["algo=maml", *SMALL["maml"], "algo.warm_start.iterations=2", "algo.warm_start.settings.tasks=8"]
    trained(tmp_path / "run", *given, budget)
    text = capsys.readouterr().out
    before, _, after = text.partition("trained ")
    assert "in_context up to iteration 2, then maml\n" in before
    assert ("warning: the budget ends before maml begins" in before) == ("minutes" not in budget)
    assert "warning: the budget ended before maml began; continue with" in after
    train(compose([f"resume={tmp_path / 'run'}", "budget.env_steps=144"]))
    assert "warning" not in capsys.readouterr().out


def test_a_budget_that_the_other_run_has_used_is_refused(warm: Path, tmp_path: Path) -> None:
    given = [*SIZE, "algo=maml", *SMALL["maml"], f"algo.warm_start.run={warm}", f"run_dir={tmp_path / 'ours'}"]
    with pytest.raises(ConfigError, match="^the budget leaves nothing to train: 48 environment steps"):
        train(compose([*given, "budget.iterations=null", "budget.env_steps=48"]))
    assert not (tmp_path / "ours").exists()
