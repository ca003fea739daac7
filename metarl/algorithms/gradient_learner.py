"""Shared by algorithms that take Adam steps on an outer gradient: minibatches, threads, the step itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from agents.policy import Policy
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.learner import Learner
from metarl.algorithms.threads import cores
from metarl.config.algorithms import AlgorithmSettings
from metarl.rollouts.episodes import Batch
from metarl.rollouts.folded import twin
from metarl.rollouts.transfer import on_cpu, upload

Weigh = Callable[[Batch], Tensor | int]
# Kinds of devices whose fused optimiser steps whatever `found_inf` says: Apple's GPUs before torch 2.13
# (https://github.com/pytorch/pytorch/pull/186360).
DEAF = frozenset({"mps"})


def steps_of(batch: Batch) -> Tensor:
    """The valid steps of a batch: what losses are means over."""
    return batch.valid.sum()


def tasks_of(batch: Batch) -> int:
    """The tasks of a batch (M, ...)."""
    return len(batch.valid)


class OuterGradient(NamedTuple):
    """A mean loss and its gradient."""

    parameters: Parameters
    rate_parameters: Parameters  # empty for those that an algorithm does not differentiate
    loss: Tensor


Twin = TypeVar("Twin", bound="GradientLearner")


class GradientLearner(Learner):
    """A learner that steps Adam on the gradient of each minibatch of several epochs.

    A subclass passes the function that computes this gradient to `descend`, and returns the metrics it gets.
    """

    shares_tasks = True

    def __init__(self, policy: Policy, settings: AlgorithmSettings, generator: torch.Generator) -> None:
        super().__init__(policy, settings, generator)
        self.optimiser = torch.optim.Adam(self.parameter_groups(), eps=1e-5, fused=True)
        self.first_learning_rates = [group["lr"] for group in self.optimiser.param_groups]
        self.device = policy.log_std.device
        # On an accelerator several threads are of no use.
        self.workers = settings.inner.workers or cores() if on_cpu(self.device) else 1

    def parameter_groups(self) -> list[dict[str, object]]:
        """What the optimiser moves."""
        return [{"params": list(self.parameters.values()), "lr": self.settings.outer.learning_rate}]

    def set_learning_rate(self, iteration: int) -> None:
        """Halve the learning rates every `outer.half_life` iterations.

        They do not fall with the share of a budget, so that a run whose budget is raised goes on as if it had always
        had that one.
        """
        if half_life := self.settings.outer.half_life:
            for group, first in zip(self.optimiser.param_groups, self.first_learning_rates, strict=True):
                group["lr"] = first * 0.5 ** (iteration / half_life)

    def twins(self: Twin) -> list[Twin]:
        """This learner and others on the same tensors, one for each of the `workers` threads."""
        others = [copy.copy(self) for _ in range(self.workers - 1)]
        for other in others:
            other.policy = twin(self.policy)  # `functional_call` writes into a module as it runs
        return [self, *others]

    def minibatches(self, size: int) -> Iterator[Tensor]:
        """Numbers below `size` for every minibatch of every epoch: of each minibatch the share of this process."""
        orders = [torch.randperm(size, generator=self.generator) for _ in range(self.settings.outer.n_epochs)]
        for order in upload(orders, self.device):
            for part in order.tensor_split(min(self.settings.outer.minibatches, size)):
                yield part[self.ranks.share(len(part))]

    def apply(self, gradient: Parameters, rate_gradient: Parameters) -> Tensor:
        """Clip the gradient of the parameters in place and step the optimiser.

        Returns:
            A bool on the device, for which nobody has waited unless the device is `DEAF`: False if either gradient is
            not finite. Then nothing moves.
        """
        for name, value in gradient.items():
            self.parameters[name].grad = value
        for name, value in rate_gradient.items():
            self.rate_parameters[name].grad = value
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.outer.max_grad_norm)
        finite = torch.isfinite(norm + torch.nn.utils.get_total_norm(rate_gradient.values()))
        # The optimiser's own switch, made for gradients scaled in half precision: on the device, so without a wait.
        self.optimiser.found_inf = (~finite).float()
        if self.device.type not in DEAF or bool(finite):
            self.optimiser.step()
        return finite

    def descend(
        self,
        rounds: Sequence[Batch],
        gradient: Callable[[Sequence[Batch]], OuterGradient],
        weigh: Weigh = steps_of,
    ) -> dict[str, float]:
        """Step on the `gradient` of every minibatch of the rounds, drawn along their leading dimension.

        Args:
            weigh: what the gradient of a part of a minibatch counts in the mean over its parts in several processes;
                of the part in the first round.

        Returns:
            Metrics: the mean loss, and the numbers of updates and of those that were skipped.
        """
        # Minibatches are drawn from the tasks of all processes. A process that has few tasks of a minibatch would wait
        # for one that has many: so each is given the data of all, and computes as much as the others.
        rounds = [self.ranks.whole(batch) for batch in rounds]
        losses: list[Tensor] = []
        moved: list[Tensor] = []
        for index in self.minibatches(len(rounds[0].tokens)):
            # A process that has no share of a small minibatch computes what counts nothing: it would wait anyway.
            part = [batch.select(index if len(index) else slice(0, 1)) for batch in rounds]
            weight = weigh(part[0]) * bool(len(index))
            parameters, rate_parameters, loss = self.ranks.mean(gradient(part), weight)
            moved.append(self.apply(parameters, rate_parameters))
            losses.append(loss)
        # All at once: reading a number waits for an accelerator.
        told = torch.stack(losses)
        values, steps = torch.stack([told, torch.stack(moved).to(told)]).tolist()
        count = len(values)
        return {"loss": sum(values) / count, "updates": float(count), "skipped_updates": count - sum(steps)}

    def state(self) -> dict[str, Tensor]:
        """The learned rates and the optimiser's memory, by name."""
        tensors = super().state()
        for index, memory in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in memory.items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
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
