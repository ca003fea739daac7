"""Who is compared where: the families that need adapting, gradients alone, and rows that are called what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from experiments.compare.__main__ import read
from experiments.compare.comparison import Comparison
from experiments.compare.contenders import contenders, jobs_of, note
from experiments.compare.plan import Plan
from experiments.compare.report import table
from experiments.compare.training import compared
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """navigate_search with a recipe of three episodes."""
    sound = Plan.config

    def config(self: Plan, algo: str, *overrides: str) -> TrainSettings:
        recipe = ("algo.trial_episodes=3", "algo.gamma=0.98", "budget.iterations=100") if algo == "in_context" else ()
        return sound(self, algo, *recipe, *overrides)

    monkeypatch.setattr(Plan, "config", config)
    return Plan("navigate_search", Path("runs"), (0, 1))


def settings(plan: Plan, name: str) -> TrainSettings:
    return compose(jobs_of(plan, name, 0)[-1].start)


@pytest.mark.parametrize("name", ["memoryless", "reactive", "oracle"])
def test_those_without_memory_are_trained_as_in_context_is(search: Plan, name: str) -> None:
    ours, model = settings(search, name), search.config("in_context")
    wanted, found = model.algo.flat(), ours.algo.flat()
    assert {key for key in wanted if wanted[key] != found[key] and not key.startswith("inner.")} == {"name"}
    assert (ours.algo.trial_episodes, ours.algo.gamma, ours.budget.iterations) == (3, 0.98, 100)
    assert ours.evaluate.steps == 0
    assert getattr(ours.agent, "context", None) == ("step" if name == "memoryless" else "none")
    assert ours.env.goal_visible == (name == "oracle")


def test_memory_of_an_episode_meets_as_many_environment_steps(search: Plan) -> None:
    ours, model = settings(search, "in_context_episode"), search.config("in_context")
    assert (ours.algo.trial_episodes, getattr(ours.agent, "context", None)) == (1, "episode")
    assert ours.algo.tasks == 3 * model.algo.tasks and ours.budget == model.budget


def test_of_meta_world_a_task_is_compared() -> None:
    plan = read(["env=metaworld", "task=push", "seeds=0"]).plan
    ours = settings(plan, "in_context").env
    assert ours.task == "push" and ours.action_repeat == 5
    for name in ("memoryless", "reactive", "in_context_episode", "oracle"):
        assert settings(plan, name).env == ours.model_copy(update={"goal_visible": name == "oracle"}), name
    assert jobs_of(plan, "oracle", 0)[-1].folder == Path("runs/compare/metaworld_push/oracle-0")
    assert read(["env=metaworld"]).plan.name == "metaworld_reach"
    with pytest.raises(ConfigError, match=r"^task=push: only env=metaworld has tasks to choose from$"):
        read(["env=reach", "task=push"])


def test_where_nothing_is_beyond_success_at_any_step_stands_in_its_place() -> None:
    value = {"mean": 0.5, "ci95": [0.25, 0.75]}
    point = {"step": 0, "episodes": 0, "success": value, "time_to_success": value, "return": value}
    point |= {"success_any_step": {"mean": 0.875, "ci95": [0.75, 1.0]}}
    entry = {"seeds": [0], "env_steps": 1e6, "seconds": 60.0, "curves": {"test": [point, point | {"episodes": 1}]}}
    lines = table({"contenders": {"in_context": entry}}).splitlines()
    (place,) = (i for i, title in enumerate(lines[0].split(" | ")) if title == "success at any step, episode 2")
    assert lines[2].split(" | ")[place].startswith("0.875 [0.750, 1.000]")
    beyond = entry | {"curves": {**entry["curves"], "ood": [point, point]}}
    assert "success, ood, episode 2" in table({"contenders": {"in_context": beyond}})


def test_fine_tuning_begins_from_the_run_in_context(search: Plan) -> None:
    first, copy = jobs_of(search, "in_context+ppo", 1)
    assert first == jobs_of(search, "in_context", 1)[0]
    assert copy.copy_of == first.folder and copy.folder == Path("runs/navigate_search/in_context+ppo-1")
    assert copy.budget == first.budget  # nothing more is learned
    assert contenders(search)["in_context+ppo"].tuned == "ppo"


def test_rows_are_called_what_they_are() -> None:
    reach, alone = (Plan(env, Path("runs"), (0,)) for env in ("reach", "reach_squared"))
    assert {"in_context+maml", "in_context+fomaml", "in_context+reptile"} < set(contenders(reach))
    assert "maml" not in contenders(reach) and "maml_mlp" not in contenders(reach)
    assert {"maml", "maml_mlp", "fomaml", "reptile"} < set(contenders(alone))
    assert settings(alone, "maml").algo.label() == "maml"
    assert note("in_context+maml") == note("maml") != ""
    mlp = settings(alone, "maml_mlp")
    assert mlp.agent.name == "mlp" and not mlp.agent.remembers()
    wanted = {key: value for key, value in settings(alone, "maml").flat().items() if not key.startswith("agent.")}
    found = mlp.flat()
    assert {key for key in wanted if wanted[key] != found.get(key)} == {"run_dir"}


def test_a_run_to_begin_from_is_in_the_label() -> None:
    algo = compose(["env=reach", "algo=reptile", "algo.warm_start.run=x"]).algo
    assert algo.label() == "in_context+reptile"
    origin = {"algo": "multitask", "iteration": 3}
    begun = algo.model_copy(update={"warm_start": algo.warm_start.model_copy(update={"origin": origin})})
    assert begun.label() == "multitask+reptile"


def test_a_small_setting_that_a_policy_lacks_is_left_out() -> None:
    plan = Plan("reach_squared", Path("runs"), (0,), ("agent.width=8", "algo.tasks=2"), 1)
    (job,) = jobs_of(plan, "maml_mlp", 0)
    assert "algo.tasks=2" in job.settings and "agent.width=8" not in job.settings
    assert job.budget == "budget.iterations=2"


def test_results_on_another_edition_of_the_lists_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison(Plan("reach_squared", Path("runs"), (0,)), Console(quiet=True), False, "compare")
    names = set()
    for edition in (0, 1, 2):
        monkeypatch.setattr("experiments.compare.comparison._edition", lambda env, number=edition: number)
        names.add(comparison.settings("maml", 0))
    assert len(names) == 3
    monkeypatch.undo()
    assert comparison.settings("maml", 0) in names


def test_settings_that_are_new_do_not_make_old_results_others(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison(Plan("reach", Path("runs"), (0,)), Console(quiet=True), False, "compare")
    today = comparison.settings("in_context", 0)
    monkeypatch.setattr("experiments.compare.training.ADDED", {})
    assert comparison.settings("in_context", 0) != today


def test_a_run_from_before_a_setting_was_there_is_the_same() -> None:
    now = compose(["env=reach", "algo=in_context"])
    before = now.model_copy(update={"env": now.env.model_copy(update={"action_repeat": None})})
    assert "env.action_repeat" in now.flat() and "env.action_repeat" not in before.flat()
    assert compared(before) == compared(now)
    assert compared(compose(["env=reach", "algo=in_context", "env.action_repeat=2"])) != compared(now)
