"""What an environment prefers of settings that are not its own."""

from __future__ import annotations

import pytest

from envs.errors import PackageError
from envs.registry import make
from metarl.config.algorithms import ALGORITHMS
from metarl.config.composition import compose
from metarl.config.settings import EvaluationSettings


def test_a_family_may_prefer_an_algorithm() -> None:
    assert compose(["env=reach_search"]).algo.name == "in_context"
    assert compose(["env=reach_search"]).algo.trial_episodes == 3  # from the recipe of the pair
    assert compose(["env=reach_search", "algo=maml"]).algo.name == "maml"
    assert compose(["env=reach"]).algo.name == "maml"


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_family_may_say_how_many_tasks_are_measured(algo: str) -> None:
    metaworld = ["env=metaworld", f"algo={algo}"]
    assert compose(metaworld).evaluate.tasks == 50
    assert compose([*metaworld, "evaluate.tasks=7"]).evaluate.tasks == 7
    bare = compose([*metaworld, "recipe=none"]).evaluate
    assert bare == EvaluationSettings(tasks=50), "the rest is what it is elsewhere"


@pytest.mark.parametrize("benchmark", ["ML1", "ML10"])
def test_the_tasks_that_meta_world_measures_are_there(benchmark: str) -> None:
    evaluate = compose(["env=metaworld", f"env.benchmark={benchmark}"]).evaluate
    try:
        env = make("metaworld", 1, benchmark=benchmark, threads=1)
    except PackageError as error:
        pytest.skip(str(error))
    assert len(env.distribution.published(evaluate.split, evaluate.tasks)) == evaluate.tasks
