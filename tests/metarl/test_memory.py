"""A policy's memory is any tree of tensors, and what `step` returns is what the next step gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.mlp import MLPPolicy
from agents.policy import Critic, Output, Policy
from agents.transformer import TransformerPolicy
from envs.registry import make
from metarl.rollouts.acting import acting
from metarl.rollouts.rollout import collect

M, E, H = 2, 3, 6
D, A = 2, 2


class Recurrent(Policy):
    """A layer of tanh units that sees itself; every step makes a new memory, of the kind that is asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__(D, A, "trial", 2 * H, 0.5)
        self.kind = kind
        self.inside = torch.nn.Linear(self.layout.size + 4, 4)
        self.head = torch.nn.Linear(4, A)
        self.critic = Critic(torch.nn.Linear(4, 1))

    def next_hidden(self, token: Tensor, hidden: Tensor) -> Tensor:
        return torch.tanh(self.inside(torch.cat([self.normaliser(token), hidden], -1)))

    def outputs(self, hidden: Tensor) -> Output:
        mean = self.head(hidden)
        return Output(mean, self.bounded_log_std(mean), self.critic(hidden))

    def forward(self, tokens: Tensor) -> Output:
        hidden, seen = torch.zeros(len(tokens), 4), []
        for token in tokens.unbind(1):
            hidden = self.next_hidden(token, hidden)
            seen.append(hidden)
        return self.outputs(torch.stack(seen, 1))

    def initial_state(self, batch: int) -> Any:
        return self.packed(torch.zeros(batch, 4))

    def step(self, token: Tensor, state: Any, position: int | Tensor) -> tuple[Output, Any]:
        hidden = self.next_hidden(token, self.unpacked(state))
        return self.outputs(hidden), self.packed(hidden)

    def packed(self, hidden: Tensor) -> Any:
        trees = {"tensor": hidden, "tuple": (hidden,), "tree": {"halves": hidden.split(2, -1), "nothing": [None, ()]}}
        return trees[self.kind]

    def unpacked(self, state: Any) -> Tensor:
        if self.kind == "tensor":
            return state
        return state[0] if self.kind == "tuple" else torch.cat(state["halves"], -1)

    def head_names(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias", "log_std"})


def per_task(policy: Policy) -> dict[str, Tensor]:
    """Different parameters for each task."""
    own, names = dict(policy.named_parameters()), sorted(policy.parameter_names("all"))
    return {name: own[name].detach() + 0.3 * torch.randn(M, *own[name].shape) for name in names}


def recurrent(kind: str) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(kind)


@pytest.mark.parametrize("adapts", [False, True])
@pytest.mark.parametrize("kind", ["tensor", "tuple", "tree"])
def test_a_policy_that_returns_a_fresh_memory_remembers(kind: str, adapts: bool) -> None:
    policy = recurrent(kind)
    adapted = per_task(policy) if adapts else None
    env = make("point2d", M * E, horizon=H)
    env.set_tasks(env.distribution.sample(M))
    episodes = collect(env, policy, adapted, generator=torch.Generator().manual_seed(1), trial_episodes=2)
    for m in range(M):
        own = {name: value[m] for name, value in (adapted or {}).items()}
        with torch.no_grad():
            whole = functional_call(policy, own, (episodes.tokens[m],))
        torch.testing.assert_close(episodes.value[m], whole.value)
        forgetful = functional_call(policy, own, (episodes.tokens[m].flatten(0, 1)[:, None],)).value.view(E, 2 * H)
        assert (forgetful - whole.value)[:, 1:].abs().min() > 1e-6, "memory makes no difference: the test shows nothing"


@pytest.mark.parametrize("context", ["none", "step", "episode"])
def test_without_memory_of_a_trial_an_episode_begins_with_nothing(context: str) -> None:
    policy = TransformerPolicy(D, A, H, width=8, context=context)
    env = make("point2d", M * E, horizon=H)
    env.set_tasks(env.distribution.sample(M))
    tokens = collect(env, policy, generator=torch.Generator().manual_seed(1), trial_episodes=2).tokens
    for name in ("previous action", "previous feedback"):
        told = tokens[..., policy.layout.parts[name]]
        assert not told[:, :, H].any() and told[:, :, H + 1].any()


@pytest.mark.parametrize("length", [H, 2 * H])
def test_a_trial_with_room_for_one_episode_begins_anew_after_it(length: int) -> None:
    policy = TransformerPolicy(D, A, length, width=8, context="trial")
    env = make("point2d", M * E, horizon=H)
    env.set_tasks(env.distribution.sample(M))
    tokens = collect(env, policy, generator=torch.Generator().manual_seed(1), trial_episodes=2).tokens[:, :, H]
    parts = policy.layout.parts
    for name in ("previous action", "previous feedback"):
        assert bool((tokens[..., parts[name]] == 0).all()) == (length == H)


def test_a_memory_that_is_written_in_place_is_not_copied() -> None:
    policy = TransformerPolicy(D, A, H, width=8, layers=2, heads=2)
    state, act = policy.initial_state(M * E), acting(policy, per_task(policy), M)
    after = state
    with torch.inference_mode():
        for t in range(H):
            _, after = act(torch.randn(M * E, policy.layout.size), after, t)
    for before, kept in zip(state, after, strict=True):
        assert kept.data_ptr() == before.data_ptr() and kept.stride() == before.stride()
        assert torch.equal(kept, before) and bool((before != 0).any())


class Nothing(MLPPolicy):
    """Says so by None, where its base class says it by ()."""

    def initial_state(self, batch: int) -> Any:
        return None

    def step(self, token: Tensor, state: Any, position: int | Tensor) -> tuple[Output, Any]:
        assert state is None
        return self(token), None


@pytest.mark.parametrize("kind", [MLPPolicy, Nothing])
def test_a_policy_may_remember_nothing(kind: type[MLPPolicy]) -> None:
    policy = kind(D, A, hidden=(4,))
    start = policy.initial_state(M * E)
    output, after = acting(policy, per_task(policy), M)(torch.randn(M * E, policy.layout.size), start, 0)
    assert output.mean.shape == (M * E, A) and after == start
