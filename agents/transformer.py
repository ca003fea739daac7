"""A causal pre-norm Transformer policy over tokens, with a key-value cache for acting."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from agents.attention import causal_attention
from agents.errors import PolicyError
from agents.policy import Critic, Output, Policy, Position, orthogonal_linear
from agents.settings import TransformerSettings

DEFAULT = TransformerSettings()
CONTEXTS = ("none", "step", "episode", "trial")
ALONE = ("none", "step")  # contexts in which each step is a sequence of its own
# Keys and values of the tokens seen so far, of each layer (B, 2, heads, T, d); `step` writes into them.
Cache = tuple[Tensor, ...]


class Norm(nn.LayerNorm):
    """Layer normalisation whose second derivative is right under `torch.func.vmap` too.

    Under vmap PyTorch's own (seen with 2.13) treats mean and deviation as constants in the gradient of its weight, so a
    gradient through that gradient is silently wrong. This one keeps scale and shift out of the native operation.
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.addcmul(self.bias, torch.layer_norm(input, self.normalized_shape, eps=self.eps), self.weight)


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals; the residual branches start scaled down by the depth.

    The scaled start follows the reasoning of T-Fixup (Huang et al. 2020), which TrMRL found necessary in meta-RL.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = Norm(width)
        self.project_in = orthogonal_linear(width, 3 * width)
        self.project_out = orthogonal_linear(width, width, (2 * layers) ** -0.5)
        self.norm_mlp = Norm(width)
        self.expand = orthogonal_linear(width, 4 * width)
        self.contract = orthogonal_linear(4 * width, width, (2 * layers) ** -0.5)

    def split(self, hidden: Tensor) -> Tensor:
        """Queries, keys and values, together (3, B, heads, T, d), of hidden states (B, T, width)."""
        joined = self.project_in(self.norm_attention(hidden))
        return joined.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def merge(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block, after attention (B, heads, T, d)."""
        hidden = hidden + self.project_out(attended.transpose(-3, -2).flatten(-2))
        return hidden + self.contract(torch.relu(self.expand(self.norm_mlp(hidden))))


class TransformerPolicy(Policy):
    """A causal Transformer over tokens (see `agents.token`).

    The normalised present observation also goes straight to the action and value heads, beside the context.
    With `context="step"` each step is a sequence of its own, in which the last action and its feedback are still seen;
    with `context="none"` everything but the observation is hidden.

    Args:
        observation_size: D. action_size: A. max_length: longest sequence T.
        width: of the hidden state. layers: number of blocks. heads: must divide the width.
        context: `none`, `step`, `episode` or `trial`.
        initial_std: standard deviation of the actions at the start.
        attention: implementation for whole sequences, see `agents.attention`.
        privileged_size: P, what the critic sees of the task besides; 0: nothing.
        estimates_task: whether a head learns to tell these P from what the policy remembers, see `task_error`.

    Raises:
        PolicyError: if an argument is out of range.
    """

    Settings = TransformerSettings

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        max_length: int,
        width: int = DEFAULT.width,
        layers: int = DEFAULT.layers,
        heads: int = DEFAULT.heads,
        context: str = "episode",
        initial_std: float = DEFAULT.initial_std,
        attention: str = "math",
        privileged_size: int = 0,
        estimates_task: bool = False,
    ) -> None:
        if estimates_task and not privileged_size:
            raise PolicyError("estimates_task=true needs critic_sees_task=true: else there is no task in its tokens")
        if context not in CONTEXTS:
            raise PolicyError(f"context={context}: unknown choice (valid: {', '.join(CONTEXTS)})")
        if min(width, layers, heads) < 1 or width % heads:
            raise PolicyError(f"width={width} must be a multiple of heads={heads}, and layers={layers} at least 1")
        length = 1 if context in ALONE else max_length
        super().__init__(observation_size, action_size, context, length, initial_std, privileged_size)
        self.attention = attention
        self.alone = context in ALONE
        self.embed = orthogonal_linear(self.layout.acting_size, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.max_length, width))
        self.cache_shape = (heads, self.max_length, width // heads)
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = Norm(width)
        features = width + observation_size
        self.head = nn.Sequential(orthogonal_linear(features, 64), nn.Tanh(), orthogonal_linear(64, action_size, 0.01))
        self.critic = Critic(orthogonal_linear(features + privileged_size, 64), nn.Tanh(), orthogonal_linear(64, 1))
        self.estimates_task = estimates_task
        if estimates_task:
            self.task_head = nn.Sequential(
                orthogonal_linear(features, 64), nn.Tanh(), orthogonal_linear(64, privileged_size, 0.01)
            )

    def set_attention(self, implementation: str) -> None:
        self.attention = implementation

    def forward(self, tokens: Tensor) -> Output:
        features, normalised = self.over_sequence(tokens)
        return _by_token(self.outputs(features, normalised), tokens)

    def task_error(self, tokens: Tensor) -> tuple[Output, Tensor]:
        if not self.estimates_task:
            return super().task_error(tokens)
        features, normalised = self.over_sequence(tokens)
        error = self.task_head(features) - self.layout.task(normalised)
        return _by_token(self.outputs(features, normalised), tokens), 0.5 * error.square().sum(-1).view(
            tokens.shape[:2]
        )

    def over_sequence(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads see of sequences (B, T, F), and the normalised tokens.

        Both are (B, T, ...), or (B * T, 1, ...) where each step is a sequence of its own.
        """
        batch, length, _ = tokens.shape
        if self.alone:
            tokens = tokens.reshape(batch * length, 1, -1)
        elif length > self.max_length:
            raise PolicyError(f"a sequence of {length} steps is longer than the policy's context of {self.max_length}")
        tokens = self.normaliser(tokens)
        hidden = self.embed(self.visible(tokens)) + self.position[: tokens.shape[1]]
        for block in self.stack():
            query, key, value = block.split(hidden).unbind(0)
            attended = value if self.alone else causal_attention(query, key, value, self.attention)
            hidden = block.merge(hidden, attended)
        return self.features(hidden, tokens), tokens

    def stack(self) -> Iterator[Block]:
        """The blocks, in order."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def initial_state(self, batch: int) -> Cache:
        # All keys, then all values: each are one stack of matrices in memory, which products take without a copy.
        shape = (2, batch, *self.cache_shape)
        return tuple(torch.zeros(shape, device=self.device).transpose(0, 1) for _ in self.blocks)

    def step(self, token: Tensor, state: Cache, position: Position) -> tuple[Output, Cache]:
        if self.alone:
            position = 0
        elif isinstance(position, int) and position >= self.max_length:
            raise PolicyError(f"step {position + 1} is beyond the policy's context of {self.max_length}")
        token = self.normaliser(token)[:, None]
        hidden = self.embed(self.visible(token)) + self.position[position].unsqueeze(-2)
        for block, memory in zip(self.stack(), state, strict=True):
            if self.alone:
                hidden = block.merge(hidden, block.split(hidden)[2])
            else:
                hidden, _ = _attend(block, hidden, memory, position)
        mean, log_std, value = self.outputs(self.features(hidden, token), token)
        return Output(mean[:, 0], log_std[:, 0], value[:, 0]), state

    @property
    def attends(self) -> bool:
        return not self.alone

    def attention_weights(self, token: Tensor, state: Cache, position: int) -> Tensor:
        # The step once more: what it writes into the memory is there already.
        if self.alone:
            return super().attention_weights(token, state, position)
        hidden = self.embed(self.visible(self.normaliser(token)[:, None])) + self.position[position]
        weights = []
        for block, memory in zip(self.stack(), state, strict=True):
            hidden, attention = _attend(block, hidden, memory, position)
            weights.append(attention[..., 0, :])
        return torch.stack(weights, 1)

    def visible(self, tokens: Tensor) -> Tensor:
        """What of normalised tokens actions may depend on; with `context="none"` the observation alone."""
        return self.layout.without_history(tokens) if self.context == "none" else self.layout.acting(tokens)

    def features(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """What the heads see: the context beside the present observation."""
        return torch.cat([self.norm(hidden), self.layout.observation(tokens)], -1)

    def outputs(self, features: Tensor, tokens: Tensor) -> Output:
        """The outputs of the heads of actions and values."""
        mean = self.head(features)
        informed = torch.cat([features, self.layout.task(tokens)], -1) if self.layout.privileged_size else features
        return Output(mean, self.bounded_log_std(mean), self.critic(informed))

    def head_names(self) -> frozenset[str]:
        return frozenset({"log_std"} | {name for name, _ in self.named_parameters() if name.startswith("head.")})


def _by_token(output: Output, tokens: Tensor) -> Output:
    """Outputs of sequences of one step each in the shape of the tokens (B, T, F); others as they are."""
    mean, log_std, value = output
    batch, length, _ = tokens.shape
    return Output(mean.view(batch, length, -1), log_std.view(batch, length, -1), value.view(batch, length))


def _attend(block: Block, hidden: Tensor, memory: Tensor, position: Position) -> tuple[Tensor, Tensor]:
    """What a block makes of one more token (B, 1, width), and the weights (B, heads, 1, t) of what it remembers."""
    joined = block.split(hidden)
    query, (keys, values, future) = joined[0], _remember(memory, joined[1:], position)
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    weights = torch.softmax(scores if future is None else scores.masked_fill(future, -torch.inf), -1)
    return block.merge(hidden, weights @ values), weights


def _remember(memory: Tensor, token: Tensor, position: Position) -> tuple[Tensor, Tensor, Tensor | None]:
    """Write a token's key and value, together (2, B, heads, 1, d), into a layer's memory (B, 2, heads, T, d).

    Returns:
        The keys and values (B, heads, t, d) to attend to, and which of these (B, 1, 1, T) lie beyond `position`; None:
        none does.
    """
    token = token.transpose(0, 1)
    if isinstance(position, int):
        memory[..., position, :] = token[..., 0, :]
        keys, values = memory[..., : position + 1, :].unbind(1)
        return keys, values, None
    memory[torch.arange(len(position), device=memory.device), :, :, position] = token[..., 0, :]
    keys, values = memory.unbind(1)
    return keys, values, torch.arange(keys.shape[2], device=keys.device) > position[:, None, None, None]
