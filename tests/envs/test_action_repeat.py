"""A step can hold its action for several control steps."""

from __future__ import annotations

import pytest
import torch

from envs.core.environment import Environment
from envs.core.step import Step, joined
from envs.errors import EnvsError
from envs.registry import make


def begun(name: str, action_repeat: int | None = None, **options: object) -> Environment:
    env = make(name, 6, seed=1, threads=1, action_repeat=action_repeat, **options)
    env.set_tasks(env.distribution.published("test", 6))
    env.reset()
    return env


@pytest.mark.parametrize("name", ["reach", "cheetah_vel", "navigate_search"])
def test_an_action_is_held(name: str) -> None:
    once, held = begun(name, horizon=20), begun(name, 4, horizon=20)
    assert (held.horizon, held.step_period) == (5, pytest.approx(4 * once.control_period))
    generator = torch.Generator().manual_seed(0)
    for _ in range(held.horizon):
        action = torch.rand(6, held.action_size, generator=generator) * 2 - 1
        parts = [once.step(action) for _ in range(4)]
        whole = held.step(action)
        assert torch.equal(whole.observation, parts[-1].observation)
        assert torch.equal(whole.success, parts[-1].success)
        torch.testing.assert_close(whole.reward, sum(part.reward for part in parts))
        torch.testing.assert_close(whole.feedback, sum(part.feedback for part in parts))
        for term, value in whole.terms.items():
            torch.testing.assert_close(value, sum(part.terms[term] for part in parts))


def test_what_failed_on_the_way_has_failed() -> None:
    def step(failed: list[bool], success: list[bool]) -> Step:
        ones, none = torch.ones(3), torch.tensor(failed)
        reward = ones.masked_fill(none, 0.0)
        return Step(torch.zeros(3, 2), reward, {"a": reward}, torch.tensor(success), none, none, reward)

    first, second = step([False, True, False], [True, False, True]), step([False, False, False], [False, True, True])
    whole = joined([first, second])
    assert whole.failed.tolist() == whole.terminated.tolist() == [False, True, False]
    assert whole.success.tolist() == [False, False, True]
    assert whole.reward.tolist() == whole.feedback.tolist() == whole.terms["a"].tolist() == [2.0, 0.0, 2.0]
    assert joined([first]) is first


@pytest.mark.parametrize("times", [0, 7, 40])
def test_an_episode_is_so_many_times_something(times: int) -> None:
    with pytest.raises(EnvsError, match="a divisor of the 20 control steps of an episode"):
        make("reach", 1, horizon=20, action_repeat=times)


def test_some_environments_cannot() -> None:
    with pytest.raises(EnvsError, match="action_repeat=2.5: must be a whole number"):
        make("reach", 1, action_repeat=2.5)
    with pytest.raises(EnvsError, match="point2d: cannot hold an action"):
        make("point2d", 1, action_repeat=2)
    assert make("point2d", 1, action_repeat=1).horizon == 100
