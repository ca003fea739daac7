"""The Gymnasium environments: Gymnasium's and Stable-Baselines3's own checkers, tasks, seeds, the batched engine."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import envs
from envs import registry
from envs.adapters.gymnasium import TaskEnv, VectorTaskEnv
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


def play(env: TaskEnv, steps: int) -> np.ndarray:
    """Observations and rewards (steps, D + 1) of fixed actions."""
    generator = np.random.default_rng(1)
    rows = []
    for _ in range(steps):
        observation, reward, *_ = env.step(generator.uniform(-1, 1, env.action_space.shape))
        rows.append([*observation, reward])
    return np.array(rows)


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


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing of this prints anything."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 7)])
def test_an_action_of_another_shape_is_refused_and_harms_nothing(shape: tuple[int, ...]) -> None:
    one, two = TaskEnv("reach"), VectorTaskEnv("reach", 2)
    for env in (one, two):
        env.reset(seed=0)
    with pytest.raises(TaskError, match=r"an action of shape \(1, .*, expected \(1, 7\)"):
        one.step(np.zeros(shape))
    with pytest.raises(TaskError, match=r"expected \(2, 7\)"):
        two.step(np.zeros(shape))
    one.step(np.zeros(7))
    two.step(np.zeros((2, 7)))


def test_a_task_that_is_not_possible_is_refused() -> None:
    env = TaskEnv("reach")
    task = env.sample_tasks(1)[0]
    with pytest.raises(TaskError, match=r"'payload_mass' must be within .*, got \[-2.0\]"):
        env.set_task({**task, "payload_mass": -2.0})
    env.set_task({**task, "payload_mass": 20.0})


def test_a_seed_is_for_reset() -> None:
    for make in (TaskEnv, VectorTaskEnv):
        with pytest.raises(EnvsError, match="no option 'seed'; it is reset"):
            make("reach", seed=5)


@pytest.mark.parametrize("horizon", [0, -3, True])
@pytest.mark.parametrize("name", ["reach", "point2d"])
def test_a_horizon_is_a_number_of_steps(name: str, horizon: int) -> None:
    with pytest.raises(EnvsError, match=f"{name}: horizon={horizon}: must be an integer from 1"):
        TaskEnv(name, horizon=horizon)
