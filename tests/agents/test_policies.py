"""Policies: acting step by step equals the whole pass, what each token may influence, normalisation, adapting names."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.errors import PolicyError
from agents.mlp import MLPPolicy
from agents.policy import Critic, Normaliser, Output, Policy, entropy, log_probability
from agents.token import TokenLayout
from agents.transformer import TransformerPolicy

D, A, T = 3, 2, 5
F = D + A + 2
CONTEXTS = ["none", "episode", "trial"]
P = TypeVar("P", bound=Policy)


def transformer(context: str = "episode", length: int = T, attention: str = "math") -> TransformerPolicy:
    torch.manual_seed(1)
    policy = TransformerPolicy(D, A, length, width=8, layers=2, heads=2, context=context, attention=attention)
    return shaken(policy)


def mlp() -> MLPPolicy:
    torch.manual_seed(1)
    return shaken(MLPPolicy(D, A, hidden=(8, 8)))


def shaken(policy: P) -> P:
    """Every parameter away from its start, and token statistics other than 0 and 1: nothing can hide behind a zero."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    policy.normaliser.update(2.0 * torch.randn(40, F) + 1.0)
    return policy


def tokens(batch: int = 3, length: int = T) -> Tensor:
    return torch.randn(batch, length, F, generator=torch.Generator().manual_seed(2))


def play(policy: Policy, sequence: Tensor) -> Output:
    """Outputs (B, T, ...) of acting on one token after the other."""
    state = policy.initial_state(sequence.shape[0])
    outputs = []
    with torch.no_grad():
        for position in range(sequence.shape[1]):
            output, state = policy.step(sequence[:, position], state, position)
            outputs.append(output)
    return Output(*(torch.stack(parts, 1) for parts in zip(*outputs, strict=True)))


def assert_equal(left: Output, right: Output, tolerance: float = 2e-5) -> None:
    for name, a, b in zip(Output._fields, left, right, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("attention", ["math", "explicit", "fused"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_acting_equals_the_whole_pass(context: str, attention: str) -> None:
    policy, sequence = transformer(context, attention=attention), tokens()
    with torch.no_grad():
        whole = policy(sequence)
    assert [x.shape for x in whole] == [(3, T, A), (3, T, A), (3, T)]
    assert_equal(play(policy, sequence), whole)


@pytest.mark.parametrize("position", [0, 2, T - 1])
def test_attention_weights_are_those_of_the_whole_pass(position: int) -> None:
    """The softmax, written out over the whole sequence."""
    policy, sequence, state = transformer(), tokens(), None
    with torch.no_grad():
        state = policy.initial_state(len(sequence))
        for t in range(position + 1):
            _, state = policy.step(sequence[:, t], state, t)
        before = [memory.clone() for memory in state]
        weights = policy.attention_weights(sequence[:, position], state, position)
        hidden = policy.embed(policy.visible(policy.normaliser(sequence))) + policy.position
        for layer, block in enumerate(policy.stack()):
            query, key, value = block.split(hidden)
            scores = torch.einsum("bhtd,bhsd->bhts", query, key) / math.sqrt(query.shape[-1])
            scores = torch.where(torch.ones(T, T).tril() > 0, scores, -torch.inf)
            expected = scores.exp() / scores.exp().sum(-1, keepdim=True)
            torch.testing.assert_close(weights[:, layer], expected[:, :, position, : position + 1])
            hidden = block.merge(hidden, expected @ value)
    assert weights.shape == (3, 2, 2, position + 1)
    assert all(torch.equal(old, new) for old, new in zip(before, state, strict=True))


@pytest.mark.parametrize("policy", [transformer("step"), mlp()], ids=["transformer", "mlp"])
def test_a_policy_without_memory_does_not_attend(policy: Policy) -> None:
    assert not policy.attends and transformer().attends
    with pytest.raises(PolicyError, match=f"{type(policy).__name__} does not attend"):
        policy.attention_weights(tokens()[:, 0], policy.initial_state(3), 0)


def test_acting_equals_the_whole_pass_without_memory() -> None:
    policy, sequence = mlp(), tokens()
    with torch.no_grad():
        assert_equal(play(policy, sequence), policy(sequence))


@pytest.mark.parametrize("context", ["episode", "trial"])
@pytest.mark.parametrize("changed", range(T))
def test_a_token_changes_nothing_before_itself(context: str, changed: int) -> None:
    policy, sequence = transformer(context), tokens()
    other = sequence.clone()
    other[:, changed] += 1.0
    with torch.no_grad():
        before, after = policy(sequence), policy(other)
    assert torch.equal(before.mean[:, :changed], after.mean[:, :changed])
    assert torch.equal(before.value[:, :changed], after.value[:, :changed])
    # ... and everything from there on: the context is used.
    assert bool(((before.mean[:, changed:] - after.mean[:, changed:]).abs().amax((0, 2)) > 1e-4).all())


def test_the_steps_before_the_present_are_told_apart() -> None:
    policy, sequence = transformer(), tokens()
    swapped = sequence[:, [1, 0, 2, 3, 4]]
    with torch.no_grad():
        difference = (policy(sequence).mean - policy(swapped).mean)[:, 2:].abs().amax()
    assert difference > 1e-4


@pytest.mark.parametrize("policy", [transformer("none"), mlp()], ids=["transformer", "mlp"])
def test_without_context_only_the_present_observation_counts(policy: Policy) -> None:
    sequence = tokens()
    hidden = sequence.clone()
    hidden[..., D:] += 1.0
    past = sequence.clone()
    past[:, 0] += 1.0
    seen = sequence.clone()
    seen[..., :D] += 1.0
    with torch.no_grad():
        whole = policy(sequence)
        assert_equal(policy(hidden), whole, 0.0)
        assert_equal(Output(*(x[:, 1:] for x in policy(past))), Output(*(x[:, 1:] for x in whole)))
        assert bool((policy(seen).mean != whole.mean).all())


@pytest.mark.parametrize("entry", [D, D + A, D + A + 1], ids=["previous action", "previous reward", "first flag"])
def test_with_context_every_entry_of_the_token_counts(entry: int) -> None:
    policy, sequence = transformer(), tokens()
    other = sequence.clone()
    other[..., entry] += 1.0
    with torch.no_grad():
        assert (policy(other).mean - policy(sequence).mean).abs().max() > 1e-4


def test_without_context_any_length_will_do() -> None:
    policy = transformer("none", length=2)
    assert_equal(play(policy, tokens(length=9)), policy(tokens(length=9)))


@pytest.mark.parametrize("context", ["episode", "trial"])
def test_a_sequence_beyond_the_context_is_refused(context: str) -> None:
    policy = transformer(context, length=3)
    with pytest.raises(PolicyError, match="a sequence of 4 steps is longer than the policy's context of 3"):
        policy(tokens(length=4))
    with pytest.raises(PolicyError, match="step 4 is beyond the policy's context of 3"):
        play(policy, tokens(length=4))
    assert play(policy, tokens(length=3)).value.shape == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "forever"}, r"context=forever: unknown choice \(valid: none, step, episode, trial\)"),
        ({"width": 9, "heads": 2}, "width=9 must be a multiple of heads=2"),
        ({"layers": 0}, "layers=0 at least 1"),
        ({"initial_std": 0.0}, "initial_std must be positive, got 0.0"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        TransformerPolicy(D, A, T, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "sine"}, r"activation=sine: unknown \(valid: relu, tanh\)"),
        ({"hidden": []}, r"hidden=\[\]: give at least one positive layer width"),
        ({"hidden": [8, 0]}, r"hidden=\[8, 0\]"),
    ],
)
def test_an_mlp_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        MLPPolicy(D, A, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", [transformer(), mlp()], ids=["transformer", "mlp"])
def test_adapting_names_are_those_that_move_the_actions(policy: Policy) -> None:
    """`all` is what the log probability depends on: found here by its gradient, not by its name."""
    sequence, action = tokens(), torch.randn(3, T, A)
    loss = log_probability(policy(sequence), action).sum()
    named = dict(policy.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    acting = {name for name, gradient in zip(named, grads, strict=True) if gradient is not None}
    assert policy.parameter_names("all") == acting
    head, body = policy.parameter_names("head"), policy.parameter_names("body")
    assert head and body and head | body == acting and not head & body
    assert "log_std" in head and any(name.startswith("head.") for name in head)
    assert policy.critic_names() == set(named) - acting
    with pytest.raises(PolicyError, match=r"adapt=heads: unknown choice \(valid: all, head, body\)"):
        policy.parameter_names("heads")


def test_log_probability_and_entropy_are_those_of_torch() -> None:
    output = transformer()(tokens())
    action = torch.randn(3, T, A)
    normal = torch.distributions.Normal(output.mean, torch.exp(output.log_std))
    torch.testing.assert_close(log_probability(output, action), normal.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy(output), normal.entropy().sum(-1))


def test_the_standard_deviation_starts_as_asked_and_stays_in_range() -> None:
    policy = TransformerPolicy(D, A, T, initial_std=0.3)
    torch.testing.assert_close(policy(tokens()).log_std, torch.full((3, T, A), math.log(0.3)))
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-50.0, 50.0]))
    assert policy(tokens()).log_std[0, 0].tolist() == [-4.0, 1.0]


def test_the_normaliser_keeps_mean_and_variance_of_all_that_it_saw() -> None:
    normaliser, generator = Normaliser(TokenLayout(D, A)), np.random.default_rng(0)
    batches = [
        generator.normal(size, 1.0 + size, (size, F)).astype(np.float32) + 100.0 * (size == 7) for size in (1, 7, 30)
    ]
    for batch in batches:
        normaliser.update(torch.from_numpy(batch))
    everything = np.concatenate(batches).astype(np.float64)
    scaled = [0, 1, 2, D + A]  # observation and reward; actions and flag pass unchanged
    np.testing.assert_allclose(normaliser.mean[scaled], everything.mean(0)[scaled], rtol=1e-5)
    np.testing.assert_allclose(normaliser.variance[scaled], everything.var(0)[scaled], rtol=1e-5)
    assert normaliser.count == 38
    probe = torch.from_numpy(everything[:5]).float()
    expected = (probe - torch.from_numpy(everything.mean(0))) / torch.from_numpy(everything.std(0))
    torch.testing.assert_close(normaliser(probe)[:, scaled], expected[:, scaled].float(), atol=1e-4, rtol=1e-4)
    rest = [i for i in range(F) if i not in scaled]
    small = torch.rand(5, F)
    torch.testing.assert_close(normaliser(small)[:, rest], small[:, rest])


def test_the_normaliser_clips_and_lets_an_empty_batch_pass() -> None:
    normaliser = Normaliser(TokenLayout(D, A))
    normaliser.update(torch.randn(20, F))
    before = {name: value.clone() for name, value in normaliser.state_dict().items()}
    normaliser.update(torch.zeros(0, F))
    assert all(torch.equal(value, before[name]) for name, value in normaliser.state_dict().items())
    assert normaliser(torch.full((1, F), 1e6)).abs().max() == 10.0


def test_the_normaliser_moves_by_update_alone() -> None:
    policy = transformer()
    before = {name: value.clone() for name, value in policy.normaliser.state_dict().items()}
    policy.train()
    policy(tokens() + 100.0)
    play(policy, tokens() + 100.0)
    assert all(torch.equal(value, before[name]) for name, value in policy.normaliser.state_dict().items())


def test_the_critic_follows_the_targets_units_without_changing_an_estimate() -> None:
    generator = torch.Generator().manual_seed(0)
    critic = Critic(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    features = torch.randn(50, 3, generator=generator)
    before = critic(features)
    targets = 300.0 + 40.0 * torch.randn(1000, generator=generator)
    critic.rescale(targets)
    torch.testing.assert_close(critic(features), before, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(critic.mean, targets.mean())
    torch.testing.assert_close(critic.deviation, targets.std(unbiased=False))
    for _ in range(200):  # another mean, and less spread
        critic.rescale(targets / 10.0)
    torch.testing.assert_close(critic(features), before, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(critic.mean, targets.mean() / 10.0, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(critic.deviation, targets.std(unbiased=False) / 10.0, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("targets", [torch.zeros(0), torch.tensor([1.0, torch.nan])])
def test_the_critic_ignores_targets_that_say_nothing(targets: Tensor) -> None:
    critic = Critic(torch.nn.Linear(3, 1))
    critic.rescale(targets)
    assert (float(critic.mean), float(critic.deviation), float(critic.count)) == (0.0, 1.0, 0.0)


def test_targets_that_are_all_alike_leave_the_critic_finite() -> None:
    critic = Critic(torch.nn.Linear(3, 1))
    critic.rescale(torch.full((10,), 5.0))
    assert torch.isfinite(critic(torch.ones(2, 3))).all()
