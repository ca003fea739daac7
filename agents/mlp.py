"""A policy without memory: the network of the MAML paper's reinforcement learning experiments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.errors import PolicyError
from agents.policy import Critic, Output, Policy, Position, orthogonal_linear
from agents.settings import MLPSettings

DEFAULT = MLPSettings()
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class MLPPolicy(Policy):
    """Action mean and value from two separate networks on the observation alone (Finn et al. 2017, appendix A.2)."""

    Settings = MLPSettings

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = DEFAULT.hidden,
        activation: str = DEFAULT.activation,
        initial_std: float = DEFAULT.initial_std,
        max_length: int = 1,
        privileged_size: int = 0,
    ) -> None:
        super().__init__(observation_size, action_size, "none", max_length, initial_std, privileged_size)
        if activation not in ACTIVATIONS:
            raise PolicyError(f"activation={activation}: unknown (valid: {', '.join(ACTIVATIONS)})")
        if not hidden or min(hidden) < 1:
            raise PolicyError(f"hidden={list(hidden)}: give at least one positive layer width")

        def trunk(inputs: int) -> nn.Sequential:
            modules: list[nn.Module] = []
            sizes = [inputs, *hidden]
            for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
                modules += [orthogonal_linear(inputs, outputs, 2**0.5), ACTIVATIONS[activation]()]
            return nn.Sequential(*modules)

        self.body, self.head = trunk(observation_size), orthogonal_linear(hidden[-1], action_size, 0.01)
        self.critic = Critic(trunk(observation_size + privileged_size), orthogonal_linear(hidden[-1], 1))

    def forward(self, tokens: Tensor) -> Output:
        tokens = self.normaliser(tokens)
        observation = self.layout.observation(tokens)
        mean = self.head(self.body(observation))
        value = self.critic(torch.cat([observation, self.layout.task(tokens)], -1))
        return Output(mean, self.bounded_log_std(mean), value)

    def initial_state(self, batch: int) -> tuple[()]:
        return ()

    def step(self, token: Tensor, state: tuple[()], position: Position) -> tuple[Output, tuple[()]]:
        return self(token), state

    def head_names(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias", "log_std"})
