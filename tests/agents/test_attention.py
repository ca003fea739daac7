"""Attention against the plain softmax form, its derivatives against finite differences and against autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap

from agents import attention
from agents.attention import IMPLEMENTATIONS, AttentionError, causal_attention
from agents.errors import AgentsError

SHAPES = [(1, 4), (7, 3), (3, 7, 4), (2, 3, 11, 4), (2, 2, 2, 5, 1)]


def attend(tensors: Sequence[Tensor], implementation: str = "explicit") -> Tensor:
    query, key, value = tensors
    return causal_attention(query, key, value, implementation)


def reference(tensors: Sequence[Tensor]) -> Tensor:
    """Row by row, over the positions that each may see."""
    query, key, value = tensors
    rows = []
    for t in range(query.shape[-2]):
        scores = (key[..., : t + 1, :] * query[..., t : t + 1, :]).sum(-1) / math.sqrt(query.shape[-1])
        rows.append((torch.softmax(scores, -1)[..., None] * value[..., : t + 1, :]).sum(-2))
    return torch.stack(rows, -2)


def inputs(*shape: int, count: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]


@pytest.fixture(params=["one tile", "many tiles", "other device"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are one tile; the small limits cut them into blocks of rows and of matrices, with remainders.

    What other devices do instead of the CPU's kernels and tiles is plain tensor code, so that a CPU can run it too.
    """
    if request.param == "many tiles":
        monkeypatch.setattr(attention, "_TILE_ROWS", 3)
        monkeypatch.setattr(attention, "_TILE_ELEMENTS", 100)
    if request.param == "other device":
        monkeypatch.setattr(attention, "_is_cpu", lambda tensor: False)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_the_reference(implementation: str, shape: tuple[int, ...], tiling: None) -> None:
    tensors = inputs(*shape)
    torch.testing.assert_close(attend(tensors, implementation), reference(tensors))


def second_derivatives(implementation: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Along three directions, of the first derivative of a weighted output; seven tensors."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors[:3]]
    weighted = (attend(leaves, implementation) * tensors[3]).square().sum()
    first = torch.autograd.grad(weighted, leaves, create_graph=True)
    return torch.autograd.grad(first, leaves, tensors[4:])


def test_second_derivative_with_the_real_tiles_equals_autograd() -> None:
    tensors = inputs(9, 11, 100, 8, count=7)
    assert len(attention._tiles(tensors[0].flatten(0, 1))) > 3
    torch.testing.assert_close(second_derivatives("explicit", tensors), second_derivatives("math", tensors))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_large_scores_neither_overflow_nor_vanish(scale: float, tiling: None) -> None:
    query, key, value, *others = inputs(2, 9, 4, count=7)
    # The last key would win every row, were it not in the future of all rows but the last.
    key = torch.cat((key[:, :-1], query.sum(1, keepdim=True) * 10), 1)
    double = [query * scale, key * scale, value, *others]
    single = [tensor.float() for tensor in double]
    torch.testing.assert_close(attend(single[:3]).double(), reference(double[:3]), atol=1e-4, rtol=1e-3)
    actual, expected = second_derivatives("explicit", single), second_derivatives("math", double)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-3 * float(other.abs().max()), rtol=1e-2)


@pytest.mark.parametrize("shape", [(1, 2), (2, 7, 1), (1, 2, 4, 3)], ids=str)
def test_both_derivatives_equal_finite_differences(shape: tuple[int, ...], tiling: None) -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(*shape)]
    assert gradcheck(causal_attention, leaves)
    assert gradgradcheck(causal_attention, leaves)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_past_does_not_depend_on_the_future(implementation: str, tiling: None) -> None:
    tensors, others = inputs(2, 3, 11, 4), inputs(2, 3, 11, 4, count=6)[3:]
    mixed = [torch.cat((one[..., :6, :], other[..., 6:, :]), -2) for one, other in zip(tensors, others, strict=True)]
    before, after = attend(tensors, implementation), attend(mixed, implementation)
    torch.testing.assert_close(before[..., :6, :], after[..., :6, :])
    assert (before[..., 6:, :] - after[..., 6:, :]).abs().min() > 1e-6

    leaves = [tensor.requires_grad_() for tensor in tensors]
    for gradient in torch.autograd.grad(attend(leaves, implementation)[..., :6, :].square().sum(), leaves):
        assert gradient[..., 6:, :].abs().max() == 0
        assert gradient[..., 1:6, :].abs().min() > 0


class Layer(torch.nn.Module):
    """Attention between two projections, two heads."""

    def __init__(self, implementation: str) -> None:
        super().__init__()
        self.implementation = implementation
        self.inwards = torch.nn.Linear(3, 12, dtype=torch.float64)
        self.outwards = torch.nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.inwards(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.outwards(causal_attention(query, key, value, self.implementation).transpose(1, 2).flatten(-2))


def adapted_loss(layer: Layer, support: Tensor, query: Tensor, detach: bool) -> Callable[..., Tensor]:
    """The loss of one task (`support`, `query`: (B, T, 3)) after two inner steps, as a function of the parameters."""

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).sub(1).square().mean()

    def after(parameters: dict[str, Tensor]) -> Tensor:
        adapted = parameters
        for _ in range(2):
            step = grad(loss)(adapted, support)
            adapted = {name: adapted[name] - (step[name].detach() if detach else step[name]) for name in adapted}
        return loss(adapted, query)

    return after


def meta_gradient(layer: Layer, support: Tensor, query: Tensor, order: str, detach: bool = False) -> dict[str, Tensor]:
    """Of the mean over tasks; `support`, `query`: (M, B, T, 3)."""
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    if order == "vmap of grad":
        one = vmap(lambda s, q: grad(adapted_loss(layer, s, q, detach))(parameters))
        return {name: value.mean(0) for name, value in one(support, query).items()}
    if order == "grad of vmap":
        tasks = vmap(lambda p, s, q: adapted_loss(layer, s, q, detach)(p), in_dims=(None, 0, 0))
        return grad(lambda p: tasks(p, support, query).mean())(parameters)
    each = [grad(adapted_loss(layer, s, q, detach))(parameters) for s, q in zip(support, query, strict=True)]
    return {name: torch.stack([gradient[name] for gradient in each]).mean(0) for name in parameters}


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap", "loop of grad"])
def test_meta_gradient_through_two_steps_equals_autograd(order: str, tiling: None) -> None:
    explicit, plain = Layer("explicit"), Layer("math")
    plain.load_state_dict(explicit.state_dict())
    support, query = inputs(3, 4, 6, 3, count=2)
    actual, expected = meta_gradient(explicit, support, query, order), meta_gradient(plain, support, query, order)
    first_order = meta_gradient(plain, support, query, order, detach=True)
    torch.testing.assert_close(actual, expected)
    assert any((expected[name] - first_order[name]).abs().max() > 1e-3 for name in expected), "no second order to test"


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_fused_serves_first_order_meta_gradients(order: str) -> None:
    fused, plain = Layer("fused"), Layer("math")
    plain.load_state_dict(fused.state_dict())
    support, query = inputs(3, 4, 6, 3, count=2)
    actual = meta_gradient(fused, support, query, order, detach=True)
    torch.testing.assert_close(actual, meta_gradient(plain, support, query, order, detach=True))


@pytest.mark.parametrize("batched", [(0,), (1,), (2,), (0, 2)])
def test_vmap_takes_inputs_without_the_task_dimension(batched: tuple[int, ...]) -> None:
    tensors = [torch.stack([x, 2 * x, 3 * x], 1) if i in batched else x for i, x in enumerate(inputs(2, 5, 4))]
    dims = tuple(1 if i in batched else None for i in range(3))
    explicit = grad(lambda q, k, v: attend((q, k, v)).square().sum(), argnums=(0, 1, 2))
    plain = grad(lambda q, k, v: reference((q, k, v)).square().sum(), argnums=(0, 1, 2))
    torch.testing.assert_close(vmap(explicit, in_dims=dims)(*tensors), vmap(plain, in_dims=dims)(*tensors))


def test_a_third_derivative_raises() -> None:
    query, key, value = inputs(2, 5, 4)

    def along(x: Tensor) -> Tensor:
        return causal_attention(query * x, key, value).square().sum()

    at = torch.tensor(1.0, dtype=torch.float64)
    assert grad(grad(along))(at).isfinite()
    with pytest.raises(AttentionError, match="third derivative"):
        grad(grad(grad(along)))(at)
    leaf = at.clone().requires_grad_()
    first = torch.autograd.grad(along(leaf), leaf, create_graph=True)[0]
    second = torch.autograd.grad(first, leaf, create_graph=True)[0]
    with pytest.raises(AttentionError, match="implementation='math'"):
        second.backward()


def test_what_is_kept_for_the_second_derivative_does_not_grow_with_the_square_of_the_length() -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(2, 200, 4)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        torch.autograd.grad(attend(leaves).sum(), leaves, create_graph=True)
    assert len(kept) >= 6
    assert max(kept) == 2 * 200 * 4


def test_fused_is_the_kernel_of_pytorch_where_that_is_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        calls.append(tuple(query.shape))
        return kernel(query, key, value, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(attention, "_is_cpu", lambda tensor: False)
    tensors = inputs(2, 2, 3, 5, 4)
    torch.testing.assert_close(attend(tensors, "fused"), reference(tensors))
    assert calls == [(4, 3, 5, 4)]


def test_bad_input_raises() -> None:
    query, key, value = inputs(2, 5, 4)
    with pytest.raises(AttentionError, match=r"\(2, 5, 4\), \(2, 4, 4\), \(2, 5, 4\)"):
        causal_attention(query, key[:, 1:], value)
    with pytest.raises(AttentionError, match="the same shape"):
        attend([tensor[0, 0] for tensor in (query, key, value)])
    with pytest.raises(AgentsError, match="implementation=flash: unknown choice .valid: explicit, math, fused"):
        causal_attention(query, key, value, "flash")
