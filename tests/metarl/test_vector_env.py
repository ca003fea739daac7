"""Episodes of a user's Gymnasium environments: early ends, padding, and what the environments are asked."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.func import functional_call

from agents.mlp import MLPPolicy
from agents.policy import Policy, log_probability
from agents.transformer import TransformerPolicy
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.vector_env import VectorSimulations, explore

HORIZON = 6


class Counter(gymnasium.Env[Any, Any]):
    """Observes [episodes begun, steps since]; earns the number of the step; ends at step `end` as it is told to."""

    observation_space, action_space = Box(-99, 99, (2,)), Box(-1, 1, (1,))

    def __init__(self, end: int, truncates: bool = False) -> None:
        self.end, self.truncates, self.episodes, self.steps = end, truncates, 0, 0

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.episodes, self.steps = self.episodes + 1, 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        over = self.steps >= self.end
        return self.observe(), float(self.steps), over and not self.truncates, over and self.truncates, {}

    def observe(self) -> np.ndarray:
        return np.array([self.episodes, self.steps], np.float32)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("truncates", [False, True])
def test_an_episode_that_ends_early_counts_up_to_its_end(truncates: bool, mode: AutoresetMode) -> None:
    inside = [Counter(2, truncates), Counter(4, truncates)]
    torch.manual_seed(0)
    policy = MLPPolicy(2, 1, hidden=(4,), initial_std=2.0)
    episodes = explore(
        VectorSimulations(SyncVectorEnv([lambda: inside[0], lambda: inside[1]], autoreset_mode=mode), HORIZON),
        policy,
        episodes=3,
        generator=generator(),
    )
    # Three episodes of two environments are two rounds; the second round stands behind the first.
    assert episodes.tokens.shape == (1, 4, HORIZON, 5)
    assert episodes.valid[0].sum(-1).tolist() == [2, 4, 2, 4]
    assert episodes.reward[0].tolist() == [[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0]] * 2
    assert episodes.returns[0].tolist() == [[3], [10], [3], [10]]
    assert not episodes.success_at_end.any() and episodes.failures == 0
    # Nobody steps an environment once all are over: it would begin an episode that nobody sees.
    assert inside[1].episodes == 2 and inside[1].steps == 4
    assert bool((episodes.tokens[:, :, 4:] == 0).all()) and bool((episodes.actions[:, :, 4:] == 0).all())
    tokens = episodes.tokens[0, 3, :4]
    assert tokens[:, :2].tolist() == [[2, 0], [2, 1], [2, 2], [2, 3]]
    assert torch.equal(tokens[1:, 2], episodes.actions[0, 3, :3, 0].clamp(-1, 1)) and float(tokens[0, 2]) == 0
    assert tokens[:, 3].tolist() == [0, 1, 2, 3] and tokens[:, 4].tolist() == [1, 0, 0, 0]


class Broken(Counter):
    """Has only numbers that are not finite, after its first episode."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seen, reward, *rest = super().step(action)
        return (seen, reward, *rest) if self.episodes == 1 else (np.nan * seen, np.nan, *rest)  # type: ignore[return-value]


def test_what_comes_after_an_episode_need_not_be_finite() -> None:
    vector = VectorSimulations(SyncVectorEnv([lambda: Broken(2), lambda: Counter(9)]), HORIZON)
    policy: Policy = TransformerPolicy(2, 1, HORIZON, width=8)
    episodes = explore(vector, policy, episodes=2, generator=generator())
    assert episodes.reward[0].tolist() == [[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]]
    assert all(bool(torch.isfinite(x).all()) for x in (episodes.tokens, episodes.feedback, episodes.value))


def test_each_episode_is_told_where_it_ends() -> None:
    """The last one of two environments ends at the horizon, whatever the environment says."""
    told: list[tuple[int, int, float]] = []
    vector = VectorSimulations(SyncVectorEnv([lambda: Counter(2), lambda: Counter(9)]), HORIZON)
    policy, watch = MLPPolicy(2, 1, hidden=(4,)), lambda *each: told.append(each)
    explore(vector, policy, episodes=3, trial_episodes=2, generator=generator(), watch=watch)
    assert told == [(1, 4, 3.0), (2, 4, 21.0), (3, 4, 3.0), (4, 4, 21.0)]


def test_what_was_recorded_is_what_the_whole_pass_gives() -> None:
    torch.manual_seed(0)
    policy: Policy = TransformerPolicy(2, 1, HORIZON, width=8)
    adapted = {"log_std": torch.full((1, 1), -0.3)}

    def played() -> Episodes:
        env = VectorSimulations(SyncVectorEnv([lambda: Counter(9)] * 2), HORIZON)
        return explore(env, policy, adapted, episodes=4, generator=generator())

    episodes = played()
    with torch.no_grad():
        output = functional_call(policy, {"log_std": adapted["log_std"][0]}, (episodes.tokens[0],))
    torch.testing.assert_close(episodes.value[0], output.value)
    torch.testing.assert_close(episodes.log_probability[0], log_probability(output, episodes.actions[0]))
    assert len(episodes.actions.flatten().unique()) == 4 * HORIZON
    assert torch.equal(played().actions, episodes.actions)


def test_the_episodes_of_a_trial_share_one_memory_and_are_padded_in_it() -> None:
    inside = Counter(4)
    torch.manual_seed(0)
    policy: Policy = TransformerPolicy(2, 1, 2 * HORIZON, width=8, context="trial")
    simulations = VectorSimulations(SyncVectorEnv([lambda: inside]), HORIZON)
    episodes = explore(simulations, policy, episodes=3, trial_episodes=2, generator=generator())
    # Three episodes in trials of two are two trials.
    assert episodes.tokens.shape == (1, 2, 2 * HORIZON, 5) and episodes.returns.shape == (1, 2, 2)
    assert episodes.valid[0].tolist() == [[1.0] * 4 + [0.0] * 2 + [1.0] * 4 + [0.0] * 2] * 2
    assert episodes.tokens[0, 1, :, -1].tolist() == [1.0] + [0.0] * 5 + [1.0] + [0.0] * 5
    assert episodes.tokens[0, 1, [0, 6], 0].tolist() == [3, 4]
    assert inside.episodes == 4 and inside.steps == 4  # it is not stepped once its episode is over
    explored = explore(simulations, policy, episodes=1, trial_episodes=1, generator=generator())
    tokens = episodes.tokens[0, :, HORIZON : HORIZON + 1]
    with torch.no_grad():
        forgetful = policy(tokens).value
    assert not torch.isclose(forgetful[:, 0], episodes.value[0, :, HORIZON]).any()
    assert explored.tokens.shape == (1, 1, HORIZON, 5)


class Blown(Counter):
    """Its last observation is not a number; where it `fails`, the episode is not over but the environment says so."""

    def __init__(self, fails: bool) -> None:
        super().__init__(3)
        self.fails = fails

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seen, reward, over, _, _ = super().step(action)
        if not over:
            return seen, reward, False, False, {}
        return seen * np.nan, np.nan if self.fails else reward, not self.fails, False, {"failed": self.fails}


@pytest.mark.parametrize("fails", [False, True])
def test_what_ends_an_episode_need_not_be_finite(fails: bool) -> None:
    simulations = VectorSimulations(SyncVectorEnv([lambda: Blown(fails)]), HORIZON)
    episodes = explore(simulations, MLPPolicy(2, 1, hidden=(4,)), episodes=1, generator=generator())
    assert bool(torch.isfinite(episodes.tokens).all()) and episodes.failures == int(fails)
    # What a failed step earned is not known.
    assert episodes.valid[0, 0].sum() == (2 if fails else 3)
    assert episodes.reward[0, 0].tolist() == [1, 2, 0 if fails else 3, 0, 0, 0]
