"""Trials of several episodes: what follows an early end is neither time nor memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from agents.policy import Critic, Output, Policy, log_probability
from agents.transformer import TransformerPolicy
from envs.core.environment import Drawer, Environment, Step
from envs.core.tasks import Range, TaskDistribution
from metarl.algorithms.advantages import discounted_returns, generalised_advantage
from metarl.algorithms.in_context import InContext
from metarl.config.algorithms import InContextSettings, InnerLoop
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import collect

M, E, R, H = 2, 3, 3, 5
D, A = 2, 2
# The steps that count in each episode of each simulation; the second one fails where it ends.
LENGTHS = torch.tensor([[5, 2, 3, 1, 5, 4], [5, 5, 2, 1, 1, 3], [5, 2, 5, 3, 4, 5]])
FAILS = 1


class Ending(Environment):
    """Noise to see and to earn; episodes end as LENGTHS says, and go on as noise for whoever still looks."""

    name = "ending"
    success_criterion = "none"

    def __init__(self, lengths: Tensor = LENGTHS) -> None:
        super().__init__(M * E, TaskDistribution({"goal": Range(0.0, 1.0)}))
        self.horizon, self.observation_size, self.action_size = H, D, A
        self.lengths, self.episode, self.elapsed = lengths, -1, 0
        self.random = torch.Generator().manual_seed(1)

    def apply_tasks(self) -> None:
        pass

    def observe(self) -> Tensor:
        return torch.randn(self.num_simulations, D, generator=self.random)

    def reset(self, mask: Tensor | None = None) -> Tensor:
        self.episode, self.elapsed = self.episode + 1, 0
        return self.observe()

    def step(self, action: Tensor) -> Step:
        self.elapsed += 1
        length, no = self.lengths[self.episode], torch.zeros(self.num_simulations, dtype=torch.bool)
        failed = no.clone()
        failed[FAILS] = self.elapsed == length[FAILS] + 1
        over = torch.where(failed | (torch.arange(self.num_simulations) == FAILS), failed, self.elapsed == length)
        reward = torch.randn(self.num_simulations, generator=self.random)
        return Step(self.observe(), reward, {}, no, over, failed, reward)

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        return {}

    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        raise NotImplementedError


class Recurrent(Policy):
    """A layer of tanh units that sees itself; every step makes a new memory."""

    def __init__(self) -> None:
        super().__init__(D, A, "trial", R * H, 0.5)
        self.inside, self.head = nn.Linear(self.layout.size + 4, 4), nn.Linear(4, A)
        self.critic = Critic(nn.Linear(4, 1))

    def forward(self, tokens: Tensor) -> Output:
        state, seen = self.initial_state(len(tokens)), []
        for position, token in enumerate(tokens.unbind(1)):
            output, state = self.step(token, state, position)
            seen.append(output)
        return Output(*(torch.stack(part, 1) for part in zip(*seen, strict=True)))

    def initial_state(self, batch: int) -> Any:
        return torch.zeros(batch, 4)

    def step(self, token: Tensor, state: Any, position: int | Tensor) -> tuple[Output, Any]:
        state = torch.tanh(self.inside(torch.cat([self.normaliser(token), state], -1)))
        mean = self.head(state)
        return Output(mean, self.bounded_log_std(mean), self.critic(state)), state

    def head_names(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias", "log_std"})


def policy_of(kind: str) -> Policy:
    torch.manual_seed(0)
    policy = Recurrent() if kind == "recurrent" else TransformerPolicy(D, A, R * H, 8, 2, 2, "trial", attention=kind)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return policy


def played(policy: Policy, adapted: dict[str, Tensor] | None = None, lengths: Tensor = LENGTHS) -> Episodes:
    env = Ending(lengths)
    env.set_tasks(env.distribution.sample(M))
    return collect(env, policy, adapted, generator=torch.Generator().manual_seed(2), trial_episodes=R)


@pytest.mark.parametrize("adapts", [False, True])
@pytest.mark.parametrize("kind", ["math", "explicit", "fused", "recurrent"])
def test_training_sees_what_was_seen_while_acting(kind: str, adapts: bool) -> None:
    """The probability of every action that counts, of the episodes after an early end too, is found again."""
    policy = policy_of(kind)
    own, names = dict(policy.named_parameters()), sorted(policy.parameter_names("all"))
    adapted = {name: own[name].detach() + 0.2 * torch.randn(M, *own[name].shape) for name in names} if adapts else None
    episodes = played(policy, adapted)
    assert episodes.valid.sum(-1).flatten().tolist() == LENGTHS.sum(0).tolist() and episodes.failures == R - 1
    settings = InContextSettings(tasks=M, episodes=E, trial_episodes=R, inner=InnerLoop(workers=1))
    batch = InContext(policy, settings, torch.Generator()).prepare(episodes)
    assert torch.equal(batch.valid.sum(-1), episodes.valid.sum(-1))
    assert bool((batch.valid.diff(dim=-1) <= 0).all()), "a step that does not count stands before one that does"
    for m in range(M):
        mine = {name: value[m] for name, value in (adapted or {}).items()}
        with torch.no_grad():
            output = functional_call(policy, mine, (batch.tokens[m],))
        again = log_probability(output, batch.actions[m])
        counts = batch.valid[m] > 0
        torch.testing.assert_close(again[counts], batch.log_probability[m][counts], atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(output.value[counts], episodes.value[m][episodes.valid[m] > 0], atol=2e-5, rtol=2e-5)


def test_an_episode_begins_with_the_last_step_that_counted() -> None:
    """The first token of an episode has the action and the reward of the last step that counted before it."""
    policy = policy_of("math")
    episodes = played(policy)
    tokens, actions = (x.flatten(0, 1).unflatten(1, (R, H)) for x in (episodes.tokens, episodes.actions.clamp(-1, 1)))
    rewards = episodes.reward.flatten(0, 1).unflatten(1, (R, H))
    parts = policy.layout.parts
    for r in range(1, R):
        for n in range(M * E):
            last = int(LENGTHS[r - 1, n]) - 1
            first = tokens[n, r, 0]
            assert torch.equal(first[parts["previous action"]], actions[n, r - 1, last])
            assert float(first[parts["previous feedback"]]) == float(rewards[n, r - 1, last])
            assert float(first[parts["first flag"]]) == 1.0


def test_whole_episodes_lie_in_a_batch_as_they_were_played() -> None:
    policy = policy_of("math")
    episodes = played(policy, lengths=torch.full_like(LENGTHS, H + 1))
    assert bool((episodes.valid[0, 0] == 1).all())
    batch = InContext(policy, InContextSettings(trial_episodes=R), torch.Generator()).prepare(episodes)
    for name in ("tokens", "actions", "log_probability", "valid"):
        assert torch.equal(getattr(batch, name), getattr(episodes, name)), name


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("trace", [1.0, 0.8])
def test_credit_flows_from_an_episode_to_the_end_of_the_one_before(discount: float, trace: float) -> None:
    """Steps after an early end take no time: with them cut out, everything is the same."""
    lengths = LENGTHS.T[..., None]
    valid = (torch.arange(H) < lengths).flatten(1).double()
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(M * E, R * H, generator=generator).double() for _ in range(2))
    reward = reward * valid
    advantage = generalised_advantage(reward, value, valid, discount, trace)
    returns = discounted_returns(reward, valid, discount)
    for n in range(M * E):
        counts = valid[n] > 0
        earned, expected, there = (x[n][counts] for x in (reward, value, valid))
        assert torch.equal(advantage[n][counts], generalised_advantage(earned, expected, there, discount, trace))
        assert torch.equal(returns[n][counts], discounted_returns(earned, there, discount))
        assert bool((advantage[n][~counts] == 0).all())


def test_a_reward_of_the_second_episode_is_credited_to_a_first_that_ended_early() -> None:
    valid = torch.tensor([[1.0, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0]])
    reward = torch.tensor([[0.0, 0, 0, 1, 0, 0]]).expand(3, 6)
    advantage = generalised_advantage(reward, torch.zeros(3, 6), valid, 1.0, 1.0)
    assert advantage.tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0]]
