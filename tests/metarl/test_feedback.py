"""What the robot feels, and what the trainer knows: the policy and its inner steps get the one, never the other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import envs  # noqa: F401 - registers the Gymnasium ids
import metarl
from agents.mlp import MLPPolicy
from agents.policy import Policy
from agents.transformer import TransformerPolicy
from envs.core.environment import Environment, MujocoEnvironment, Step
from envs.errors import EnvsError
from envs.registry import make
from metarl.algorithms.advantages import episode_baseline_advantage, generalised_advantage, normalise
from metarl.algorithms.maml import MAML
from metarl.algorithms.reptile import Reptile
from metarl.assembly.build import build_policy
from metarl.config.algorithms import MAMLSettings, MetaInnerLoop, ReptileSettings
from metarl.config.composition import compose
from metarl.errors import ConfigError, MetaRLError
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import collect
from metarl.rollouts.vector_env import VectorSimulations, feedback_of

M, E, H = 3, 2, 6


class Felt(Environment):
    """A point whose feedback and reward are different numbers; both name simulation and step."""

    def __init__(self) -> None:
        self.inner = make("point2d", M * E, horizon=H)
        super().__init__(M * E, self.inner.distribution)
        self.name, self.success_criterion, self.horizon = "felt", "never", H
        self.observation_size, self.action_size, self.t = 2, 2, 0

    def apply_tasks(self) -> None:
        assert self.tasks is not None
        self.inner.set_tasks(self.tasks)

    def reset(self, mask: Tensor | None = None) -> Tensor:
        self.t = 0
        return self.inner.reset(mask)

    def step(self, action: Tensor) -> Step:
        self.t += 1
        step = self.inner.step(action)
        reward = torch.arange(M * E).float() + 100.0 * self.t
        never = torch.zeros(M * E, dtype=torch.bool)
        return step._replace(reward=reward, feedback=-reward, success=never, terminated=never, failed=never)

    render_state = drawer = None  # type: ignore[assignment]


def collected(policy: Policy, env: Environment | None = None) -> Episodes:
    env = env or Felt()
    env.feedback = "sparse"  # it is not the reward
    env.set_tasks(env.distribution.published("train", M))
    return collect(env, policy, generator=torch.Generator().manual_seed(0))


def transformer(context: str = "episode", privileged: int = 0) -> TransformerPolicy:
    torch.manual_seed(0)
    policy = TransformerPolicy(2, 2, H, context=context, privileged_size=privileged)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return policy


@pytest.mark.parametrize("name", ["reach", "push", "grasp", "navigate", "cheetah_dir", "point2d"])
def test_feedback_is_the_reward_the_signal_or_nothing(name: str) -> None:
    steps = {}
    for mode in ("reward", "sparse", "none"):
        env = make(name, 4, feedback=mode)
        env.set_tasks(env.distribution.published("train", 4))
        env.reset()
        steps[mode] = env.step(torch.full((4, env.action_size), 0.3))
        if mode == "sparse":
            felt = env.signal().float() if isinstance(env, MujocoEnvironment) else steps[mode].success.float()
    assert torch.equal(steps["reward"].feedback, steps["reward"].reward)
    assert torch.equal(steps["sparse"].feedback, felt)
    assert torch.equal(steps["none"].feedback, torch.zeros(4))
    for step in steps.values():
        assert torch.equal(step.reward, steps["reward"].reward), "the trainer's reward does not depend on the feedback"
        assert step.feedback.dtype == torch.float32


def test_the_signal_of_reach_is_that_the_hand_is_there_now() -> None:
    env = make("reach", 2, feedback="sparse")
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    env.assigned["goal"][0] = env.sensor("grip_position")[0].float()
    env.apply_tasks()
    step = env.step(torch.zeros(2, 7))
    assert step.feedback.tolist() == [1.0, 0.0]
    assert not step.success.any(), "success needs five steps"


def test_navigates_signal_tells_collisions() -> None:
    env = make("navigate", 1, feedback="sparse")
    env.set_tasks(env.distribution.published("train", 1))
    env.reset()
    felt = [float(env.step(torch.tensor([[-1.0, 0.0]])).feedback) for _ in range(12)]  # backwards into the wall
    assert min(felt) == -1.0 and felt[0] == 0.0


def test_an_unknown_feedback_is_refused() -> None:
    valid = r"\(valid: reward, log_reward, sparse, none\)"
    with pytest.raises(EnvsError, match=f"^feedback=dense: unknown choice {valid}$"):
        make("reach", 1, feedback="dense")


def test_a_logarithm_needs_a_highest_reward() -> None:
    with pytest.raises(EnvsError, match=r"^feedback=log_reward: reach has no highest reward that it could be measured"):
        make("reach", 1, feedback="log_reward")
    env = Felt()
    env.feedback = "log_reward"
    with pytest.raises(EnvsError, match="has no highest reward"):
        env.felt(torch.zeros(2), lambda: torch.zeros(2))


def test_the_logarithm_of_the_reward_tells_near_from_very_near() -> None:
    env = Felt()
    env.feedback, env.highest_reward = "log_reward", 10.0
    felt = env.felt(torch.tensor([0.0, 9.0, 10.0, 10.5]), lambda: torch.zeros(4))
    torch.testing.assert_close(felt, -torch.tensor([1.01, 0.11, 0.01, 0.01]).log())
    assert not env.fed_the_reward


def test_a_policy_is_fed_its_feedback_and_not_its_reward() -> None:
    episodes = collected(transformer())
    previous = episodes.tokens[..., transformer().layout.parts["previous feedback"]][..., 0]
    assert torch.equal(previous[:, :, 1:], episodes.feedback[:, :, :-1])
    assert not previous[:, :, 0].any()
    assert torch.equal(episodes.feedback, -episodes.reward)


def learner(policy: Policy) -> MAML:
    return MAML(policy, MAMLSettings(), torch.Generator().manual_seed(0))


def test_inner_steps_learn_from_feedback_alone() -> None:
    policy = MLPPolicy(2, 2, hidden=[8])
    episodes, maml = collected(policy), learner(policy)
    other = replace(episodes, reward=torch.randn_like(episodes.reward), feedback=torch.rand_like(episodes.feedback))
    one, two = maml.prepare(other), maml.prepare(replace(other, reward=torch.randn_like(other.reward)))
    assert not torch.equal(one.advantage, two.advantage)
    assert torch.equal(one.inner_advantage, two.inner_advantage)
    adapted = [maml.adapt(None, batch) for batch in (one, two)]
    assert all(torch.equal(adapted[0][name], adapted[1][name]) for name in adapted[0])
    same = maml.prepare(replace(episodes, fed_the_reward=True))
    assert torch.equal(same.inner_advantage, same.advantage)


@pytest.mark.parametrize("fed_the_reward", [True, False])
def test_where_advantages_are_not_normalised_twice_the_reward_is_twice_the_step(fed_the_reward: bool) -> None:
    policy = MLPPolicy(2, 2, hidden=[8])
    policy.critic.deviation.fill_(4.0)
    inner = MetaInnerLoop(normalize_advantage=False)
    maml = MAML(policy, MAMLSettings(inner=inner), torch.Generator().manual_seed(0))
    episodes = replace(collected(policy), fed_the_reward=fed_the_reward)
    twice = {name: getattr(episodes, name) * 2.0 for name in ("reward", "value", "feedback")}
    one, two = maml.prepare(episodes), maml.prepare(replace(episodes, **twice))
    torch.testing.assert_close(two.inner_advantage, 2 * one.inner_advantage)
    torch.testing.assert_close(two.advantage, one.advantage)
    if fed_the_reward:
        spread = generalised_advantage(episodes.reward, episodes.value, episodes.valid, 0.95, 0.95).std((1, 2))
        torch.testing.assert_close(4.0 * one.inner_advantage.std((1, 2)), spread)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("fed_the_reward", [True, False])
@pytest.mark.parametrize("episodes_per_task", [1, 2])
def test_an_inner_step_knows_of_no_other_task(alike: bool, fed_the_reward: bool, episodes_per_task: int) -> None:
    policy = MLPPolicy(2, 2, hidden=[8])
    inner = MetaInnerLoop(normalize_advantage=alike)
    maml = MAML(policy, MAMLSettings(inner=inner), torch.Generator().manual_seed(0))
    played = replace(collected(policy), fed_the_reward=fed_the_reward)
    parts = {name: part for name, part in vars(played).items() if isinstance(part, Tensor)}
    few = replace(played, **{name: part[:, :episodes_per_task] for name, part in parts.items()})
    alone = replace(few, **{name: getattr(few, name)[:1] for name in parts})
    torch.testing.assert_close(maml.prepare(few).inner_advantage[:1], maml.prepare(alone).inner_advantage)


@pytest.mark.parametrize("baseline", ["critic", "linear"])
def test_reptiles_critic_does_not_tell_its_inner_steps_the_reward(baseline: Literal["critic", "linear"]) -> None:
    policy = transformer()
    reptile = Reptile(policy, ReptileSettings(baseline=baseline), torch.Generator().manual_seed(0))
    episodes = collected(policy)
    other = replace(episodes, feedback=torch.rand_like(episodes.feedback))
    adapted = [
        reptile.adapt(None, reptile.prepare(replace(other, reward=factor * other.reward))) for factor in (1.0, 3.0)
    ]
    assert all(torch.equal(adapted[0][name], adapted[1][name]) for name in adapted[0])


def test_inner_steps_do_not_use_a_critic_that_was_told_the_task() -> None:
    policy = transformer(privileged=2)
    episodes, maml = replace(collected(policy), fed_the_reward=True), learner(policy)
    batch = maml.prepare(episodes)
    blind = maml.prepare(replace(episodes, value=torch.randn_like(episodes.value)))
    assert torch.equal(batch.inner_advantage, blind.inner_advantage)
    assert not torch.equal(batch.advantage, blind.advantage)


def test_a_shipped_search_adapts_to_its_feedback_and_refuses_the_reward() -> None:
    agent = metarl.load("reach_search")
    assert agent.run.feedback == "sparse"
    _, state = agent.predict(np.zeros(24, np.float32))
    with pytest.raises(MetaRLError, match=r"was not fed the reward: give predict feedback=info\['feedback'\]"):
        agent.predict(np.zeros(24, np.float32), state, reward=0.1)
    agent.predict(np.zeros(24, np.float32), state, feedback=0.0)
    seen = []
    original = agent.run.learner.prepare
    agent.run.learner.prepare = lambda episodes: seen.append(original(episodes)) or seen[-1]  # type: ignore[method-assign]
    env = gymnasium.make("metarl/ReachSearch-v0")
    adapted = agent.adapt(env, episodes=3, steps=1)
    assert adapted.adapted is not None
    assert not torch.equal(seen[0].inner_advantage, seen[0].advantage)


def test_without_feedback_an_inner_step_changes_nothing() -> None:
    policy = MLPPolicy(2, 2, hidden=[8])
    episodes, maml = collected(policy), learner(policy)
    adapted = maml.adapt(None, maml.prepare(replace(episodes, feedback=torch.zeros_like(episodes.reward))))
    start = dict(policy.named_parameters())
    assert all(torch.equal(value, start[name].expand_as(value)) for name, value in adapted.items())


def test_feedback_that_is_always_the_same_teaches_nothing() -> None:
    """What rounding leaves of it is not scaled up to a step."""
    valid = torch.ones(1, 20, 70)
    nothing = episode_baseline_advantage(0.3 * valid, valid, 0.98)
    assert not normalise(nothing, valid, (1, 2)).any()
    little = episode_baseline_advantage(0.3 * valid + 1e-3 * torch.arange(20.0)[:, None], valid, 0.98)
    assert normalise(little, valid, (1, 2)).square().mean() == pytest.approx(1.0, rel=1e-3)


def test_the_deviation_that_is_told_is_that_of_the_actions() -> None:
    policy = MLPPolicy(2, 2, hidden=[8])
    torch.nn.init.constant_(policy.log_std, -6.0)  # acting does not go below -4
    assert learner(policy).action_std() == pytest.approx(math.exp(-4.0))


def test_the_baseline_of_feedback_is_the_mean_of_the_tasks_episodes() -> None:
    reward = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    found = episode_baseline_advantage(reward, torch.ones(1, 2, 2), 0.5)
    assert found.tolist() == [[[-2.0, -2.0], [2.0, 2.0]]]
    alone = episode_baseline_advantage(reward[:, :1], torch.ones(1, 1, 2), 0.5)
    assert alone.tolist() == [[[2.0, 2.0]]]


def test_inner_steps_without_feedback_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^env\.feedback=none: .*algo=maml"):
        compose(("env=reach", "algo=maml", "env.feedback=none"))
    with pytest.raises(ConfigError, match=r"algo=multitask have nothing to learn from; set algo\.inner\.steps=0$"):
        compose(("env=reach", "algo=multitask", "env.feedback=none"))
    assert compose(("env=reach", "algo=multitask", "env.feedback=none", "algo.inner.steps=0"))
    assert compose(("env=reach", "algo=in_context", "env.feedback=none")).env.feedback == "none"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("algo=maml algo.inner.steps=0", r"algo\.inner\.steps=0: must be an integer from 1"),
        ("algo=fomaml algo.inner.steps=0", r"algo\.inner\.steps=0: must be an integer from 1"),
        (
            "env.feedback=none algo=reptile algo.inner.steps=0",
            "env.feedback=none: the inner steps of algo=reptile have",
        ),
        ("algo=maml algo.baseline=linear agent.critic_sees_task=true", r".*algo\.baseline=linear asks no critic"),
        ("algo=maml algo.episodes=1 algo.baseline=linear", r"algo\.baseline=linear: fits the returns of a task's only"),
        (
            "algo=maml agent.critic_sees_task=true agent.estimates_task=true",
            ".*algo=maml trains no estimate; begin",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(given: str, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        compose(("env=reach", "algo.warm_start.iterations=0", *given.split()))
    assert compose(("env=reach", "algo=maml", *given.split()[-2:], "algo.inner.steps=1", "algo.baseline=critic"))


POLICIES = {"transformer": transformer(privileged=2), "mlp": MLPPolicy(2, 2, [8], privileged_size=2)}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
def test_the_critic_may_see_the_task_and_the_policy_may_not(policy: Policy) -> None:
    episodes = collected(policy)
    goals = Felt().distribution.published("train", M)["goal"]
    assert torch.equal(policy.layout.task(episodes.tokens), goals[:, None, None].expand(M, E, H, 2))
    tokens = episodes.tokens.flatten(0, 1)
    moved = tokens.clone()
    moved[..., policy.layout.acting_size :] += 1.0
    one, two = policy(tokens), policy(moved)
    assert torch.equal(one.mean, two.mean) and torch.equal(one.log_std, two.log_std)
    assert not torch.allclose(one.value, two.value)


def test_the_setting_gives_the_critic_what_the_family_hides() -> None:
    settings = compose(("env=reach", "algo=in_context", "agent.critic_sees_task=true"))
    policy = build_policy(settings.agent, make("reach", 1), 1, torch.device("cpu"))
    assert policy.layout.privileged_size == 3
    plain = compose(("env=reach", "algo=in_context"))
    assert build_policy(plain.agent, make("reach", 1), 1, torch.device("cpu")).layout.privileged_size == 0


def test_context_step_sees_the_last_action_and_its_feedback_and_no_more() -> None:
    policy = transformer("step")
    tokens = torch.randn(1, H, policy.layout.size)
    before = policy(tokens).mean
    for name in ("previous action", "previous feedback"):
        changed = tokens.clone()
        changed[:, 2, policy.layout.parts[name]] += 1.0
        after = policy(changed).mean
        assert not torch.allclose(after[:, 2], before[:, 2])
        assert torch.equal(after[:, 3:], before[:, 3:])


class Sensing(gymnasium.Wrapper):  # type: ignore[type-arg]
    def step(self, action):  # type: ignore[no-untyped-def]
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"feedback": 7.0}


def test_at_deployment_only_feedback_exists() -> None:
    vector = gymnasium.vector.SyncVectorEnv([lambda: Sensing(gymnasium.make("metarl/Reach-v0"))] * 2)
    task = vector.envs[0].unwrapped.sample_tasks(1)[0]
    for one in vector.envs:
        one.unwrapped.set_task(task)
    simulations = VectorSimulations(vector, 4)
    simulations.reset()
    step = simulations.step(torch.zeros(2, 7))
    assert step.feedback.tolist() == [7.0, 7.0] and step.reward.tolist() == [7.0, 7.0]


def test_the_feedback_of_an_episode_that_ended_is_in_its_final_info() -> None:
    info = {
        "feedback": np.array([1.0, 0.0]),
        "_feedback": np.array([True, False]),
        "final_info": {"feedback": np.array([0.0, 5.0]), "_feedback": np.array([False, True])},
    }
    assert feedback_of(info, np.array([9.0, 9.0])).tolist() == [1.0, 5.0]
    assert feedback_of({}, np.array([9.0, 8.0])).tolist() == [9.0, 8.0]
