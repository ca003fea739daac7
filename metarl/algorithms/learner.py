"""What the trainer asks of an algorithm, and what all algorithms inherit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from agents.policy import Output, Policy
from metarl.algorithms.adaptation import Parameters, Rates, inner_step, step_tasks
from metarl.algorithms.advantages import (
    centred,
    discounted_returns,
    episode_baseline_advantage,
    generalised_advantage,
    linear_baseline,
    normalise,
    these_alone,
)
from metarl.algorithms.objectives import ppo, surrogate
from metarl.config.algorithms import AlgorithmSettings
from metarl.distributed import ALONE, Ranks
from metarl.rollouts.episodes import Batch, Episodes


class Learner(ABC):
    """An algorithm: `prepare` each round of episodes, `adapt` between rounds, `update` at the end.

    A subclass sets `rounds` and writes `update`. The base class adapts by plain gradient steps at a fixed rate, as any
    trained policy can be fine-tuned.

    Attributes:
        Settings: what `algo.` on the command line may set.
        rounds: rollouts in a meta-iteration; between them every task takes an inner step on the last one.
        attention: how attention over whole sequences is computed in training, see `agents.attention`.
        fused_above: the control steps above which the fused form is faster on a CPU, where one derivative suffices.
        shares_tasks: whether `update` takes one process' tasks alone, and makes one step of those of all (see `ranks`).
            Otherwise every process is given all of them, and computes the same.
        ranks: the processes that train together; in a plain run, this one.
        parameters: of the policy, by name.
        rate_parameters: what the inner rate of each adapting parameter is made of, see `rates_of`.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = AlgorithmSettings
    rounds: int = 1
    fused_above: ClassVar[int] = 200
    shares_tasks: ClassVar[bool] = False
    critic_adapts: ClassVar[bool] = False  # whether inner steps move the critic too
    ranks: Ranks = ALONE

    def __init__(self, policy: Policy, settings: AlgorithmSettings, generator: torch.Generator) -> None:
        self.policy = policy
        self.settings = settings
        self.generator = generator
        self.attention = "fused" if policy.max_length > self.fused_above else "math"
        self.parameters = dict(policy.named_parameters())
        self.rate_parameters = self.initial_rate_parameters()

    @abstractmethod
    def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
        """Improve the policy from the rounds (M, E, T, ...) of one meta-iteration.

        Returns:
            Metrics, with the numbers of `updates` and, among these, of `skipped_updates`: those that were not finite
            and moved nothing.
        """

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For an update on the data of all processes."""
        ranks, self.ranks = self.ranks, ALONE
        try:
            yield
        finally:
            self.ranks = ranks

    def initial_rate_parameters(self) -> Parameters:
        """The rate parameters to begin with: for each parameter that adapts a scalar, or one of its own shape."""
        names = self.policy.parameter_names(self.settings.inner.adapt)
        rate = torch.log(torch.tensor(self.settings.inner.rate, device=self.policy.log_std.device))
        return {name: rate.clone() for name in self.parameters if name in names}

    def set_learning_rate(self, iteration: int) -> None:  # noqa: B027 - not every learner has one that falls
        """Set the outer learning rate of an iteration, counted from 0 since the learner began."""

    def prepare(self, episodes: Episodes) -> Batch:
        """Advantages and critic targets of episodes, normalised within each task that has several episodes.

        Those of inner steps need not be (`inner.normalize_advantage`): a normalised gradient is as long where nearly
        nothing is to be gained as where much is, and a step that it guides goes too far in one and not far enough in
        the other. They are then in units of the returns' spread, which the critic follows; those of a feedback that is
        not the reward stay in its own. An inner step never knows of other tasks, also where a task has one episode.

        What follows an early end is moved out of the sight of the trial's next episode, as it is in acting.
        """
        settings, valid, value = self.settings, episodes.valid, episodes.value
        gamma, alike = settings.gamma, settings.inner.normalize_advantage
        if settings.baseline == "linear":
            observation = self.policy.layout.observation(episodes.tokens)
            value = linear_baseline(observation, discounted_returns(episodes.reward, valid, gamma), valid)
        advantage = generalised_advantage(episodes.reward, value, valid, gamma, settings.gae_lambda)
        alone = ((1, 2), these_alone)
        over = alone if episodes.tokens.shape[1] > 1 else ((0, 1, 2), self.ranks.total)
        normalised, target = normalise(advantage, valid, *over), advantage + value
        if not alike:
            inner = centred(advantage, valid, *alone) / self.policy.critic.deviation
        else:
            inner = normalised if over is alone else normalise(advantage, valid, *alone)
        # A robot that adapts has neither the reward nor the task that a critic was told: feedback is all.
        if not episodes.fed_the_reward or self.policy.layout.privileged_size:
            felt = episode_baseline_advantage(episodes.feedback, valid, gamma)
            inner = (normalise if alike else centred)(felt, valid, *alone)
            target = episodes.value if self.critic_adapts else target
        batch = Batch(episodes.tokens, episodes.actions, episodes.log_probability, normalised, target, valid, inner)
        return batch.valid_first() if episodes.trial_episodes > 1 else batch

    def outputs(self, parameters: Parameters, batch: Batch) -> Output:
        """The policy's outputs under the given parameters; those not named are the policy's own."""
        return functional_call(self.policy, parameters, (batch.tokens,))

    def inner_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """One task's loss in the inner loop; a scalar."""
        return self.policy_loss(self.outputs(parameters, batch), batch)

    def outer_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """One task's loss in the outer loop; a scalar."""
        return self.ppo_loss(self.outputs(parameters, batch), batch)

    def losses(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both of them; of one forward pass, unless a subclass has one of its own."""
        kind = type(self)
        if kind.inner_loss is not Learner.inner_loss or kind.outer_loss is not Learner.outer_loss:
            return self.inner_loss(parameters, batch), self.outer_loss(parameters, batch)
        output = self.outputs(parameters, batch)
        return self.policy_loss(output, batch), self.ppo_loss(output, batch)

    def policy_loss(self, output: Output, batch: Batch) -> Tensor:
        """The policy gradient's loss of outputs, with the inner loop's advantages; a scalar."""
        return surrogate(output, batch._replace(advantage=batch.inner_advantage))

    def ppo_loss(self, output: Output, batch: Batch) -> Tensor:
        """The PPO loss of outputs, with its weights in the settings; a scalar."""
        outer, unit = self.settings.outer, self.policy.critic.deviation
        return ppo(output, batch, outer.clip_range, outer.value_coef, outer.entropy_coef, unit)

    def rates_of(self, rate_parameters: Parameters) -> Parameters:
        """The inner rates that rate parameters stand for: these are their logarithms, so that no rate is negative."""
        return {name: torch.exp(value) for name, value in rate_parameters.items()}

    def rates(self) -> Parameters:
        """The inner rate of each adapting parameter in the first step."""
        return self.step_rates(self.rate_parameters, 1)[0]

    def step_rates(self, rate_parameters: Parameters, steps: int) -> list[Parameters]:
        """The inner rates of each of so many steps in turn; all but the first are scaled by `inner.later_rate`."""
        first = self.rates_of(rate_parameters)
        later = {name: rate * self.settings.inner.later_rate for name, rate in first.items()}
        return ([first] + [later] * steps)[:steps]

    def inner_step(self, parameters: Parameters, rates: Rates, batch: Batch) -> Parameters:
        """One task's parameters after an inner step on its batch (E, T, ...)."""
        inner = self.settings.inner
        return inner_step(self.inner_loss, parameters, rates, batch, max_norm=inner.max_grad_norm)

    def adapt(self, adapted: Parameters | None, batch: Batch) -> Parameters:
        """Parameters of all tasks (M, ...) after one more inner step on `batch` (M, E, ...); None: after the first."""
        first, later = self.step_rates({name: value.detach() for name, value in self.rate_parameters.items()}, 2)
        if adapted is not None:
            return step_tasks(self.inner_step, adapted, later, batch, per_task=True)
        start = {name: self.parameters[name].detach() for name in self.rate_parameters}
        return step_tasks(self.inner_step, start, first, batch, per_task=False)

    def action_std(self) -> float:
        """The mean standard deviation of the policy's actions, for the metrics."""
        return float(torch.exp(self.policy.bounded_log_std(self.policy.log_std)).detach().mean())

    def state(self) -> dict[str, Tensor]:
        """What an update depends on beside the policy and the generator, by name: here the learned rates."""
        return {f"log_rate.{name}": value for name, value in self.rate_parameters.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a `state`.

        Raises:
            LookupError, RuntimeError, ValueError: if it does not fit.
        """
        for name, value in self.rate_parameters.items():
            value.copy_(tensors[f"log_rate.{name}"])
