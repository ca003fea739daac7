"""A recurrent policy: a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) over tokens.

    python -m metarl.train env=reach algo=in_context agent=experiments.gru:GRUPolicy agent.hidden_size=64

This is an example of your own policy. Every command and every algorithm works on it, gradient steps included. A step
costs the same whatever the policy has seen before, but training goes through a sequence one token after the other.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from agents.policy import Critic, Output, Policy, Position, orthogonal_linear
from agents.settings import Count, PolicySettings, setting


class GRUSettings(PolicySettings):
    """A gated recurrent unit over the tokens of an episode or a trial."""

    hidden_size: Count = setting(64, "numbers that it remembers")
    context: Literal["auto", "episode", "trial"] = setting(
        "auto", "what it remembers; auto: a trial where there are several episodes to a trial, else an episode"
    )


class GRUPolicy(Policy):
    """The hidden state (B, hidden_size) goes to the action and value heads, beside the present observation.

    Args:
        observation_size: D. action_size: A. max_length: longest sequence T; the unit itself knows no limit.
        hidden_size, context, initial_std: see `GRUSettings`.
    """

    Settings = GRUSettings

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        max_length: int,
        hidden_size: int,
        context: str,
        initial_std: float,
    ) -> None:
        super().__init__(observation_size, action_size, context, max_length, initial_std)
        self.hidden_size = hidden_size
        self.inputs = orthogonal_linear(self.layout.size, 3 * hidden_size)  # [W_r; W_z; W]
        self.gates = orthogonal_linear(hidden_size, 2 * hidden_size)  # [U_r; U_z]
        self.candidate = orthogonal_linear(hidden_size, hidden_size)  # U
        features = hidden_size + observation_size
        self.head = nn.Sequential(orthogonal_linear(features, 64), nn.Tanh(), orthogonal_linear(64, action_size, 0.01))
        self.critic = Critic(orthogonal_linear(features, 64), nn.Tanh(), orthogonal_linear(64, 1))

    def forward(self, tokens: Tensor) -> Output:
        tokens = self.normaliser(tokens)
        state, states = tokens.new_zeros(len(tokens), self.hidden_size), []
        for inputs in self.inputs(tokens).unbind(1):
            state = self.next_state(inputs, state)
            states.append(state)
        return self.outputs(torch.stack(states, 1), tokens)

    def initial_state(self, batch: int) -> Tensor:
        return self.log_std.new_zeros(batch, self.hidden_size)

    def step(self, token: Tensor, state: Tensor, position: Position) -> tuple[Output, Tensor]:
        token = self.normaliser(token)
        state = self.next_state(self.inputs(token), state)
        return self.outputs(state, token), state

    def next_state(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The state h' (B, hidden_size) after h, by equations 5 to 8.

        Args:
            inputs: W x for the reset gate, the update gate and the candidate; (B, 3 * hidden_size).
        """
        for_gates, for_candidate = inputs.tensor_split((2 * self.hidden_size,), -1)
        reset, update = torch.sigmoid(for_gates + self.gates(state)).chunk(2, -1)
        candidate = torch.tanh(for_candidate + self.candidate(reset * state))
        return update * state + (1.0 - update) * candidate

    def outputs(self, states: Tensor, tokens: Tensor) -> Output:
        """The heads' outputs, from states (..., hidden_size) beside the observations in tokens (..., F)."""
        features = torch.cat([states, self.layout.observation(tokens)], -1)
        mean = self.head(features)
        return Output(mean, self.bounded_log_std(mean), self.critic(features))

    def head_names(self) -> frozenset[str]:
        return frozenset({"log_std"} | {name for name, _ in self.named_parameters() if name.startswith("head.")})
