"""What the trainer asks of an algorithm, and the pieces that all algorithms share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Output, Policy
from metarl.algorithms.adaptation import Parameters, adapt_tasks
from metarl.algorithms.advantages import discounted_returns, generalised_advantage, linear_baseline, normalise
from metarl.algorithms.objectives import ppo, surrogate
from metarl.algorithms.threads import cores, twin
from metarl.rollouts.episodes import Batch, Episodes


@dataclass(frozen=True)
class Inner:
    """The inner loop: gradient steps on a task's own episodes."""

    steps: int = 1
    rate: float = 0.1
    later_rate: float = 1.0  # factor on the rates of every step after the first
    learn_rates: bool = False
    rate_multiplier: float = 20.0  # learning rate of the log rates, relative to the policy's
    adapt: str = "all"
    clip: float | None = None
    first_order: bool = False
    unadapted_weight: float = 0.0
    chunk: int = 0  # tasks per vectorised call; 0: all on a GPU, as many as the cache holds on a CPU
    workers: int = 0  # threads that share the work of an outer gradient on a CPU; 0: one per core
    compile: bool = False


@dataclass(frozen=True)
class Outer:
    """The outer loop: PPO with several epochs over the meta-batch."""

    learning_rate: float = 1e-3
    half_life: float | None = None  # iterations in which the learning rate halves; None: it stays
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    value: float = 0.5
    entropy: float = 0.0
    gradient_clip: float = 0.5
    interpolation: float = 1.0  # Reptile's epsilon


@dataclass(frozen=True)
class Settings:
    """All settings of an algorithm."""

    tasks: int
    episodes: int
    trial_episodes: int = 1
    discount: float = 0.95
    trace: float = 0.95
    baseline: str = "critic"
    inner: Inner = field(default_factory=Inner)
    outer: Outer = field(default_factory=Outer)


Twin = TypeVar("Twin", bound="Learner")


class Skipped(NamedTuple):
    """What a skipped update was to move, and from which data: enough for `nan_search` to find what went wrong."""

    policy: dict[str, Tensor]  # its parameters and buffers
    log_rates: Parameters
    index: Tensor | None  # the minibatch, as numbers of `Learner.entries`; None: all of them


class Learner(ABC):
    """An algorithm: `prepare` each round of episodes, `adapt` between rounds, `update` at the end.

    The base class adapts by plain gradient steps at a fixed rate, as any trained policy can be fine-tuned.
    """

    rounds: int = 1  # rollouts per meta-iteration
    attention = "math"  # implementation for whole sequences, see `agents.attention`
    skipped: Skipped | None = None  # the latest update that was skipped
    index: Tensor | None = None  # the minibatch that `minibatches` gave last; None: all

    def __init__(self, policy: Policy, settings: Settings, generator: torch.Generator) -> None:
        self.policy = policy
        self.settings = settings
        self.generator = generator
        self.parameters = dict(policy.named_parameters())
        names = policy.parameter_names(settings.inner.adapt)
        rate = torch.log(torch.tensor(settings.inner.rate, device=policy.log_std.device))
        self.log_rates = {name: rate.clone() for name in self.parameters if name in names}
        self.optimiser = torch.optim.Adam(self.parameter_groups(), eps=1e-5, fused=True)
        self.first_rates = [group["lr"] for group in self.optimiser.param_groups]
        self.on_gpu = policy.log_std.device.type == "cuda"  # where several threads are of no use
        self.workers = 1 if self.on_gpu else settings.inner.workers or cores()

    def parameter_groups(self) -> list[dict[str, object]]:
        """What the outer optimiser moves."""
        return [{"params": list(self.parameters.values()), "lr": self.settings.outer.learning_rate}]

    def begin(self, iteration: int) -> None:
        """Set the outer learning rates for this iteration (from 0) of the learner's own.

        They fall with iterations and not with the share of a budget, so that a run whose budget is raised goes on as
        if it had always had that one.
        """
        if half_life := self.settings.outer.half_life:
            for group, first in zip(self.optimiser.param_groups, self.first_rates, strict=True):
                group["lr"] = first * 0.5 ** (iteration / half_life)

    def prepare(self, episodes: Episodes) -> Batch:
        """Advantages and critic targets of episodes, normalised within each task that has several episodes."""
        settings = self.settings
        value = episodes.value
        if settings.baseline == "linear":
            observation = self.policy.layout.observation(episodes.tokens)
            returns = discounted_returns(episodes.reward, settings.discount)
            value = linear_baseline(observation, returns, episodes.valid)
        advantage = generalised_advantage(episodes.reward, value, episodes.valid, settings.discount, settings.trace)
        dims = (1, 2) if episodes.tokens.shape[1] > 1 else (0, 1, 2)
        normalised = normalise(advantage, episodes.valid, dims)
        return Batch(
            episodes.tokens, episodes.actions, episodes.log_probability, normalised, advantage + value, episodes.valid
        )

    def outputs(self, parameters: Parameters, batch: Batch) -> Output:
        """The policy's outputs under the given parameters; those not named are the policy's own."""
        return functional_call(self.policy, parameters, (batch.tokens,))

    def inner_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """One task's loss in the inner loop; a scalar."""
        return surrogate(self.outputs(parameters, batch), batch)

    def outer_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """One task's loss in the outer loop; a scalar."""
        outer = self.settings.outer
        unit = self.policy.critic.deviation
        return ppo(self.outputs(parameters, batch), batch, outer.clip, outer.value, outer.entropy, unit)

    def rates(self) -> Parameters:
        """The inner rate of each adapting parameter."""
        return {name: torch.exp(value) for name, value in self.log_rates.items()}

    def adapt(self, adapted: Parameters | None, batch: Batch) -> Parameters:
        """Parameters of all tasks (M, ...) after one more inner step on `batch` (M, E, ...)."""
        start = adapted or {name: self.parameters[name].detach() for name in self.log_rates}
        factor = 1.0 if adapted is None else self.settings.inner.later_rate
        rates = {name: rate.detach() * factor for name, rate in self.rates().items()}
        clip = self.settings.inner.clip
        return adapt_tasks(self.inner_loss, start, rates, batch, per_task=adapted is not None, clip=clip)

    def twins(self: Twin, count: int) -> list[Twin]:
        """This learner and others on the same tensors, `count` in all, for that many threads."""
        others = [copy.copy(self) for _ in range(count - 1)]
        for other in others:
            other.policy = twin(self.policy)
        return [self, *others]

    @abstractmethod
    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        """Improve the policy from the rounds of one meta-iteration; returns metrics."""

    def apply(self) -> bool:
        """Clip the gradients that are set and step the optimiser; a gradient that is not finite is skipped (False)."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.outer.gradient_clip)
        rates_finite = all(r.grad is None or bool(torch.isfinite(r.grad)) for r in self.log_rates.values())
        if not gradients or not torch.isfinite(norm) or not rates_finite:
            self.keep_skipped()
            return False
        self.optimiser.step()
        return True

    def keep_skipped(self) -> None:
        """Note what the update that is being skipped was to move; call it before anything else moves."""
        policy = {name: value.detach().clone() for name, value in self.policy.state_dict().items()}
        rates = {name: value.detach().clone() for name, value in self.log_rates.items()}
        self.skipped = Skipped(policy, rates, self.index)

    def entries(self, rounds: Sequence[Batch]) -> list[Batch]:
        """The rounds with a leading dimension that `minibatches` draws from: the tasks, if nothing else is said."""
        return list(rounds)

    def support(self, rounds: Sequence[Batch]) -> Sequence[Batch]:
        """The rounds that inner steps are taken on."""
        return rounds[:-1]

    def objective(self, parameters: Parameters, log_rates: Parameters, rounds: Sequence[Batch]) -> Tensor:
        """What one of the `entries` adds to the outer loss; a scalar."""
        return self.outer_loss(parameters, rounds[-1])

    def state(self) -> dict[str, Tensor]:
        """Learned rates and the optimiser's memory, by name."""
        tensors = {f"log_rate.{name}": value for name, value in self.log_rates.items()}
        for index, memory in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in memory.items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a `state`.

        Raises:
            LookupError, RuntimeError, ValueError: if it does not fit.
        """
        for name, value in self.log_rates.items():
            value.copy_(tensors[f"log_rate.{name}"])
        memory: dict[int, dict[str, Tensor]] = {}
        moved = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, leaf = rest.partition(".")
                if leaf != "step" and value.shape != moved[int(index)].shape:
                    raise RuntimeError(f"{name} is {tuple(value.shape)}, its parameter another shape")
                memory.setdefault(int(index), {})[leaf] = value.clone()  # the optimiser keeps what it is given
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": memory})

    def minibatches(self, size: int) -> Iterator[Tensor]:
        """Index tensors of every minibatch of every epoch."""
        for _ in range(self.settings.outer.epochs):
            order = torch.randperm(size, generator=self.generator)
            for index in order.tensor_split(min(self.settings.outer.minibatches, size)):
                self.index = index
                yield index


Build = Callable[[Policy, Settings, torch.Generator], Learner]
