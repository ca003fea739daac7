"""A controller remembers and counts episodes by itself; one robot acts with what has adapted folded in."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from metarl.agent import Agent
from metarl.errors import MetaRLError
from metarl.rollouts.acting import Actor, blank, mean_action
from metarl.rollouts.folded import folded, swift
from metarl.rollouts.recall import act, remember_nothing
from tests.metarl.test_agent import HORIZON, rows, trained


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Its context is a trial of two episodes."""
    return trained(tmp_path_factory.mktemp("runs") / "trial", "algo.trial_episodes=2", "agent.context=trial")


def moved(agent: Agent) -> Agent:
    """With adapted parameters that are not those of the policy."""
    names, policy = agent.run.policy.parameter_names("all"), agent.run.policy
    own = {name: value.detach()[None] for name, value in policy.named_parameters() if name in names}
    return replace(agent, adapted={name: value + 0.1 * torch.ones_like(value) for name, value in own.items()})


def test_it_acts_as_predict_does_over_a_trial_and_the_next(agent: Agent) -> None:
    robot, state, feedback = agent.controller(), None, None
    for t in range(3 * HORIZON):
        if t % HORIZON == 0:
            robot.reset()
        expected, state = agent.predict(rows(1, t)[0], state, t % HORIZON == 0, feedback=feedback)
        np.testing.assert_array_equal(robot.act(rows(1, t)[0], feedback), expected)
        feedback = 0.1 * t
        assert robot.episode == t // HORIZON + 1
    robot.forget()
    assert (robot.episode, robot.memory) == (0, None)
    np.testing.assert_array_equal(robot.act(rows(1)[0]), agent.predict(rows(1)[0])[0])


@pytest.mark.parametrize("adapted", [False, True])
def test_what_it_looked_at_is_told_and_changes_nothing(agent: Agent, adapted: bool) -> None:
    """Over a trial, and an episode in the last one's place: as the policy, fed the same tokens, would tell it."""
    agent = moved(agent) if adapted else agent
    robot, other = agent.controller(), agent.controller()
    policy = folded(agent.run.policy, agent.adapted)
    assert robot.attention() is None
    action, feedback, state = torch.zeros(1, policy.action_size), 0.7, policy.initial_state(1)
    for t in range(3 * HORIZON):
        position = t if t < 2 * HORIZON else t - HORIZON
        if t % HORIZON == 0:
            robot.reset()
            other.reset()
        seen, felt = torch.from_numpy(rows(1, t)), torch.tensor([feedback if position else 0.0])
        token = policy.layout.join(seen, action, felt, t % HORIZON == 0)
        with torch.no_grad():
            _, state = policy.step(token, state, position)
            expected = policy.attention_weights(token, state, position).numpy()
        np.testing.assert_array_equal(robot.act(rows(1, t)[0], feedback), other.act(rows(1, t)[0], feedback))
        told = robot.attention()
        assert told is not None and told.shape[-1] == position + 1
        np.testing.assert_allclose(told, expected, atol=1e-6)
        np.testing.assert_allclose(told.sum(-1), 1.0, atol=1e-5)
        assert robot.memory is not None
        action, feedback = robot.memory[0].memory.action, 0.1 * t
    robot.forget()
    assert robot.attention() is None


def test_it_refuses_what_is_not_finite_and_goes_on(agent: Agent) -> None:
    robot, other = agent.controller(), agent.controller()
    for each in (robot, other):
        each.act(rows(1)[0])
    with pytest.raises(MetaRLError, match="observation is not finite"):
        robot.act(np.array([np.nan, 0.0]), 0.0)
    with pytest.raises(MetaRLError, match="reward is not finite"):
        robot.act(rows(1)[0], np.inf)
    with pytest.raises(MetaRLError, match="feedback="):
        robot.act(rows(1)[0])
    np.testing.assert_array_equal(robot.act(rows(1, 1)[0], 0.5), other.act(rows(1, 1)[0], 0.5))
    robot.reset()
    with pytest.raises(MetaRLError, match="not finite"):
        robot.act(np.array([np.nan, 0.0]), 0.0)
    robot.act(rows(1, 2)[0], 0.0)
    assert robot.episode == 2, "an episode begins once, whatever was refused"


def test_adapted_parameters_are_those_that_act(agent: Agent) -> None:
    """One robot's folded policy does what the vectorised one does, step by step."""
    adapted = moved(agent)
    assert adapted.adapted is not None
    policy = agent.run.policy
    doubled = Actor(policy, {name: torch.cat([value] * 2) for name, value in adapted.adapted.items()}, 2)
    memory, state, feedback = doubled.start(2), None, torch.zeros(2)
    for t in range(HORIZON):
        seen = rows(1, t).repeat(2, 0)
        decision, memory = doubled.decide(memory, torch.from_numpy(seen), feedback, t == 0, mean_action)
        action, state = adapted.predict(seen[0], state, feedback=float(feedback[0]))
        np.testing.assert_allclose(action, decision.action[0].clamp(-1, 1), atol=1e-6)
        feedback = torch.full((2,), 0.3 * t)
    assert np.abs(adapted.predict(rows(1))[0] - agent.predict(rows(1))[0]).max() > 1e-3


def test_a_folded_policy_shares_what_has_not_adapted(agent: Agent) -> None:
    policy = agent.run.policy
    own = folded(policy, {"log_std": torch.full((1, 2), 0.25)}, critic=False)
    assert own.log_std.tolist() == [0.25, 0.25] and policy.log_std.tolist() != [0.25, 0.25]
    shared, names = dict(policy.named_parameters()), [name for name, _ in own.named_parameters()]
    assert not any(name.startswith("critic") for name in names) and len(names) > 10
    assert all(value is shared[name] for name, value in own.named_parameters() if name != "log_std")


def test_swift_is_the_same_function(agent: Agent) -> None:
    policy = agent.run.policy
    quick, hooked = swift(copy.deepcopy(policy)), copy.deepcopy(policy)
    calls: list[int] = []
    hooked.head.register_forward_hook(lambda *_: calls.append(1))
    swift(hooked)
    token = torch.randn(2, policy.layout.size)
    with torch.inference_mode():
        expected = policy.step(token, policy.initial_state(2), 0)[0]
        for each in (quick, hooked):
            assert torch.equal(each.step(token, policy.initial_state(2), 0)[0].mean, expected.mean)
    assert calls == [1]


def test_a_state_is_copied_only_for_who_goes_back(agent: Agent) -> None:
    step, policy = agent._acting, agent.run.policy
    begins, go_on = np.ones(1, bool), np.zeros(1, bool)
    felt = np.zeros(1, np.float32)
    _, one = act(step, remember_nothing(policy, 1), rows(1), felt, begins, 2, mean_action)
    _, two = act(step, one, rows(1), felt, go_on, 2, mean_action)
    assert two[0].memory.state[0].data_ptr() == one[0].memory.state[0].data_ptr(), "nothing was copied"
    _, other = act(step, one, rows(1), felt, go_on, 2, mean_action)
    assert other[0].memory.state[0].data_ptr() != one[0].memory.state[0].data_ptr()
    assert blank(policy, 1).state[0].data_ptr() != one[0].memory.state[0].data_ptr()
