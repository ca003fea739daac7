"""What all policies share: output, action distribution, normalised tokens, memory, and which parameters adapt."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from agents.errors import PolicyError
from agents.settings import PolicySettings
from agents.token import TokenLayout

ADAPT = ("all", "head", "body")
LOG_STD_RANGE = (-4.0, 1.0)
WITHOUT_FLOAT64 = frozenset({"mps"})  # kinds of devices: Apple's GPUs

# What a policy remembers between steps: any tree of tensors (a tensor, tuple, dictionary, NamedTuple, ...), with the
# batch first in every leaf, so that it can be vmapped over tasks; () or None if it remembers nothing. Nobody but the
# policy knows what is in it.
State = Any
# Of a token in its sequence: one number for the whole batch, or (B,) of sequences that have come to different places.
Position = int | Tensor


class Output(NamedTuple):
    """A diagonal Gaussian over actions and the value estimate, for each token."""

    mean: Tensor  # (..., A)
    log_std: Tensor  # (..., A)
    value: Tensor  # (...,)


def log_probability(output: Output, action: Tensor) -> Tensor:
    """Log density of unclipped actions (..., A), summed over the action dimensions; (...,)."""
    z = (action - output.mean) * torch.exp(-output.log_std)
    return -(0.5 * z.square() + output.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(output: Output) -> Tensor:
    """Differential entropy of the action distribution, summed over the action dimensions; (...,)."""
    return (output.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def widest(device: torch.device) -> torch.dtype:
    """The floating-point numbers with the most digits that a device has."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


class Moments(NamedTuple):
    """What is known of n values (n, ...)."""

    count: int  # n
    mean: Tensor  # (...)
    variance: Tensor  # (...), of the values themselves: a sum divided by n


Pool = Callable[[Moments], Moments]  # moments of some values to those of all that belong together


def moments(values: Tensor) -> Moments:
    """Moments of values (n, ...); n may be 0."""
    if len(values) == 0:
        return Moments(0, values.new_zeros(values.shape[1:]), values.new_zeros(values.shape[1:]))
    return Moments(len(values), values.mean(0), values.var(0, unbiased=False))


def these_alone(found: Moments) -> Moments:
    """There are no other values."""
    return found


class Normaliser(nn.Module):
    """Scales tokens (..., F) by the running mean and variance of their observations, feedback and tasks.

    Actions and flags pass unchanged. The statistics are buffers, and only `update` moves them: adaptation and
    evaluation do not. Batches are merged by the parallel form of Welford's algorithm (Chan et al. 1979).
    """

    scaled: Tensor
    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, layout: TokenLayout, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("scaled", layout.normalised(), persistent=False)
        self.register_buffer("mean", torch.zeros(layout.size))
        self.register_buffer("variance", torch.ones(layout.size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, tokens: Tensor, pool: Pool = these_alone) -> bool:
        """Merge in the statistics of tokens (n, F); n may be 0.

        A number that is not finite, or whose square is not, would spoil them for good: then they stay as they were, and
        this returns False.

        Args:
            pool: adds what others have seen at the same time.
        """
        wide = widest(tokens.device)
        count, mean, variance = pool(moments(tokens.to(wide)))
        if count == 0:
            return True
        old, total = self.count.to(wide), self.count.to(wide) + count
        shift = mean - self.mean.to(wide)
        merged = (self.variance.to(wide) * old + variance * count + shift.square() * old * count / total) / total
        if not torch.isfinite(shift.sum() + merged.to(self.variance.dtype).sum()):
            return False
        self.mean.copy_((self.mean.to(wide) + shift * count / total) * self.scaled)
        self.variance.copy_(torch.where(self.scaled > 0, merged, 1.0))
        self.count.copy_(total)
        return True

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalised tokens, clipped to +-limit."""
        return ((tokens - self.mean) * torch.rsqrt(self.variance + 1e-6)).clamp(-self.limit, self.limit)


class Critic(nn.Module):
    """A value estimate in the units of the rewards, by layers that learn it in units of the targets' own spread.

    The spread follows the targets; each time it moves, the last layer is corrected so that no estimate changes (PopArt,
    van Hasselt et al. 2016, arXiv 1602.07714, eqs. 5 to 9). Without this, returns of hundreds drown the policy's
    gradient, and returns of hundredths are never learned.
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
    def rescale(self, targets: Tensor, pool: Pool = these_alone) -> None:
        """Move the units towards those of targets (n,); n may be 0.

        New targets weigh as much as `memory`, and more in the first calls. Targets that are not finite, or have squares
        that are not, change nothing.

        Args:
            pool: as for `Normaliser.update`.
        """
        found = pool(moments(targets))
        if found.count == 0:
            return
        count = self.count + 1
        rate = torch.clamp(1 / count, min=self.memory)
        shift = found.mean - self.mean
        variance = (1 - rate) * (self.deviation.square() + rate * shift.square()) + rate * found.variance
        mean, deviation = self.mean + rate * shift, variance.sqrt().clamp(min=1e-4)
        if not torch.isfinite(mean + deviation):
            return
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(self.deviation / deviation)
        last.bias.copy_((last.bias * self.deviation + self.mean - mean) / deviation)
        for held, value in ((self.mean, mean), (self.deviation, deviation), (self.count, count)):
            held.copy_(value)


class Policy(ABC, nn.Module):
    """A policy over sequences of tokens; a plain module, used through `torch.func.functional_call`.

    Attributes:
        Settings: what `agent.` on the command line may set; keyword arguments of a subclass.
        layout: of its tokens.
        context: what the policy remembers: nothing (`none`), the last action and its feedback (`step`), an `episode`,
            or a `trial` (several episodes of one task).
        max_length: the longest sequence (T) that it can see.
        critic: estimates values; actions do not depend on it.
        estimates_task: whether it has a `task_error`.

    With `privileged_size` P > 0 tokens have the task in them, for the critic alone (see `agents.token`).
    """

    Settings: ClassVar[type[PolicySettings]] = PolicySettings
    critic: Critic
    estimates_task = False

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        context: str,
        max_length: int,
        initial_std: float,
        privileged_size: int = 0,
    ) -> None:
        super().__init__()
        if initial_std <= 0:
            raise PolicyError(f"initial_std must be positive, got {initial_std}")
        self.observation_size = observation_size
        self.action_size = action_size
        self.context = context
        self.max_length = max_length
        self.layout = TokenLayout(observation_size, action_size, privileged_size)
        self.normaliser = Normaliser(self.layout)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(initial_std)))

    @property
    def attends(self) -> bool:
        """Whether `attention_weights` tells what a step looks at."""
        return False

    def attention_weights(self, token: Tensor, state: State, position: int) -> Tensor:
        """How much a step looks at each step up to itself: (B, layers, heads, position + 1), 1 in sum over the last.

        Args:
            token: (B, F), the one that was acted on at `position`.
            state: the memory after that step, which stays as it is.

        Raises:
            PolicyError: if it does not attend.
        """
        raise PolicyError(f"{type(self).__name__} does not attend to earlier steps")

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.log_std.device

    @abstractmethod
    def forward(self, tokens: Tensor) -> Output:
        """Outputs over whole sequences (B, T, F); the output at t depends on the tokens up to t."""

    def task_error(self, tokens: Tensor) -> tuple[Output, Tensor]:
        """Outputs over whole sequences, and how wrong its estimate of the task is at each token, (B, T): half the
        squared distance, in units in which each entry of the task has a variance of 1.

        Raises:
            PolicyError: if it estimates none.
        """
        raise PolicyError(f"{type(self).__name__} does not estimate the task")

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """An empty memory for `batch` sequences."""

    @abstractmethod
    def step(self, token: Tensor, state: State, position: Position) -> tuple[Output, State]:
        """Act on one token (B, F) at `position` of the sequence; equals `forward` there.

        In a trial an episode may end early in some sequences: these then are behind the others, and `position` is (B,).

        Returns:
            The output (B, ...), and the memory for the next step: a fresh tree of the same structure, or the given one,
            written in place at `position`; a second token at the same position takes the place of the first. Callers
            must not use the given one again.
        """

    @abstractmethod
    def head_names(self) -> frozenset[str]:
        """Parameters of the action head."""

    def critic_names(self) -> frozenset[str]:
        """Parameters on which no action depends."""
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(("critic.", "task_head.")))

    def set_attention(self, implementation: str) -> None:
        """Choose how attention over whole sequences is computed (see `agents.attention`).

        Does nothing in a policy without attention.
        """

    def parameter_names(self, adapt: str) -> frozenset[str]:
        """The parameters that the inner loop adapts.

        Args:
            adapt: `all` on which actions depend, the `head`, or the `body` (all but the head).

        Raises:
            PolicyError: if `adapt` is another word.
        """
        if adapt not in ADAPT:
            raise PolicyError(f"adapt={adapt}: unknown choice (valid: {', '.join(ADAPT)})")
        acting = frozenset(name for name, _ in self.named_parameters()) - self.critic_names()
        head = self.head_names()
        return {"all": acting, "head": head, "body": acting - head}[adapt]

    def bounded_log_std(self, like: Tensor) -> Tensor:
        """The log standard deviation, clamped to a sane range and expanded to `like` (..., A).

        It is the same in every state.
        """
        return self.log_std.clamp(*LOG_STD_RANGE).expand_as(like)

    def keep_in_range(self) -> None:
        """Bring a deviation back that training has moved out of its range: beyond it no gradient would."""
        with torch.no_grad():
            self.log_std.clamp_(*LOG_STD_RANGE)


def orthogonal_linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero bias."""
    module = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module
