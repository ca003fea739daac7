"""`gymnasium.make_vec`: the batched engine as a vector environment."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from envs.adapters.gymnasium import TaskEnv, VectorTaskEnv
from envs.core.environment import MujocoEnvironment
from envs.core.tasks import SPLITS
from envs.errors import EnvsError, TaskError

IDS = sorted(spec for spec in gymnasium.registry if spec.startswith("metarl/"))
REACH, POINT = "metarl/Reach-v0", "metarl/Point2d-v0"
pytestmark = pytest.mark.filterwarnings("error")


def batched(name: str, count: int, **options: Any) -> VectorTaskEnv:
    env = gymnasium.make_vec(name, num_envs=count, **options)
    assert isinstance(env, VectorTaskEnv)
    return env


def goals(env: VectorTaskEnv) -> np.ndarray:
    return env.environment.assigned["goal"].numpy().copy()


def test_make_vec_uses_the_batched_engine() -> None:
    env = batched(REACH, 6)
    assert env.num_envs == env.environment.num_simulations == 6
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (6, 24)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert info["task"]["goal"].shape == (6, 3)
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_batched_equals_gymnasium_s_own_vector(name: str) -> None:
    """Under fixed tasks, horizon and all: compared with `SyncVectorEnv` in the same autoreset mode."""
    mode = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    serial: VectorEnv[Any, Any, Any] = gymnasium.make_vec(name, num_envs=3, horizon=8, **mode)
    many = batched(name, 3, horizon=8)
    tasks = many.sample_tasks(3)
    many.set_tasks(tasks)
    for env, task in zip(serial.envs, tasks, strict=True):  # type: ignore[attr-defined]
        env.unwrapped.set_task(task)
        env.unwrapped.environment.noise = no_noise
    many.environment.noise = no_noise  # type: ignore[method-assign]
    many.reset(seed=0)
    if isinstance(many.environment, MujocoEnvironment):
        start = many.environment.initial_state()
        many.environment.initial_state = lambda: start  # type: ignore[method-assign]
        for i, env in enumerate(serial.envs):  # type: ignore[attr-defined]
            own = {key: value[i : i + 1] for key, value in start.items()}
            env.unwrapped.environment.initial_state = lambda own=own: own
    (one, _), (two, _) = serial.reset(seed=0), many.reset(seed=0)
    np.testing.assert_array_equal(one, two)
    generator = np.random.default_rng(0)
    for _ in range(20):
        action = generator.uniform(-1, 1, many.action_space.shape).astype(np.float32)  # type: ignore[arg-type]
        *one, left = serial.step(action)
        *two, right = many.step(action)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        np.testing.assert_equal(right["task"], left["task"])
        assert ("final_obs" in left) == ("final_obs" in right)
        if "final_obs" in left:
            np.testing.assert_array_equal(np.stack(left["final_obs"]), np.stack(right["final_obs"]))
            np.testing.assert_array_equal(left["_final_obs"], right["_final_obs"])
            np.testing.assert_equal(right["final_info"], left["final_info"])


def no_noise(*size: int, dim: int = 0) -> torch.Tensor:
    return torch.zeros(*size)


def test_a_finished_simulation_alone_begins_anew() -> None:
    env = batched(POINT, 3)
    env.set_tasks([{"goal": [0.4, 0.4]}, {"goal": [0.1, 0.1]}, {"goal": [-0.4, 0.4]}])
    env.reset(seed=0)
    env.set_task(None)
    before = goals(env)
    observation, reward, terminated, truncated, info = env.step(np.ones((3, 2)))
    np.testing.assert_array_equal(terminated, [False, True, False])
    assert not truncated.any()
    np.testing.assert_allclose(observation, [[0.1, 0.1], [0, 0], [0.1, 0.1]], atol=1e-7)
    np.testing.assert_allclose(reward, [-0.18, 0.0, -0.34], atol=1e-6)
    np.testing.assert_array_equal((goals(env) == before).all(-1), [True, False, True])
    np.testing.assert_array_equal(info["success"], [False, True, False])
    np.testing.assert_array_equal(info["task"]["goal"], goals(env))
    np.testing.assert_array_equal(info["_final_obs"], [False, True, False])
    assert info["final_obs"][0] is None
    np.testing.assert_allclose(info["final_obs"][1], [0.1, 0.1], atol=1e-7)
    np.testing.assert_array_equal(info["final_info"]["task"]["goal"], before)
    np.testing.assert_array_equal(info["final_info"]["_success"], [False, True, False])


def test_each_simulation_has_its_own_horizon() -> None:
    env = batched(REACH, 2, horizon=4)
    env.reset(seed=0)
    ends: list[list[bool]] = []
    for step in range(6):
        if step == 2:
            env.reset(options={"reset_mask": np.array([False, True])})
        ends.append(env.step(env.action_space.sample())[3].tolist())
    assert ends == [[False, False]] * 3 + [[True, False], [False, False], [False, True]]


def test_a_masked_reset_leaves_the_others_alone() -> None:
    plain, masked = batched(REACH, 4), batched(REACH, 4)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4, 7))
    for env in (plain, masked):
        env.set_task(None)
        env.reset(seed=0)
        env.step(actions[0])
    before = goals(masked)
    observation, info = masked.reset(options={"reset_mask": np.array([False, True, False, True])})
    np.testing.assert_array_equal((goals(masked) == before).all(-1), [True, False, True, False])
    np.testing.assert_array_equal(info["_task"], [False, True, False, True])
    np.testing.assert_array_equal(observation[1, 7:14], np.zeros(7))
    assert np.any(observation[0, 7:14] != 0)
    for action in actions[1:]:
        one, two = plain.step(action), masked.step(action)
        for a, b in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])
        assert np.any(one[0][1] != two[0][1])


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.ones(2), [True, True]], ids=["length", "type", "list"])
def test_a_wrong_mask_is_refused(mask: object) -> None:
    env = batched(POINT, 2)
    env.reset(seed=0)
    with pytest.raises(EnvsError, match=r"reset_mask'\] must be a bool array of shape \(2,\)"):
        env.reset(options={"reset_mask": mask})


def test_tasks_that_do_not_divide_the_simulations_are_refused() -> None:
    env = batched(POINT, 4)
    with pytest.raises(TaskError, match="3 tasks do not divide 4 simulations"):
        env.set_tasks(env.sample_tasks(3))


def test_one_task_for_all_simulations_and_tasks_for_groups() -> None:
    env = batched(POINT, 4)
    env.set_task({"goal": [0.25, -0.25]})
    env.reset(seed=0)
    np.testing.assert_array_equal(goals(env), [[0.25, -0.25]] * 4)
    env.set_tasks([{"goal": [0.25, 0.0]}, {"goal": [0.0, 0.25]}])
    env.reset(seed=0)
    np.testing.assert_array_equal(goals(env), [[0.25, 0.0]] * 2 + [[0.0, 0.25]] * 2)


def test_the_batch_repeats_under_a_seed() -> None:
    one, two = batched(REACH, 3, horizon=4), batched(REACH, 3, horizon=4, threads=2)
    two.reset(seed=9)
    for env in (one, two):
        env.reset(seed=1)
        env.action_space.seed(0)
    for _ in range(10):
        *first, info = one.step(one.action_space.sample())
        *second, other = two.step(two.action_space.sample())
        np.testing.assert_equal(first, second)
        np.testing.assert_equal(info["task"], other["task"])


def test_gymnasium_s_statistics_wrapper_counts_episodes() -> None:
    env = RecordEpisodeStatistics(batched(REACH, 2, horizon=3))
    env.reset(seed=0)
    earned = np.zeros(2)
    for _ in range(3):
        _, reward, *_, info = env.step(env.action_space.sample())
        earned += reward
    np.testing.assert_array_equal(info["episode"]["l"], [3, 3])
    np.testing.assert_allclose(info["episode"]["r"], earned, rtol=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_come_from_the_split(split: str) -> None:
    env = gymnasium.make(REACH, split=split).unwrapped
    assert isinstance(env, TaskEnv)
    tasks = env.sample_tasks(20)
    env.reset(seed=0)
    env.episodes.fix(tasks[:1])
    many = batched(REACH, 20, split=split)
    many.reset(seed=0)
    assert many.environment.tasks is not None
    assert many.environment.distribution.split_of(many.environment.tasks) == [split] * 20
    many.set_tasks(tasks)
    many.reset()
    assert many.environment.distribution.split_of(many.environment.tasks) == [split] * 20
    np.testing.assert_array_equal(goals(many), [task["goal"] for task in tasks])


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing of this prints anything."""
    yield
    assert capfd.readouterr() == ("", "")
