"""The learners against plain loops of PyTorch, and what the networks may see."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from experiments.few_shot.learners import (
    Contender,
    Examples,
    Learner,
    Recipe,
    cross_entropy,
    maml,
    reptile,
    squared_error,
    tuned,
    untrained,
)
from experiments.few_shot.networks import MLP, NearestNeighbour, Prototypes, Transformer, Windows
from experiments.few_shot.sinusoid import anywhere

TASKS, SHOTS, QUERIES = 3, 4, 5


def network() -> MLP:
    torch.manual_seed(0)
    return MLP((1, 8, 1), nn.Tanh)


def sinusoids(points: int, seed: int = 0, tasks: int = TASKS) -> Examples:
    return anywhere(math.pi, points, torch.Generator().manual_seed(seed), tasks)


def assert_same(learner: Learner, module: nn.Module) -> None:
    for name, value in module.named_parameters():
        torch.testing.assert_close(
            learner.parameters[name], value.detach(), msg=lambda text, name=name: f"{name} {text}"
        )


def test_without_inner_steps_it_is_adam_on_the_queries() -> None:
    recipe = Recipe(2, tasks=TASKS, shots=SHOTS, steps=0, learning_rate=0.01)
    x, y = sinusoids(SHOTS + QUERIES)
    learner = maml(network(), squared_error, lambda tasks: Examples(x, y), recipe, range(2))
    module = network()
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    for rate in (0.01, 0.005):
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        (module(x[:, SHOTS:]) - y[:, SHOTS:]).square().mean().backward()
        adam.step()
    assert_same(learner, module)


def test_the_outer_rate_falls_to_zero() -> None:
    rates = [Recipe(4, learning_rate=0.8).outer_rate(number) for number in range(4)]
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_the_outer_rate_rises_first_if_it_is_to() -> None:
    rates = [Recipe(8, learning_rate=0.8, warmup=4).outer_rate(number) for number in range(8)]
    assert rates == pytest.approx([0.2, 0.35, 0.45, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_maml_is_adam_on_the_loss_after_a_step_of_gradient_descent() -> None:
    recipe = Recipe(1, tasks=TASKS, shots=SHOTS, steps=2, rate=0.3, learning_rate=0.01)
    examples = sinusoids(SHOTS + QUERIES)
    learner = maml(network(), squared_error, lambda tasks: examples, recipe, range(1))
    module = network()
    theta: dict[str, Tensor] = dict(module.named_parameters())
    total = torch.zeros(())
    for x, y in zip(*examples, strict=True):
        adapted = theta
        for _ in range(2):
            loss = squared_error(torch.func.functional_call(module, adapted, (x[:SHOTS],)), y[:SHOTS])
            slopes = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
            adapted = {n: v - 0.3 * slope for (n, v), slope in zip(adapted.items(), slopes, strict=True)}
        total = total + squared_error(torch.func.functional_call(module, adapted, (x[SHOTS:],)), y[SHOTS:])
    (total / TASKS).backward()
    torch.optim.Adam(module.parameters(), lr=0.01).step()
    assert_same(learner, module)
    assert all(float(rate) == pytest.approx(0.3) for rate in learner.rates.values())


def test_reptile_is_gradient_descent_and_interpolation() -> None:
    recipe = Recipe(1, tasks=TASKS, shots=SHOTS, steps=3, rate=0.1, learning_rate=0.5)
    examples = sinusoids(3 * SHOTS)
    learner = reptile(network(), squared_error, lambda tasks: examples, recipe, range(1))
    start = dict(network().named_parameters())
    ends = []
    for x, y in zip(*examples, strict=True):
        module = network()
        descent = torch.optim.SGD(module.parameters(), lr=0.1)
        for step in range(3):
            part = slice(step * SHOTS, (step + 1) * SHOTS)
            descent.zero_grad()
            squared_error(module(x[part]), y[part]).backward()
            descent.step()
        ends.append(dict(module.named_parameters()))
    for name, value in start.items():
        mean = sum(end[name] for end in ends) / TASKS
        torch.testing.assert_close(learner.parameters[name], (value + 0.5 * (mean - value)).detach())


def test_adaptation_is_gradient_descent_on_the_support() -> None:
    examples = sinusoids(SHOTS + QUERIES)
    found = untrained(network(), squared_error).at_rate(0.1).predictions(examples, SHOTS, (0, 2))
    assert set(found) == {0, 2}
    for task, (x, y) in enumerate(zip(*examples, strict=True)):
        module = network()
        torch.testing.assert_close(found[0][task], module(x[SHOTS:]).detach())
        descent = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(2):
            descent.zero_grad()
            squared_error(module(x[:SHOTS]), y[:SHOTS]).backward()
            descent.step()
        torch.testing.assert_close(found[2][task], module(x[SHOTS:]).detach())


def test_learned_rates_move() -> None:
    recipe = Recipe(3, tasks=TASKS, shots=SHOTS, rate=0.1, learn_rates=True)
    learner = maml(network(), squared_error, lambda tasks: sinusoids(SHOTS + QUERIES), recipe, range(3))
    assert all(abs(float(rate) - 0.1) > 1e-4 for rate in learner.rates.values())


@pytest.mark.parametrize(
    ("build", "recipe", "points"),
    [
        (partial(MLP, (1, 40, 40, 1), nn.Tanh), Recipe(80, rate=0.02, learn_rates=True, learning_rate=5e-3), 20),
        (
            partial(MLP, (1, 40, 40, 1), nn.Tanh),
            Recipe(120, tasks=5, steps=5, rate=0.05, learning_rate=0.5),
            50,
        ),
    ],
    ids=["maml", "reptile"],
)
def test_it_learns_to_adapt(build: partial[MLP], recipe: Recipe, points: int) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    train = maml if points == 20 else reptile
    sample = partial(anywhere, math.pi, points, generator)
    learner = train(build(), squared_error, sample, recipe, range(recipe.iterations))
    test = sinusoids(60, seed=2, tasks=200)
    errors = {
        step: float(squared_error(prediction, test.y[:, 10:]))
        for step, prediction in learner.predictions(test, 10, (0, 5)).items()
    }
    assert errors[0] > 2.5
    assert errors[5] < 0.75 * errors[0]


def test_the_in_context_transformer_learns_without_a_step() -> None:
    """Which of two constants it is, only the support says."""

    def sample(tasks: int) -> Examples:
        sign = 2.0 * torch.randint(2, (tasks, 1, 1), generator=generator) - 1.0
        return Examples(torch.rand(tasks, 6, 1, generator=generator), sign.expand(-1, 6, -1).contiguous())

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe(60, tasks=10, shots=3, steps=0, learning_rate=5e-3)
    learner = maml(Transformer(1, 1, width=16, layers=1), squared_error, sample, recipe, range(60))
    test = sample(50)
    assert float(squared_error(learner.predictions(test, 3, [0])[0], test.y[:, 3:])) < 0.1


@pytest.mark.parametrize("shots", [1, 3])
def test_what_the_transformer_sees(shots: int) -> None:
    torch.manual_seed(0)
    module = Transformer(2, 1).double()
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    slopes = torch.func.jacrev(lambda targets: module(x, targets, shots)[:, 0])(y)[..., 0]
    seen = torch.tensor([[j < min(i, shots) for j in range(6)] for i in range(6)])
    assert torch.equal(slopes != 0, seen)
    inputs = torch.func.jacrev(lambda points: module(points, y, shots)[:, 0])(x).abs().sum(-1)
    assert torch.equal(inputs != 0, seen | torch.eye(6, dtype=torch.bool))


def test_the_gain_scales_what_the_transformer_reads_as_x() -> None:
    x, y = torch.randn(6, 2), torch.randn(6, 1)

    def outputs(gain: float, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return Transformer(2, 1, gain=gain)(x, y, 3)

    torch.testing.assert_close(outputs(0.25, x), outputs(1.0, 0.25 * x))
    assert not torch.allclose(outputs(0.25, x), outputs(1.0, x))


def test_windows_are_a_convolution() -> None:
    torch.manual_seed(0)
    module = Windows(8, 3)
    x = torch.randn(5, 64)
    filters = module.first.weight.view(-1, 1, 3, 3)
    features = nn.functional.conv2d(x.view(5, 1, 8, 8), filters, module.first.bias).relu()
    pooled = nn.functional.max_pool2d(features, 2).movedim(1, -1)
    torch.testing.assert_close(module(x), module.last(pooled.flatten(1)))


def clusters(tasks: int, noise: float = 0.1) -> Examples:
    """Three well separated classes in the plane, 4 examples of each."""
    generator = torch.Generator().manual_seed(0)
    y = torch.eye(3).repeat(tasks, 4, 1)
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    return Examples(y @ centres + noise * torch.randn(tasks, 12, 2, generator=generator), y)


@pytest.mark.parametrize("build", [NearestNeighbour, partial(Prototypes, nn.Identity())])
def test_separable_classes_are_told_apart_whatever_their_labels(build: type[nn.Module]) -> None:
    examples = clusters(5)
    learner = untrained(build(), cross_entropy)
    prediction = learner.predictions(examples, 3, [0])[0]
    assert torch.equal(prediction.argmax(-1), examples.y[:, 3:].argmax(-1))
    order = torch.tensor([2, 0, 1])
    renamed = Examples(examples.x, examples.y[..., order])
    torch.testing.assert_close(learner.predictions(renamed, 3, [0])[0], prediction[..., order])


def test_prototypes_are_the_means_of_the_classes() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 4.0], [1.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    logits = Prototypes(nn.Identity())(x, y, 3)
    assert logits[3].tolist() == [-1.0, -18.0]  # to (1, 0) and (4, 4)


def test_cross_entropy_is_that_of_torch() -> None:
    logits, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = nn.functional.cross_entropy(logits, classes)
    torch.testing.assert_close(cross_entropy(logits, nn.functional.one_hot(classes, 3)), expected)


def test_the_best_rate_is_chosen_and_one_that_diverges_is_not() -> None:
    x = torch.rand(TASKS, 30, 1)
    examples = Examples(x, 2.0 + x)
    learner = untrained(network(), squared_error)

    def loss(rate: float) -> Tensor:
        return squared_error(learner.at_rate(rate).predictions(examples, 10, [5])[5], examples.y[:, 10:])

    rates = (1e-4, 0.05, 1e30)
    assert not torch.isfinite(loss(1e30)) and loss(0.05) < loss(1e-4)
    chosen = tuned(learner, rates, examples, 10, 5)
    assert [float(rate) for rate in chosen.rates.values()] == pytest.approx([0.05] * 4)


def test_a_contender_may_be_measured_with_another_limit_than_it_is_trained_with() -> None:
    def learner(clip: float | None) -> Learner:
        one = Contender("one", "gradient", network, Recipe(2, TASKS, SHOTS, clip=2.0), clip=clip)
        draw = partial(anywhere, math.pi)
        return one.learner(squared_error, draw, queries=QUERIES, seed=0, track=lambda _, count: range(count))[0]

    usual, limited = learner(None), learner(0.5)
    assert (usual.clip, limited.clip) == (2.0, 0.5)
    for name, value in usual.parameters.items():
        assert torch.equal(value, limited.parameters[name])
