"""The Gymnasium environments: Gymnasium's and Stable-Baselines3's own checkers, tasks, seeds, the batched engine."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import envs
from envs import registry
from envs.adapters.gymnasium import TaskEnv, VectorTaskEnv
from envs.core.environment import MujocoEnvironment
from envs.core.tasks import SPLITS
from envs.errors import EnvsError, TaskError
from tests.envs.families import oracle

ROOT = Path(__file__).resolve().parents[2]
IDS = sorted(spec for spec in gymnasium.registry if spec.startswith("metarl/"))
REACH, POINT = "metarl/Reach-v0", "metarl/Point2d-v0"
pytestmark = pytest.mark.filterwarnings("error")


def single(name: str, **options: Any) -> TaskEnv:
    """`gymnasium.make` without the wrappers."""
    env = gymnasium.make(name, **options).unwrapped
    assert isinstance(env, TaskEnv)
    return env


def batched(name: str, count: int, **options: Any) -> VectorTaskEnv:
    env = gymnasium.make_vec(name, num_envs=count, **options)
    assert isinstance(env, VectorTaskEnv)
    return env


def play(env: TaskEnv, steps: int) -> np.ndarray:
    """Observations and rewards (steps, D + 1) of fixed actions."""
    generator = np.random.default_rng(1)
    rows = []
    for _ in range(steps):
        observation, reward, *_ = env.step(generator.uniform(-1, 1, env.action_space.shape))
        rows.append([*observation, reward])
    return np.array(rows)


def goals(env: VectorTaskEnv) -> np.ndarray:
    return env.environment.assigned["goal"].numpy().copy()


def test_every_environment_is_registered() -> None:
    assert {gymnasium.spec(name).kwargs["name"] for name in IDS} == set(registry.names())
    assert envs.__doc__


def test_registering_is_light_and_make_needs_no_import() -> None:
    code = (
        "import sys, gymnasium; gymnasium.spec('metarl/Reach-v0') if 'envs' in sys.modules else None\n"
        "import envs; assert not {'torch', 'mujoco', 'stable_baselines3'} & set(sys.modules)\n"
        "env = gymnasium.make('envs:metarl/Point2d-v0'); print(env.reset(seed=0)[0])"
    )
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "[0. 0.]\n"


NAMES = {gymnasium.spec(name).kwargs["name"]: name for name in IDS}
ORACLES = [(NAMES[name], options) for name in registry.names() if (options := oracle(name))]


@pytest.mark.parametrize(("name", "options"), [(name, {}) for name in IDS] + ORACLES)
def test_the_checkers_of_gymnasium_and_sb3_have_no_complaint(name: str, options: dict[str, Any]) -> None:
    env = single(name, **options)
    # A window needs a display, which a test machine lacks: only pictures are drawn.
    env.metadata = {**env.metadata, "render_modes": ["rgb_array"]}
    check_env(env)
    check_env_for_sb3(env)


@pytest.mark.parametrize("name", IDS)
def test_pictures_show_what_happens(name: str) -> None:
    env = single(name, render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    before = env_render_passive_checker(env)
    play(env, 3)
    after = env.render()
    assert isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    assert before.shape == after.shape == (48, 64, 3)
    assert np.any(before != after)
    env.close()
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_a_picture_shows_its_own_episode_alone(name: str) -> None:
    options = {"render_mode": "rgb_array", "width": 64, "height": 48}
    used, fresh = single(name, **options), single(name, **options)
    tasks = used.sample_tasks(2)
    used.reset(seed=0, options={"task": tasks[0]})
    play(used, 3)
    other = used.render()
    for env in (used, fresh):
        env.reset(seed=1, options={"task": tasks[1]})
    np.testing.assert_array_equal(used.render(), fresh.render())
    assert np.any(used.render() != other)


def test_a_window_without_a_display_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    glfw = pytest.importorskip("glfw")
    monkeypatch.setattr(glfw, "init", lambda: False)
    with pytest.raises(EnvsError, match=r"^render_mode='human' needs a display \(.*\): use render_mode='rgb_array'$"):
        single(REACH, render_mode="human", width=64, height=48)


@pytest.mark.parametrize("count", [1, 4, 5, 20])
def test_a_window_shows_the_first_simulations(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    shown: list[np.ndarray] = []

    class Fake:
        def __init__(self, width: int, height: int, title: str) -> None:
            sizes.append((width, height))

        def show(self, picture: np.ndarray, period: float) -> None:
            shown.append(picture)

        def close(self) -> None:
            shown.append(np.zeros(0))

    monkeypatch.setattr("envs.adapters.pictures.Window", Fake)
    env = gymnasium.make_vec(POINT, num_envs=count, render_mode="human", width=20, height=16)
    columns, rows = {1: (1, 1), 4: (2, 2), 5: (3, 2), 20: (3, 3)}[count]
    assert sizes == [(20 * columns, 16 * rows)]
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.render() is None
    env.close()
    assert [picture.shape for picture in shown] == [(16 * rows, 20 * columns, 3)] * 3 + [(0,)]
    assert (shown[0] != shown[1]).any()


@pytest.mark.parametrize("name", IDS)
def test_a_seed_repeats_tasks_states_and_steps(name: str) -> None:
    one, two = single(name), single(name)
    two.reset(seed=5)  # another past, the same seed afterwards
    play(two, 4)
    for episode in range(2):
        seed = 3 if episode == 0 else None
        (first, info), (second, other) = one.reset(seed=seed), two.reset(seed=seed)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_equal(info, other)
        np.testing.assert_array_equal(play(one, 20), play(two, 20))
    _, info = one.reset(seed=4)
    assert any(np.any(value != other["task"][key]) for key, value in info["task"].items())


def test_unseeded_environments_differ() -> None:
    (_, one), (_, two) = single(REACH).reset(), single(REACH).reset()
    assert np.any(one["task"]["goal"] != two["task"]["goal"])


def test_a_fixed_task_reaches_the_physics() -> None:
    env = single(REACH)
    task = {"goal": [0.5, 0.1, 0.3], "payload_mass": 1.25, "damping_scale": 1.0}
    env.reset(options={"task": task}, seed=0)
    payload = env.environment.model.body("payload").id  # type: ignore[attr-defined]
    assert env.environment.simulator.model_of(0).body_mass[payload] == 1.25  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_come_from_the_split(split: str) -> None:
    env = single(REACH, split=split)
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


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"goal": [0.1, 0.2], "mass": 1.0}, "missing or unknown: mass"),
        ({}, "missing or unknown: goal"),
        ({"goal": [0.1]}, "expected 2 numbers, got shape"),
        ({"goal": "left"}, "expected 2 numbers, got 'left'"),
        ({"goal": [0.1, float("nan")]}, "is not finite"),
    ],
)
def test_a_wrong_task_is_refused(task: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        single(POINT).set_task(task)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "later"}, "unknown split 'later'"),
        ({"render_mode": "ansi"}, "unknown render_mode 'ansi'"),
        ({"goal_shown": True}, "goal_shown"),
        ({"tasks_override": {"mass": 1}}, "unknown task parameter 'mass'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], named: str) -> None:
    for kind in (TaskEnv, VectorTaskEnv):
        with pytest.raises(EnvsError, match=named):
            kind("point2d", **options)


def test_an_overridden_range_is_drawn_from() -> None:
    env = single(REACH, tasks_override={"payload_mass": [0.2, 0.3]})
    masses = [task["payload_mass"][0] for task in env.sample_tasks(50)]
    assert 0.2 <= min(masses) < max(masses) <= 0.3


def test_info_and_horizon() -> None:
    env = single(REACH, horizon=5)
    env.reset(seed=0)
    for step in range(5):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == pytest.approx(sum(info["reward_terms"].values()), abs=1e-6)
        assert (terminated, truncated) == (False, step == 4)
        assert (info["success"], info["failed"]) == (False, False)


def test_reaching_the_goal_terminates_point2d() -> None:
    env = single(POINT)
    env.reset(options={"task": {"goal": [0.1, 0.1]}})
    *_, terminated, truncated, info = env.step(np.ones(2))
    assert (terminated, truncated, info["success"]) == (True, False, True)


def test_broken_physics_is_told() -> None:
    env = single(REACH)
    env.reset(seed=0)
    env.environment.simulator.field("qvel")[0, 0] = float("nan")  # type: ignore[attr-defined]
    observation, reward, terminated, truncated, info = env.step(np.zeros(7))
    assert info["failed"] and terminated and not truncated and reward == 0.0
    assert observation in env.observation_space


# The batched engine


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


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing of this prints anything."""
    yield
    assert capfd.readouterr() == ("", "")
