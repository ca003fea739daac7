"""A policy that learns to tell the hidden task from what it remembers, in training alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.errors import PolicyError
from agents.transformer import TransformerPolicy
from envs.registry import make
from metarl.algorithms.in_context import InContext
from metarl.assembly.build import build_policy
from metarl.config.algorithms import PPO, InContextSettings
from metarl.config.composition import compose
from metarl.rollouts.episodes import Batch

D, A, T, P, B = 3, 2, 5, 4, 6


def estimating(context: str = "episode") -> TransformerPolicy:
    torch.manual_seed(0)
    return TransformerPolicy(D, A, T, width=8, context=context, privileged_size=P, estimates_task=True)


def sequences(policy: TransformerPolicy) -> Batch:
    """Sequences (B, T, ...), of which the last ones end early, and a policy whose normaliser knows them."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(B, T, policy.layout.size, generator=generator) * 3.0 + 1.0
    policy.normaliser.update(tokens.flatten(0, 1))
    with torch.no_grad():
        output = policy(tokens)
    actions = output.mean + 0.3 * torch.randn(B, T, A, generator=generator)
    valid = (torch.arange(T) < torch.tensor([[5], [5], [5], [5], [3], [1]])).float()
    advantage, target = torch.randn(2, B, T, generator=generator)
    return Batch(tokens, actions, torch.full((B, T), -2.0), advantage, target, valid, advantage)


@pytest.mark.parametrize("context", ["none", "step", "episode"])
def test_the_error_is_that_of_an_estimate_from_what_actions_may_depend_on(context: str) -> None:
    policy = estimating(context)
    tokens = sequences(policy).tokens
    estimates: list[Tensor] = []
    policy.task_head.register_forward_hook(lambda *call: estimates.append(call[-1].view(B, T, P)))
    output, error = policy.task_error(tokens)
    for ours, plain in zip(output, policy(tokens), strict=True):
        assert torch.equal(ours, plain)
    target = policy.layout.task(policy.normaliser(tokens))
    torch.testing.assert_close(error, 0.5 * (estimates[0] - target).square().sum(-1))
    moved = tokens.clone()
    moved[..., policy.layout.acting_size :] += 0.7
    assert not torch.allclose(policy.task_error(moved)[1], error)
    assert torch.equal(estimates[1], estimates[0])


def test_its_weight_is_that_of_the_settings_and_what_is_not_valid_does_not_count() -> None:
    policy = estimating()
    part = sequences(policy)
    losses = {}
    for weight in (0.0, 0.25):
        settings = InContextSettings(tasks=B, outer=PPO(task_coef=weight))
        losses[weight] = InContext(policy, settings, torch.Generator()).outer_loss({}, part)
    error = policy.task_error(part.tokens)[1]
    torch.testing.assert_close(losses[0.25] - losses[0.0], 0.25 * error[part.valid > 0].mean())
    assert not torch.isclose(error[part.valid > 0].mean(), error.mean())


def test_training_teaches_the_memory() -> None:
    # The task is told once, by the first action: a policy that remembers it can tell the task ever after.
    policy = estimating()
    part = sequences(policy)
    tokens = torch.randn(64, T, policy.layout.size, generator=torch.Generator().manual_seed(2))
    tokens[..., policy.layout.acting_size :] = tokens[:, :1, :1]
    tokens[:, 1:, :D] = 0.0
    batch = Batch(*(x.repeat(11, *[1] * (x.dim() - 1))[:64, None] for x in part))._replace(
        tokens=tokens[:, None], advantage=torch.zeros(64, 1, T), valid=torch.ones(64, 1, T)
    )
    outer = PPO(task_coef=1.0, value_coef=0.0, n_epochs=60, minibatches=1, learning_rate=1e-2)
    learner = InContext(policy, InContextSettings(tasks=64, outer=outer), torch.Generator().manual_seed(0))
    before = policy.task_error(tokens)[1].detach()
    learner.update([batch])
    after = policy.task_error(tokens)[1].detach()
    assert before[:, -1].mean() > 0.5 and after[:, -1].mean() < 0.1 * before[:, -1].mean()


def test_no_action_depends_on_the_estimate() -> None:
    policy = estimating()
    names = {name for name, _ in policy.named_parameters() if name.startswith("task_head.")}
    assert names and names <= policy.critic_names() and not names & policy.parameter_names("all")


def test_it_is_a_setting_that_needs_the_task() -> None:
    words = ("env=reach", "algo=in_context", "agent.estimates_task=true")
    with pytest.raises(PolicyError, match="estimates_task=true needs critic_sees_task=true"):
        build_policy(compose(words).agent, make("reach", 1), 1, torch.device("cpu"))
    settings = compose((*words, "agent.critic_sees_task=true"))
    policy = build_policy(settings.agent, make("reach", 1), 1, torch.device("cpu"))
    assert policy.estimates_task and policy.layout.privileged_size == 3
    with pytest.raises(PolicyError, match="TransformerPolicy does not estimate the task"):
        TransformerPolicy(D, A, T, privileged_size=P).task_error(torch.zeros(1, T, D + A + 2 + P))
