"""The meta-gradient: against finite differences, against a plain loop of autograd, and on a problem that it solves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Policy
from metarl.algorithms.adaptation import Parameters, adapt, inner_step, inner_step_and_loss
from metarl.algorithms.maml import MAML, compiled, meta_gradient, meta_loss, meta_loss_with_unadapted
from metarl.algorithms.objectives import ppo, surrogate
from metarl.config.algorithms import PPO, MAMLSettings, MetaInnerLoop
from metarl.rollouts.episodes import Batch
from metarl.rollouts.folded import twin

TASKS = 3


def task(batch: Batch, index: int) -> Batch:
    """One task's part of a batch."""
    return Batch(*(x[index] for x in batch))


@dataclass(frozen=True)
class Problem:
    """A policy, the batches of all tasks, and the settings of the inner loop."""

    policy: Policy
    parameters: Parameters
    log_rates: Parameters
    support: list[Batch]
    query: Batch
    first_order: bool = False
    clip: float | None = None
    unadapted_weight: float = 0.0
    later_rate: float = 1.0

    def inner(self, parameters: Parameters, batch: Batch) -> Tensor:
        return surrogate(functional_call(self.policy, parameters, (batch.tokens,)), batch)

    def outer(self, parameters: Parameters, batch: Batch) -> Tensor:
        return ppo(functional_call(self.policy, parameters, (batch.tokens,)), batch, 0.2, 0.5, 0.01)

    def both(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
        output = functional_call(self.policy, parameters, (batch.tokens,))
        return surrogate(output, batch), ppo(output, batch, 0.2, 0.5, 0.01)

    def task_loss(
        self, parameters: Parameters, log_rates: Parameters, support: Sequence[Batch], query: Batch
    ) -> Tensor:
        options: dict[str, Any] = {"first_order": self.first_order, "max_norm": self.clip}
        first = {name: torch.exp(value) for name, value in log_rates.items()}
        later = {name: self.later_rate * rate for name, rate in first.items()}
        rates = [later if number else first for number in range(len(support))]
        data = (partial(inner_step, self.inner, **options), self.outer, parameters, rates, support, query)
        if not self.unadapted_weight:
            return meta_loss(*data)
        return meta_loss_with_unadapted(
            partial(inner_step_and_loss, self.both, **options), *data, self.unadapted_weight
        )

    def gradient(self, chunk: int = 1, **options: Any) -> tuple[Parameters, Parameters, Tensor]:
        data = self.support, self.query
        return meta_gradient(
            self.task_loss, self.parameters, self.log_rates, *data, tasks=TASKS, chunk=chunk, **options
        )

    def plain_gradient(self) -> tuple[Parameters, Parameters, Tensor]:
        """The same by torch.autograd alone, one task after the other."""
        theta = {name: value.detach().clone().requires_grad_() for name, value in self.parameters.items()}
        log_rates = {name: value.detach().clone().requires_grad_() for name, value in self.log_rates.items()}
        total = torch.zeros((), dtype=torch.float64)
        for m in range(TASKS):
            adapted = dict(theta)
            for number, batch in enumerate(self.support):
                adapted = self._plain_step(adapted, log_rates, task(batch, m), 1.0 if number == 0 else self.later_rate)
            total = total + self.outer(adapted, task(self.query, m))
            total = total + self.unadapted_weight * self.outer(theta, task(self.support[0], m))
        total = total / TASKS
        leaves = [*theta.values(), *log_rates.values()]
        grads = torch.autograd.grad(total, leaves)
        return (
            dict(zip(theta, grads[: len(theta)], strict=True)),
            dict(zip(log_rates, grads[len(theta) :], strict=True)),
            total.detach(),
        )

    def _plain_step(self, theta: Parameters, log_rates: Parameters, batch: Batch, factor: float) -> Parameters:
        names = list(log_rates)
        loss = self.inner(theta, batch)
        grads = torch.autograd.grad(loss, [theta[name] for name in names], create_graph=not self.first_order)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        scale = 1.0 if self.clip is None or norm <= self.clip else self.clip / norm
        stepped = {
            name: theta[name] - factor * log_rates[name].exp() * scale * gradient
            for name, gradient in zip(names, grads, strict=True)
        }
        return {**theta, **stepped}


@pytest.fixture
def build(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> Callable[..., Problem]:
    """Problems on the tiny Transformer, with an inner step large enough to matter."""

    def build_problem(steps: int = 1, adapt: str = "all", attention: str = "explicit", **settings: Any) -> Problem:
        tiny_policy.set_attention(attention)
        names = sorted(tiny_policy.parameter_names(adapt))
        log_rates = {name: torch.tensor(0.3 + 0.01 * i, dtype=torch.float64).log() for i, name in enumerate(names)}
        batches = [make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in range(steps + 1)]
        parameters = {name: value.detach() for name, value in tiny_policy.named_parameters()}
        return Problem(tiny_policy, parameters, log_rates, batches[:-1], batches[-1], **settings)

    return build_problem


def assert_same(left: tuple[Parameters, Parameters, Tensor], right: tuple[Parameters, Parameters, Tensor]) -> None:
    torch.testing.assert_close(left[2], right[2], rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(left[:2], right[:2], strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=1e-7, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )


VARIANTS: list[dict[str, Any]] = [
    {},
    {"steps": 2},
    {"steps": 2, "later_rate": 0.5},
    {"attention": "math"},
    {"attention": "math", "steps": 2, "clip": 0.1},
    {"adapt": "head"},
    {"adapt": "body", "steps": 2},
    {"clip": 0.1},
    {"clip": 1e6},
    {"unadapted_weight": 0.7},
    {"clip": 0.1, "steps": 2, "unadapted_weight": 1.0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_the_meta_gradient_is_that_of_a_plain_loop(
    build: Callable[..., Problem], first_order: bool, variant: dict[str, Any]
) -> None:
    problem = build(first_order=first_order, **variant)
    assert_same(problem.gradient(chunk=2), problem.plain_gradient())


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("attention", ["explicit", "math"])
def test_the_meta_gradient_does_not_depend_on_the_chunk(
    build: Callable[..., Problem], chunk: int, attention: str
) -> None:
    problem = build(steps=2, clip=0.1, unadapted_weight=0.5, attention=attention)
    assert_same(problem.gradient(chunk=chunk), problem.plain_gradient())


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant.get("clip") != 1e6], ids=str)
def test_the_meta_gradient_is_that_of_finite_differences(
    build: Callable[..., Problem], variant: dict[str, Any]
) -> None:
    problem = build(**variant)
    grads, rate_grads, _ = problem.gradient(chunk=TASKS)
    generator = torch.Generator().manual_seed(5)

    def random_like(values: Parameters) -> Parameters:
        return {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in values.items()}

    def loss_at(shift: float, direction: Parameters, rate_direction: Parameters) -> Tensor:
        parameters = {n: v + shift * direction[n] for n, v in problem.parameters.items()}
        rates = {n: v + shift * rate_direction[n] for n, v in problem.log_rates.items()}
        losses = [
            problem.task_loss(parameters, rates, [task(s, m) for s in problem.support], task(problem.query, m))
            for m in range(TASKS)
        ]
        return torch.stack(losses).mean()

    zeros = {n: torch.zeros_like(v) for n, v in problem.parameters.items()}
    no_rates = {n: torch.zeros_like(v) for n, v in problem.log_rates.items()}
    directions = [(random_like(zeros), no_rates), (zeros, random_like(no_rates))]
    directions += [(random_like(zeros), random_like(no_rates)) for _ in range(2)]
    for direction, rate_direction in directions:
        derivative = sum((grads[n] * direction[n]).sum() for n in grads)
        derivative = derivative + sum((rate_grads[n] * rate_direction[n]).sum() for n in rate_grads)
        h = 1e-6
        difference = (loss_at(h, direction, rate_direction) - loss_at(-h, direction, rate_direction)) / (2 * h)
        torch.testing.assert_close(torch.as_tensor(derivative), difference, rtol=1e-5, atol=1e-7)
        assert abs(float(difference)) > 1e-4, "the direction tells nothing"


@pytest.mark.parametrize("workers", [2, 4])
def test_several_threads_give_the_same_meta_gradient(build: Callable[..., Problem], workers: int) -> None:
    problem = build(steps=2, clip=0.1, unadapted_weight=0.5)
    others = [replace(problem, policy=twin(problem.policy)) for _ in range(workers - 1)]
    losses = [each.task_loss for each in (problem, *others)]
    data = problem.parameters, problem.log_rates, problem.support, problem.query
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in range(3):  # what threads do to each other need not show at once
            assert_same(meta_gradient(losses, *data, tasks=TASKS, chunk=1), problem.plain_gradient())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_twin_has_the_same_tensors_and_is_another_module(tiny_policy: Policy) -> None:
    other = twin(tiny_policy)
    ours, theirs = tiny_policy.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)
    assert not {id(module) for module in tiny_policy.modules()} & {id(module) for module in other.modules()}


def test_what_is_compiled_is_the_same_gradient(build: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    problem = build(steps=2, clip=0.1, attention="math")
    assert_same(problem.gradient(chunk=2, differentiate=compiled), problem.plain_gradient())


@pytest.mark.nightly
def test_compiling_changes_nothing(build: Callable[..., Problem]) -> None:
    problem = build(clip=0.1, attention="math")
    assert_same(problem.gradient(chunk=TASKS, differentiate=compiled), problem.plain_gradient())


def test_first_and_second_order_differ(build: Callable[..., Problem]) -> None:
    second, first = build().gradient()[0], build(first_order=True).gradient()[0]
    assert max(float((second[n] - first[n]).abs().max()) for n in second) > 1e-3


def test_parameters_that_do_not_adapt_have_a_meta_gradient_too(build: Callable[..., Problem]) -> None:
    grads, rate_grads, _ = build(adapt="head").gradient()
    assert set(rate_grads) < set(grads)
    assert all(float(g.abs().max()) > 0 for g in grads.values())


def test_a_task_without_signal_leaves_the_meta_gradient_finite(build: Callable[..., Problem]) -> None:
    """Its inner gradient is exactly 0, where the norm that clips has no derivative."""
    problem = build(clip=0.1)
    support = [
        s._replace(inner_advantage=s.inner_advantage * torch.tensor([0.0, 1.0, 1.0])[:, None, None])
        for s in problem.support
    ]
    grads, rate_grads, _ = replace(problem, support=support).gradient()
    assert all(bool(torch.isfinite(g).all()) for g in [*grads.values(), *rate_grads.values()])


def settings(**inner: Any) -> MAMLSettings:
    outer = PPO(learning_rate=1e-2, n_epochs=1, minibatches=1, entropy_coef=0.01, max_grad_norm=1e9)
    inner = {"rate": 0.3, "learn_rates": False, "unadapted_weight": 0.0} | inner
    return MAMLSettings(tasks=TASKS, episodes=2, inner=MetaInnerLoop(**inner), outer=outer)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(("chunk", "workers"), [(1, 1), (2, 1), (0, 1), (1, 2), (0, 2), (1, 5)])
def test_the_learner_gives_the_optimiser_the_meta_gradient(
    tiny_policy: Policy, make_batch: Callable[..., Batch], chunk: int, workers: int, first_order: bool
) -> None:
    inner = {"steps": 2, "max_grad_norm": 0.1, "unadapted_weight": 0.5, "later_rate": 0.5, "learn_rates": True}
    options = settings(chunk=chunk, workers=workers, first_order=first_order, **inner)
    learner = MAML(tiny_policy, options, torch.Generator())
    learner.rate_parameters |= {name: value.double() for name, value in learner.rate_parameters.items()}
    assert learner.rounds == 3
    rounds = [make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in range(3)]
    parameters = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}
    problem = Problem(
        tiny_policy, parameters, dict(learner.rate_parameters), rounds[:-1], rounds[-1], first_order, 0.1, 0.5, 0.5
    )
    grads, rate_grads, loss = problem.plain_gradient()
    metrics = learner.update(rounds)
    for name, parameter in tiny_policy.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-7, atol=1e-10)
        assert bool((parameter != parameters[name]).any())
    for name, rate in learner.rate_parameters.items():
        torch.testing.assert_close(rate.grad, rate_grads[name], rtol=1e-7, atol=1e-10)
    assert metrics["loss"] == pytest.approx(float(loss))
    assert (metrics["updates"], metrics["skipped_updates"]) == (1.0, 0.0)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_nothing_is_computed_twice(
    tiny_policy: Policy, make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    learner = MAML(tiny_policy, settings(steps=2, unadapted_weight=weight), torch.Generator())
    passes, sound = [], MAML.outputs
    monkeypatch.setattr(MAML, "outputs", lambda self, *given: passes.append(1) or sound(self, *given))
    rounds = [task(make_batch(tiny_policy, TASKS, 2, 4, seed), 0) for seed in range(3)]
    parameters = {name: value.detach() for name, value in tiny_policy.named_parameters()}
    learner.task_loss(parameters, learner.rate_parameters, rounds[:-1], rounds[-1])
    assert len(passes) == 3, "one for each inner step, and one for the loss"


@pytest.mark.parametrize("name", ["inner_loss", "outer_loss"])
def test_a_loss_of_a_subclass_counts_before_the_first_step_too(
    tiny_policy: Policy, make_batch: Callable[..., Batch], name: str
) -> None:
    own = type("Own", (MAML,), {name: lambda self, *given: 0.5 * getattr(MAML, name)(self, *given)})
    learner = own(tiny_policy, settings(steps=1, unadapted_weight=0.5), torch.Generator())
    batch = task(make_batch(tiny_policy, TASKS, 2, 4, 0), 0)
    parameters = {name: value.detach() for name, value in tiny_policy.named_parameters()}
    rates = learner.rates()
    stepped, unadapted = learner.first_step(parameters, rates, batch)
    torch.testing.assert_close(unadapted, learner.outer_loss(parameters, batch))
    torch.testing.assert_close(stepped, learner.inner_step(parameters, rates, batch))


def test_what_acts_is_what_the_meta_gradient_assumes(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    """Adaptation between rollouts, all tasks at once, is the inner loop of the loss."""
    learner = MAML(tiny_policy, settings(steps=2, max_grad_norm=0.1, later_rate=0.5, adapt="body"), torch.Generator())
    rounds = [make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in range(2)]
    adapted = None
    for batch in rounds:
        adapted = learner.adapt(adapted, batch)
    assert adapted is not None and set(adapted) == tiny_policy.parameter_names("body")
    start = {name: learner.parameters[name].detach() for name in adapted}
    for m in range(TASKS):
        support = [task(batch, m) for batch in rounds]
        one = adapt(learner.inner_step, start, learner.step_rates(learner.rate_parameters, 2), support)
        for name, value in one.items():
            torch.testing.assert_close(adapted[name][m], value)


def test_rates_move_at_their_own_rate_if_they_are_learned(
    tiny_policy: Policy, make_batch: Callable[..., Batch]
) -> None:
    rounds = [make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in range(2)]
    for learned in (True, False):
        learner = MAML(tiny_policy, settings(learn_rates=learned, rate_multiplier=3.0), torch.Generator())
        before = torch.stack(list(learner.rate_parameters.values())).clone()
        learner.update(rounds)
        moved = (torch.stack(list(learner.rate_parameters.values())) - before).abs()
        # Adam's first step has the length of its learning rate, 3 x 1e-2, but for its small constant.
        gradient = torch.stack([rate.grad for rate in learner.rate_parameters.values() if rate.grad is not None]).abs()
        expected = 3e-2 * gradient / (gradient + 1e-5) if learned else torch.zeros_like(moved)
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-7)


class MetaSGD(MAML):
    """As a user writes it (Li et al. 2017, arXiv 1707.09835): a rate for every entry of every parameter."""

    def initial_rate_parameters(self) -> Parameters:
        rates = super().initial_rate_parameters()
        return {name: rate.expand_as(self.parameters[name]).clone().double() for name, rate in rates.items()}


def test_a_subclass_may_learn_a_rate_for_every_entry(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    options = settings(steps=2, max_grad_norm=0.1, later_rate=0.5, learn_rates=True)
    learner, fresh = (MetaSGD(tiny_policy, options, torch.Generator().manual_seed(0)) for _ in range(2))
    rounds = [make_batch(tiny_policy, TASKS, 2, 4, seed) for seed in range(3)]
    parameters = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}
    before = {name: value.clone() for name, value in learner.rate_parameters.items()}
    _, rate_grads, _ = Problem(
        tiny_policy, parameters, before, rounds[:-1], rounds[-1], clip=0.1, later_rate=0.5
    ).plain_gradient()
    assert learner.update(rounds)["inner_rate"] == pytest.approx(0.3, rel=0.3)
    for name, rate in learner.rate_parameters.items():
        assert rate.shape == parameters[name].shape
        torch.testing.assert_close(rate.grad, rate_grads[name], rtol=1e-7, atol=1e-10)
        assert bool((rate != before[name])[rate_grads[name].abs() > 1e-9].all()), f"{name} never moved"
    assert len(torch.cat([rate.flatten() for rate in learner.rate_parameters.values()]).unique()) > 50
    # Both go on alike: the rates and Adam's memory of them are in the state.
    start = {name: value.detach().clone() for name, value in tiny_policy.named_parameters()}
    fresh.load({name: value.clone() for name, value in learner.state().items()})
    fresh.generator.set_state(learner.generator.get_state())
    ends = []
    for each in (learner, fresh):
        tiny_policy.load_state_dict(start, strict=False)
        ends.append((each.update(rounds), [rate.clone() for rate in each.rate_parameters.values()]))
        adapted = each.adapt(each.adapt(None, rounds[0]), rounds[1])
        assert all(value.shape == (TASKS, *parameters[name].shape) for name, value in adapted.items())
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(left, right) for left, right in zip(ends[0][1], ends[1][1], strict=True))


def test_minibatches_cover_all_tasks_once_per_epoch(tiny_policy: Policy, make_batch: Callable[..., Batch]) -> None:
    outer = PPO(n_epochs=3, minibatches=2)
    learner = MAML(tiny_policy, MAMLSettings(tasks=5, episodes=2, outer=outer), torch.Generator().manual_seed(0))
    parts = list(learner.minibatches(5))
    assert [len(p) for p in parts] == [3, 2] * 3
    epochs = [torch.cat(parts[i : i + 2]).tolist() for i in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3, "the order never changes"
