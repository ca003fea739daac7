"""What every policy shares: its output, the action distribution, token normalisation, and which parameters adapt.

A token (F = D + A + 2) is [observation (D), previous action clipped to [-1, 1] (A), previous reward (1), first flag
(1)].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.errors import PolicyError

ADAPT = ("all", "head", "body")
LOG_STD_RANGE = (-4.0, 1.0)


class Output(NamedTuple):
    """A diagonal Gaussian over actions and the value estimate, for each token."""

    mean: Tensor  # (..., A)
    log_std: Tensor  # (..., A)
    value: Tensor  # (...,)


class State(NamedTuple):
    """What a policy remembers of an episode or trial; batch first, so that it can be vmapped over tasks."""

    keys: Tensor  # (B, layers, heads, T, d)
    values: Tensor  # (B, layers, heads, T, d)


def log_probability(output: Output, action: Tensor) -> Tensor:
    """Log density of unclipped actions (..., A), summed over the action dimensions; (...,)."""
    z = (action - output.mean) * torch.exp(-output.log_std)
    return -(0.5 * z.square() + output.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(output: Output) -> Tensor:
    """Differential entropy of the action distribution, summed over the action dimensions; (...,)."""
    return (output.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class Normaliser(nn.Module):
    """Running mean and variance of the observation and reward entries of tokens; actions and flags pass unchanged.

    The statistics are buffers that only `update` moves: adaptation and evaluation never do. Batches are merged by the
    parallel form of Welford's algorithm (Chan et al. 1979).
    """

    scaled: Tensor
    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, observation_size: int, action_size: int, limit: float = 10.0) -> None:
        super().__init__()
        size = observation_size + action_size + 2
        scaled = torch.ones(size)
        scaled[observation_size : observation_size + action_size] = 0.0
        scaled[-1] = 0.0
        self.limit = limit
        self.register_buffer("scaled", scaled, persistent=False)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, tokens: Tensor) -> bool:
        """Merge the statistics of tokens (n, F); n may be 0.

        One number that is not finite would spoil them for good: they then stay as they were, and False is returned.
        """
        if len(tokens) == 0:
            return True
        batch = tokens.double()
        count, variance = batch.shape[0], batch.var(0, unbiased=False)
        old, total = self.count.double(), self.count.double() + batch.shape[0]
        shift = batch.mean(0) - self.mean.double()
        merged = (self.variance.double() * old + variance * count + shift.square() * old * count / total) / total
        if not torch.isfinite(shift.sum() + merged.sum()):
            return False
        self.mean.copy_((self.mean.double() + shift * count / total) * self.scaled)
        self.variance.copy_(torch.where(self.scaled > 0, merged, 1.0))
        self.count.copy_(total)
        return True

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalised tokens, clipped to +-limit."""
        return ((tokens - self.mean) * torch.rsqrt(self.variance + 1e-6)).clamp(-self.limit, self.limit)


class Critic(nn.Module):
    """A value estimate in the units of the rewards, from layers that learn it in units of its own spread.

    The spread follows the targets; the last layer is corrected each time, so that no estimate changes (PopArt, van
    Hasselt et al. 2016, arXiv 1602.07714, eqs. 5 to 9). Without it returns of hundreds drown the policy's gradient,
    and returns of hundredths are never learned.
    """

    mean: Tensor
    deviation: Tensor
    count: Tensor

    def __init__(self, *layers: nn.Module, memory: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.memory = memory
        for name, value in (("mean", 0.0), ("deviation", 1.0), ("count", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, features: Tensor) -> Tensor:
        """Values (...,) of features (..., n)."""
        return self.layers(features)[..., 0] * self.deviation + self.mean

    @torch.no_grad()
    def rescale(self, targets: Tensor) -> None:
        """Move the units towards those of targets (n,), which weigh as much as `memory`, at first more; n may be 0."""
        if len(targets) == 0 or not torch.isfinite(targets).all():
            return
        self.count += 1
        rate = torch.clamp(1 / self.count, min=self.memory)
        shift = targets.mean() - self.mean
        variance = (1 - rate) * (self.deviation.square() + rate * shift.square()) + rate * targets.var(unbiased=False)
        mean, deviation = self.mean + rate * shift, variance.sqrt().clamp(min=1e-4)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(self.deviation / deviation)
        last.bias.copy_((last.bias * self.deviation + self.mean - mean) / deviation)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)


class Policy(ABC, nn.Module):
    """A policy over token sequences; a plain module, used through `torch.func.functional_call`.

    Attributes:
        context: what the policy remembers: `none`, `episode`, or `trial` (several episodes of one task).
        max_length: the longest sequence (T) it can see.
        critic: on which no action depends.
    """

    critic: Critic

    def __init__(
        self, observation_size: int, action_size: int, context: str, max_length: int, initial_std: float
    ) -> None:
        super().__init__()
        if initial_std <= 0:
            raise PolicyError(f"initial_std must be positive, got {initial_std}")
        self.observation_size = observation_size
        self.action_size = action_size
        self.context = context
        self.max_length = max_length
        self.normaliser = Normaliser(observation_size, action_size)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(initial_std)))

    @abstractmethod
    def forward(self, tokens: Tensor) -> Output:
        """Outputs over whole sequences (B, T, F); entry t sees tokens up to t."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """An empty memory for `batch` sequences."""

    @abstractmethod
    def step(self, token: Tensor, state: State, position: int) -> tuple[Output, State]:
        """Act on one token (B, F) at `position` of the sequence; equals `forward` there. Writes into the state."""

    @abstractmethod
    def head_names(self) -> frozenset[str]:
        """Parameters of the action head."""

    def critic_names(self) -> frozenset[str]:
        """Parameters that no action depends on."""
        return frozenset(name for name, _ in self.named_parameters() if name.startswith("critic."))

    def set_attention(self, implementation: str) -> None:
        """Choose how attention over whole sequences is computed (see `agents.attention`); nothing without attention."""

    def parameter_names(self, adapt: str) -> frozenset[str]:
        """The parameters that the inner loop adapts: `all` (on which actions depend), `head`, or `body` (all but head).

        Raises:
            PolicyError: for another word.
        """
        if adapt not in ADAPT:
            raise PolicyError(f"adapt={adapt}: unknown choice (valid: {', '.join(ADAPT)})")
        acting = frozenset(name for name, _ in self.named_parameters()) - self.critic_names()
        head = self.head_names()
        return {"all": acting, "head": head, "body": acting - head}[adapt]

    def bounded_log_std(self, like: Tensor) -> Tensor:
        """The state-independent log standard deviation, kept in a sane range, broadcast to `like` (..., A)."""
        return self.log_std.clamp(*LOG_STD_RANGE).expand_as(like)


def layer(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero bias."""
    module = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module
