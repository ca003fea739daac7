"""The Gymnasium environments present one task, until they are given another."""

import numpy as np

from envs.adapters.gymnasium import TaskEnv, VectorTaskEnv


def goals(env: VectorTaskEnv) -> np.ndarray:
    return env.environment.assigned["goal"].numpy().copy()


def test_an_environment_keeps_its_task_until_it_is_given_another() -> None:
    env = TaskEnv("reach")
    first = env.reset()[1]["task"]
    for _ in range(2):
        np.testing.assert_equal(env.reset()[1]["task"], first)
    seeded = env.reset(seed=0)[1]["task"]
    assert np.any(seeded["goal"] != first["goal"])
    env.step(env.action_space.sample())
    np.testing.assert_equal(env.reset()[1]["task"], seeded)


def test_every_episode_has_a_new_task_if_none_is_given_until_one_is_fixed() -> None:
    env = TaskEnv("reach")
    env.set_task(None)
    drawn = [env.reset(seed=0)[1]["task"]] + [env.reset()[1]["task"] for _ in range(2)]
    assert len({tuple(task["goal"]) for task in drawn}) == 3
    env.set_task(drawn[0])
    np.testing.assert_equal(env.get_task(), drawn[2])  # an episode keeps its task to its end
    for _ in range(2):
        np.testing.assert_equal(env.reset()[1]["task"], drawn[0])
    np.testing.assert_equal(env.reset(options={"task": drawn[1]})[1]["task"], drawn[1])
    np.testing.assert_equal(env.reset(seed=1)[1]["task"], drawn[1])
    np.testing.assert_equal(env.step(np.zeros(7))[4]["task"], drawn[1])
    env.set_task(None)
    assert np.any(env.reset()[1]["task"]["goal"] != drawn[1]["goal"])


def test_each_simulation_keeps_its_task_until_it_is_given_another() -> None:
    env = VectorTaskEnv("reach", 4, horizon=3)
    env.reset(seed=0)
    before = goals(env)
    assert len(np.unique(before, axis=0)) == 4
    for _ in range(4):  # an episode ends on the way
        env.step(env.action_space.sample())
    env.reset(options={"reset_mask": np.array([True, False, False, True])})
    np.testing.assert_array_equal(goals(env), before)
    env.reset(seed=1, options={"reset_mask": np.array([False, True, False, False])})
    np.testing.assert_array_equal((goals(env) == before).all(-1), [True, False, True, True])
    seeded = goals(env)[1]
    env.reset()
    np.testing.assert_array_equal((goals(env) == before).all(-1), [False] * 4)  # the seed was for all
    np.testing.assert_array_equal(goals(env)[1], seeded)
    env.set_task(None)
    before = goals(env)
    env.reset()
    assert not (goals(env) == before).all(-1).any()


def test_a_seed_repeats_what_a_trial_remembers_too() -> None:
    env = TaskEnv("navigate_search")

    def searched() -> float:
        env.reset(seed=3)
        return sum(env.step(np.array([1.0, 0.5], np.float32))[4]["reward_terms"]["search"] for _ in range(35))

    first = searched()
    assert first > 0.0 and searched() == first
