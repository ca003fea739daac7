"""The Stable-Baselines3 adapter: its VecEnv semantics, and a run of PPO."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from envs.adapters.sb3 import SB3VecEnv
from envs.core.tasks import SPLITS
from envs.errors import EnvsError, TaskError
from envs.registry import make, names

pytestmark = pytest.mark.filterwarnings("error")


def random_actions(env: SB3VecEnv, steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, *np.shape(env._actions)))


def step(env: SB3VecEnv, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """`VecEnv.step`, whose annotation allows for dictionaries of observations."""
    env.step_async(action)
    return env.step_wait()


def goals(env: SB3VecEnv) -> np.ndarray:
    return env.environment.assigned["goal"].numpy().copy()


@pytest.mark.parametrize("name", names())
def test_ppo_learns_a_few_steps(name: str) -> None:
    env = SB3VecEnv(name, num_envs=4, horizon=16)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    # Filled from `info` alone, without a monitor around the environment.
    assert model.ep_info_buffer and {info["l"] for info in model.ep_info_buffer} <= set(range(1, 17))
    assert model.ep_success_buffer is not None and len(model.ep_success_buffer) >= 4
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert np.isfinite(mean)


def test_an_episode_cut_at_the_horizon() -> None:
    env = SB3VecEnv("reach", num_envs=2, horizon=4)
    env.seed(0)
    first = env.reset()
    assert first.shape == (2, 24) and first.dtype == np.float32
    earned = np.zeros(2)
    tasks = goals(env)
    for index, action in enumerate(random_actions(env, 4)):
        observation, reward, done, infos = step(env, action)
        earned += reward
        np.testing.assert_array_equal(done, [index == 3] * 2)
        assert [info["TimeLimit.truncated"] for info in infos] == [index == 3] * 2
        assert all(("terminal_observation" in info) == (index == 3) for info in infos)
    for i, info in enumerate(infos):
        assert (info["episode"]["l"], info["is_success"]) == (4, False)
        assert info["episode"]["r"] == pytest.approx(earned[i])
        assert np.any(info["terminal_observation"][7:14] != 0)  # still moving
    np.testing.assert_array_equal(observation[:, 7:14], np.zeros((2, 7)))  # at rest: a new episode
    assert (goals(env) != tasks).any(-1).all()
    rewards = []
    for index, action in enumerate(random_actions(env, 4)):
        _, reward, done, infos = step(env, action)
        rewards.append(reward)
        assert ("terminal_observation" in infos[0]) == done[0] == (index == 3)
    assert infos[1]["episode"]["r"] == pytest.approx(float(np.sum(rewards, 0)[1]), rel=1e-6)


def test_a_terminated_episode_is_no_truncation() -> None:
    env = SB3VecEnv("point2d", num_envs=2, horizon=2)
    env.set_tasks([{"goal": [0.1, 0.1]}, {"goal": [0.4, 0.4]}])
    env.reset()
    env.set_tasks(None)
    before = goals(env)
    observation, _, done, infos = step(env, np.ones((2, 2)))
    np.testing.assert_array_equal(done, [True, False])
    assert not infos[0]["TimeLimit.truncated"] and infos[0]["is_success"]
    np.testing.assert_allclose(infos[0]["terminal_observation"], [0.1, 0.1], atol=1e-7)
    np.testing.assert_allclose(observation, [[0.0, 0.0], [0.1, 0.1]], atol=1e-7)
    np.testing.assert_array_equal((goals(env) == before).all(-1), [False, True])
    env.set_tasks([{"goal": [0.2, 0.2]}])
    _, _, done, infos = step(env, np.ones((2, 2)))  # terminated or cut, each after its own two steps at most
    np.testing.assert_array_equal(done, [False, True])
    assert infos[1]["TimeLimit.truncated"]


def test_it_tells_the_task_of_an_episode_that_ended_and_of_the_next_one() -> None:
    env = SB3VecEnv("point2d", num_envs=2, horizon=2)
    env.reset()
    first = [told["task"]["goal"] for told in env.reset_infos]
    np.testing.assert_array_equal(first, goals(env))
    assert all("task" not in told for told in step(env, np.zeros((2, 2)))[3])
    infos = step(env, np.zeros((2, 2)))[3]
    np.testing.assert_array_equal([told["task"]["goal"] for told in infos], first)
    np.testing.assert_array_equal([told["task"]["goal"] for told in env.reset_infos], goals(env))
    assert (goals(env) != first).any(-1).all()


def test_reaching_the_goal_at_the_horizon_counts_as_reaching_it() -> None:
    env = SB3VecEnv("point2d", num_envs=1, horizon=1)
    env.set_tasks([{"goal": [0.1, 0.1]}])
    env.reset()
    *_, infos = step(env, np.ones((1, 2)))
    assert not infos[0]["TimeLimit.truncated"] and infos[0]["is_success"]


def test_what_step_returned_is_not_overwritten() -> None:
    env = SB3VecEnv("reach", num_envs=2)
    observation = env.reset()
    kept, copy = observation, observation.copy()
    for action in random_actions(env, 3):
        step(env, action)
    np.testing.assert_array_equal(kept, copy)


def test_a_seed_repeats_everything() -> None:
    def play(seed: int) -> tuple[np.ndarray, np.ndarray]:
        env = SB3VecEnv("reach", num_envs=2, horizon=3)
        env.seed(seed)
        rows = [env.reset()] + [step(env, action)[0] for action in random_actions(env, 7)]
        return np.stack(rows), goals(env)

    for a, b, c in zip(play(0), play(0), play(1), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a != c)


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_come_from_the_split(split: str) -> None:
    env = SB3VecEnv("reach", num_envs=16, split=split, horizon=1)
    env.reset()
    for _ in range(2):
        assert env.environment.tasks is not None
        assert env.environment.distribution.split_of(env.environment.tasks) == [split] * 16
        step(env, np.zeros((16, 7)))


class Fake:
    """A window that keeps what it shows, and an empty picture when it is closed."""

    def __init__(self, shown: list[np.ndarray]) -> None:
        self.shown = shown

    def show(self, picture: np.ndarray, period: float) -> None:
        assert period > 0
        self.shown.append(picture)

    def close(self) -> None:
        self.shown.append(np.zeros((1, 1, 3)))


def test_a_window_shows_the_simulations_as_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[np.ndarray] = []
    monkeypatch.setattr("envs.adapters.pictures.Window", lambda *_: Fake(shown))
    env = SB3VecEnv("point2d", num_envs=3, render_mode="human", width=32, height=24, horizon=2)
    env.reset()
    step(env, np.ones((3, 2)))
    step(env, np.ones((3, 2)))
    assert env.render() is None and len(shown) == 4
    assert {picture.shape for picture in shown} == {(48, 64, 3)}
    assert not shown[0][24:, 32:].any(), "there is no fourth simulation"
    assert (shown[0] != shown[1]).any()
    env.close()
    env.close()
    assert len(shown) == 5 and not shown.pop().any()


def test_attributes_and_methods() -> None:
    env = SB3VecEnv("reach", num_envs=3)
    assert env.get_attr("horizon") == [50] * 3
    assert env.get_attr("render_mode", [0, 1]) == [None] * 2
    assert env.has_attr("horizon") and not env.has_attr("wings")
    env.set_attr("horizon", 7)
    assert env.environment.horizon == 7
    assert env.env_is_wrapped(Monitor) == [True] * 3  # `info` has the entries of one
    assert env.env_is_wrapped(VecNormalize) == [False] * 3
    for call in (lambda: env.set_attr("horizon", 7, indices=[0]), lambda: env.env_method("set_task", None)):
        with pytest.raises(EnvsError, match="one object"):
            call()


def test_a_made_environment_is_taken_as_it_is() -> None:
    environment = make("reach", 4, goal_visible=True)
    env = VecNormalize(SB3VecEnv(environment))
    assert env.num_envs == 4
    observation = env.reset()
    assert isinstance(observation, np.ndarray) and observation.shape == (4, 27)
    env.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"environment": "raech"}, "did you mean 'reach'"),
        ({"environment": "reach", "split": "later"}, "unknown split"),
        ({"environment": "reach", "render_mode": "ansi"}, "unknown render_mode"),
        ({"environment": "reach", "wings": 2}, "wings"),
        ({"environment": make("point2d", 2), "num_envs": 3}, "made already"),
    ],
    ids=["name", "split", "render_mode", "option", "made"],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(EnvsError, match=error):
        SB3VecEnv(**options)
    with pytest.raises(TaskError, match="3 tasks do not divide 4"):
        SB3VecEnv("point2d", 4).set_tasks([{"goal": [0.0, 0.1]}] * 3)


def test_pictures_of_all_simulations_in_one() -> None:
    env = SB3VecEnv("reach", num_envs=4, render_mode="rgb_array", width=64, height=48)
    env.reset()
    picture = env.render()
    assert picture is not None and picture.shape == (96, 128, 3)


def test_a_seed_decides_which_tasks_are_drawn() -> None:
    def goals(seed: int) -> np.ndarray:
        env = SB3VecEnv("reach", 3, seed=seed)
        env.reset()
        return env.environment.assigned["goal"].numpy()

    np.testing.assert_array_equal(goals(1), goals(1))
    assert not np.array_equal(goals(1), goals(2))
