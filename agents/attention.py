"""Causal self-attention that is cheap to differentiate twice.

Second-order meta-learning differentiates through a gradient. PyTorch's fused kernels cannot be differentiated twice,
and the plain form keeps about ten T x T matrices per head for it. Here the first and the second derivative are
functions of their own, which keep only T x d matrices and recompute the weights from the inputs and the log-normaliser
of each row (as FlashAttention does: Dao et al. 2022, arXiv 2205.14135, sec. 3.1 and appendix B.4). On a CPU the
attention and its first derivative are PyTorch's fused kernels, and the second derivative works tile by tile, in the
processor's cache.

With scale c = 1 / sqrt(d), P the causal softmax of S = c Q K^T, and O = P V, the cotangent dO of O gives

    dV = P^T dO      dS = P * (dO V^T - D)      D = rowsum(O * dO)      dQ = c dS K      dK = c dS^T Q

and the cotangents q, k, v of dQ, dK, dV give, for the adjoint ~ of each quantity,

    G  = c (q K^T + Q k^T)                g = rowsum(P * G)            H = P * (G - g)
    ~dO = H V + P v                       ~V = H^T dO                  r = rowsum(dO * ~dO)
    ~S = (G - g) * dS + P * (dO v^T - r)
    ~Q = c (~S K + dS k)                  ~K = c (~S^T Q + dS^T q)

Two tricks leave few passes over T x T matrices: every row sum is taken after a product with a T x d matrix
(g = c rowsum(q * P K + Q * P k)), and to subtract a number from each row is one more column of a product
([dO, -D] [V, 1]^T).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from agents.errors import AgentsError

IMPLEMENTATIONS = ("explicit", "math", "fused")

# The second derivative works on tiles of the scores. A tile has about this many rows, which skips most of what lies
# above the diagonal, and this many elements: four of them in float32 fit into the second-level caches of two cores.
_TILE_ROWS = 36
_TILE_ELEMENTS = 2**18

Tile = tuple[slice, slice, slice]


class AttentionError(AgentsError):
    """Attention is asked for something that it cannot do."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor, implementation: str = "explicit") -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, where each position sees itself and those before it.

    Args:
        query, key, value: (..., T, d), the same shape, floating point; the leading dimensions are usually (B, heads).
        implementation: all three give the same numbers, and all work under `torch.func.grad` and `torch.func.vmap`.

            - `explicit`: reverse mode once or twice, with memory in proportion to T. Does not compile.
            - `math`: the plain form. Any derivative, forward mode too, and compiles; keeps many T x T matrices.
            - `fused`: reverse mode once, by PyTorch's kernels. On a CPU the same as `explicit`, which uses them too.

    Returns:
        (..., T, d).

    Raises:
        AttentionError: if the shapes differ or the implementation is unknown; later, if the result of `explicit` is
            differentiated a third time.
    """
    if not query.shape == key.shape == value.shape or query.dim() < 2:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value))
        raise AttentionError(f"query, key and value are {shapes}: give all three the same shape (..., T, d)")
    if implementation == "math":
        return _plain(query, key, value)
    if implementation == "fused" and not _is_cpu(query):
        return _fused(query, key, value)
    if implementation in IMPLEMENTATIONS:
        return _Attention.apply(query, key, value)[0]
    raise AttentionError(f"implementation={implementation}: unknown choice (valid: {', '.join(IMPLEMENTATIONS)})")


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    length, size = query.shape[-2:]
    future = torch.full((length, length), -math.inf, dtype=query.dtype, device=query.device).triu(1)
    scores = (query / math.sqrt(size)) @ key.transpose(-1, -2) + future
    return torch.softmax(scores, -1) @ value


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # The kernels take exactly (B, heads, T, d); PyTorch silently uses the slow form for other ranks.
    shape = query.shape
    heads = shape[-3] if len(shape) > 2 else 1
    query, key, value = (tensor.reshape(-1, heads, *shape[-2:]) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).reshape(shape)


class _Attention(Function):
    """(Q, K, V) -> (O, log-normaliser); only O is differentiable."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return _unflatten(query, _attend(*_flatten(query, key, value)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        return _FirstDerivative.apply(*ctx.saved_tensors, cotangents[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batch(_Attention.apply, info.batch_size, in_dims, inputs)


class _FirstDerivative(Function):
    """(Q, K, V, O, log-normaliser, dO) -> (dQ, dK, dV); O and the log-normaliser follow from Q, K and V."""

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        return _unflatten(inputs[0], _differentiate(*_flatten(*inputs)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, cotangent = _SecondDerivative.apply(*ctx.saved_tensors, *cotangents)
        return query, key, value, None, None, cotangent

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batch(_FirstDerivative.apply, info.batch_size, in_dims, inputs)


class _SecondDerivative(Function):
    """(Q, K, V, O, log-normaliser, dO, q, k, v) -> (~Q, ~K, ~V, ~dO)."""

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        return _unflatten(inputs[0], _differentiate_twice(*_flatten(*inputs)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        raise AttentionError("explicit attention has no third derivative: use implementation='math'")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batch(_SecondDerivative.apply, info.batch_size, in_dims, inputs)


def _batch(
    function: Callable[..., Any], size: int, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]
) -> tuple[Any, Any]:
    """Give all inputs one more leading dimension: `function` takes any number of them."""
    outputs = function(
        *(
            tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(inputs, dims, strict=True)
        )
    )
    return outputs, (0,) * len(outputs)


def _flatten(*tensors: Tensor) -> Iterator[Tensor]:
    return (tensor.reshape(-1, *tensor.shape[-2:]) for tensor in tensors)


def _unflatten(like: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple(tensor.view(*like.shape[:-1], tensor.shape[-1]) for tensor in tensors)


def _is_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _tiles(query: Tensor) -> list[Tile]:
    """(matrices, rows, columns) of the tiles that cover the scores on and below the diagonal; one tile on a GPU."""
    count, length, _ = query.shape
    if not _is_cpu(query):
        return [(slice(0, count), slice(0, length), slice(0, length))]
    blocks = max(1, round(length / _TILE_ROWS))
    rows = -(-length // blocks)
    tiles = []
    for top in range(0, length, rows):
        bottom = min(top + rows, length)
        matrices = max(1, _TILE_ELEMENTS // ((bottom - top) * bottom))
        for start in range(0, count, matrices):
            tiles.append((slice(start, min(start + matrices, count)), slice(top, bottom), slice(0, bottom)))
    return tiles


def _buffers(query: Tensor, tiles: list[Tile], count: int) -> Callable[[Tile], list[Tensor]]:
    """A function from a tile to `count` uninitialised matrices of its shape, which are in the same memory each time."""
    shapes = [tuple(part.stop - part.start for part in tile) for tile in tiles]
    memory = [query.new_empty(max(math.prod(shape) for shape in shapes)) for _ in range(count)]

    def views(tile: Tile) -> list[Tensor]:
        shape = tuple(part.stop - part.start for part in tile)
        return [part[: math.prod(shape)].view(shape) for part in memory]

    return views


def _with_column(matrix: Tensor, column: Tensor) -> Tensor:
    return torch.cat((matrix, column), -1)


def _with_ones(*matrices: Tensor) -> Tensor:
    return torch.cat((*matrices, torch.ones_like(matrices[0][..., :1])), -1)


def _row_sum(matrix: Tensor) -> Tensor:
    return matrix.sum(-1, keepdim=True)


def _weights(query: Tensor, key: Tensor, normaliser: Tensor) -> Tensor:
    """P (N, T, T), recomputed from the logarithm of what normalises each row."""
    rows = _with_column(query / math.sqrt(query.shape[-1]), -normaliser)
    return torch.bmm(rows, _with_ones(key).mT).exp_().tril_()


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """O (N, T, d) and the logarithm (N, T, 1) of what normalises each row of the softmax."""
    if _is_cpu(query):
        batched = (tensor[:, None] for tensor in (query, key, value))
        output, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*batched, is_causal=True)
        return output[:, 0], normaliser.mT
    future = query.new_full((query.shape[1],) * 2, -math.inf).triu_(1)
    scores = torch.baddbmm(future, query, key.mT, alpha=1 / math.sqrt(query.shape[-1]))
    normaliser = scores.logsumexp(-1, keepdim=True)
    return torch.bmm(scores.sub_(normaliser).exp_(), value), normaliser


def _differentiate(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, normaliser: Tensor, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK, dV as in the module's docstring; all (N, T, d)."""
    scale = 1 / math.sqrt(query.shape[-1])
    if _is_cpu(query):
        batched = (tensor[:, None] for tensor in (cotangent, query, key, value, output))
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *batched, normaliser.mT, dropout_p=0.0, is_causal=True
        )
        return tuple(gradient[:, 0] for gradient in gradients)
    weights = _weights(query, key, normaliser)
    d_value = torch.bmm(weights.mT, cotangent)
    centred_rows = _with_column(cotangent, -_row_sum(output * cotangent))
    d_scores = torch.bmm(centred_rows, _with_ones(value).mT).mul_(weights).mul_(scale)
    return torch.bmm(d_scores, key), torch.bmm(d_scores.mT, query), d_value


def _differentiate_twice(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normaliser: Tensor,
    cotangent: Tensor,
    query_: Tensor,
    key_: Tensor,
    value_: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """~Q, ~K, ~V, ~dO as in the module's docstring; an underscore marks the cotangents q, k, v; all (N, T, d)."""
    size = query.shape[-1]
    scale = 1 / math.sqrt(size)
    log_weight_rows, keys = _with_column(query * scale, -normaliser), _with_ones(key)
    centred_rows, values = _with_column(cotangent, -_row_sum(output * cotangent)), _with_ones(value)
    outer_rows, outer_columns = torch.cat((query_, query), -1).mul_(scale), torch.cat((key, key_), -1)
    averaged, outer_columns = _with_ones(outer_columns, value_), _with_ones(outer_columns)
    values_ = _with_ones(value_)
    a_query, a_key, a_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    a_cotangent = torch.empty_like(cotangent)
    tiles = _tiles(query)
    buffers = _buffers(query, tiles, 4)
    for tile in tiles:
        matrices, rows, columns = tile
        row, column = (matrices, rows), (matrices, columns)
        weights, d_scores, outer, work = buffers(tile)
        torch.bmm(log_weight_rows[row], keys[column].mT, out=weights).exp_().tril_(rows.start)
        torch.bmm(centred_rows[row], values[column].mT, out=d_scores).mul_(weights)
        # With large scores a row of weights may not sum to 1, by rounding; the averages must not inherit that.
        averages = torch.bmm(weights, averaged[column])
        averages = averages[..., :-1] / averages[..., -1:]  # P [K, k, v]
        mean = _row_sum(outer_rows[row] * averages[..., : 2 * size])  # g
        torch.bmm(_with_column(outer_rows[row], -mean), outer_columns[column].mT, out=outer)  # G - g
        torch.mul(weights, outer, out=work)  # H
        a_output = torch.bmm(work, value[column]).add_(averages[..., 2 * size :])
        a_cotangent[row] = a_output
        a_value[column] += torch.bmm(work.mT, cotangent[row])
        correction = _row_sum(cotangent[row] * a_output)  # r
        torch.bmm(_with_column(cotangent[row], -correction), values_[column].mT, out=work)  # dO v^T - r
        a_scores = outer.mul_(d_scores).addcmul_(weights, work)
        a_query[row] = torch.bmm(a_scores, key[column]).baddbmm_(d_scores, key_[column])
        a_key[column] += torch.bmm(a_scores.mT, query[row]).baddbmm_(d_scores.mT, query_[row])
    return a_query.mul_(scale), a_key.mul_(scale), a_value, a_cotangent
