"""One step of acting: what was seen becomes a token, the policy answers, an action is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from agents.policy import Output, Policy, Position, State, log_probability
from metarl.rollouts.folded import folded
from metarl.rollouts.transfer import on_cpu, upload

Parameters = Mapping[str, Tensor]
PolicyStep = Callable[[Tensor, State, Position], tuple[Output, State]]
Choose = Callable[[Output], Tensor]  # actions (N, A) from the policy's outputs


class Memory(NamedTuple):
    """What N acting sequences carry from one step to the next."""

    state: State  # the policy's own memory
    position: Position  # of the next token in the sequence; (N,) on the CPU once sequences differ in it
    action: Tensor  # (N, A) the previous one, clipped to [-1, 1], on the CPU; 0 at the start


def blank(policy: Policy, count: int) -> Memory:
    """The memory of N = `count` sequences before their first step."""
    return Memory(policy.initial_state(count), 0, torch.zeros(count, policy.action_size))


def goes_on(policy: Policy, horizon: int) -> bool:
    """Whether a policy remembers more than an episode of `horizon` steps."""
    return policy.context == "trial" and policy.max_length > horizon


def with_room(policy: Policy, memory: Memory, horizon: int) -> Memory:
    """The memory of a trial in which another episode of `horizon` steps begins.

    Where the policy's context has no room left for it, it takes the place of the last episode there.
    """
    room, position = max(policy.max_length - horizon, 0), memory.position
    return memory._replace(position=min(position, room) if isinstance(position, int) else position.clamp(max=room))


def mean_action(output: Output) -> Tensor:
    """The actions (N, A) in the middle of the distribution."""
    return output.mean


class ActingStep(nn.Module):
    """One step of acting, as a function of tensors: what `Agent.predict` computes, and what is exported."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        observation: Tensor,
        previous_action: Tensor,
        feedback: Tensor,
        first: bool | Tensor,
        state: State,
        position: Position,
        choose: Choose = mean_action,
    ) -> tuple[Tensor, State]:
        """Actions (N, A), clipped to [-1, 1], and the policy's memory after them.

        Args:
            observation: (N, D). previous_action: (N, A), clipped. feedback: (N,) on it.
            first: whether an episode begins, for all or (N,).
            state, position: the policy's memory, and the place of this step in it (see `Policy.step`).
        """
        token = self.policy.layout.join(observation, previous_action, feedback, first)
        (token,) = upload([token], self.policy.device)
        output, state = self.policy.step(token, state, position)
        return choose(output).clamp(-1.0, 1.0), state


class Decision(NamedTuple):
    """What was seen and decided in one step."""

    token: Tensor  # (N, F) on the policy's device
    action: Tensor  # (N, A) before clipping, on the CPU
    log_probability: Tensor  # (N,) of the action, on the policy's device
    value: Tensor  # (N,) on the policy's device


class Actor:
    """A policy that acts for M tasks, with its own parameters or with a set of parameters for each task.

    Args:
        policy: on any device.
        adapted: parameters with a leading M, for those that differ between tasks; None: the policy's own.
        tasks: M.
    """

    def __init__(self, policy: Policy, adapted: Parameters | None, tasks: int) -> None:
        self.policy = policy
        self._step = acting(policy, adapted, tasks)

    def start(self, count: int) -> Memory:
        """The memory of N = `count` sequences before their first step."""
        return blank(self.policy, count)

    def decide(
        self,
        memory: Memory,
        observation: Tensor,
        feedback: Tensor,
        first: bool,
        choose: Choose,
        task: Tensor | None = None,
    ) -> tuple[Decision, Memory]:
        """Act on an observation (N, D), given the feedback (N,) on the previous action.

        Args:
            memory: as `start` or the last call returned it; do not use it again.
            first: whether an episode begins.
            task: (N, P) what the critic may see of it; None: nobody knows it.
        """
        token = self.policy.layout.join(observation, memory.action, feedback, first, task)
        with torch.inference_mode():  # has less overhead than `no_grad`
            token, position = self._there(token, memory.position)
            output, state = self._step(token, memory.state, position)
            chosen = choose(output)
            density = log_probability(output, chosen)
        action = chosen.to("cpu", copy=True)  # tensors of inference mode cannot be written to outside of it
        decision = Decision(token, action, density, output.value)
        return decision, Memory(state, memory.position + 1, action.clamp(-1.0, 1.0))

    def _there(self, token: Tensor, position: Position) -> tuple[Tensor, Position]:
        """Tokens (N, F) and their position on the policy's device.

        An accelerator is given the position of each sequence, which makes the shapes of every step the same.
        """
        device = self.policy.device
        if on_cpu(device):
            return token, position
        token, places = upload([token, torch.as_tensor(position).to(token).expand(len(token))], device)
        return token, places.long()

    def next_episode(self, memory: Memory, felt: Tensor, horizon: int) -> tuple[Memory, Tensor]:
        """Memory and last feedback (N,) with which the next episode of a trial, of `horizon` steps, begins.

        A policy whose memory is not of a trial begins anew.
        """
        if not goes_on(self.policy, horizon):
            return self.start(len(felt)), torch.zeros_like(felt)
        return with_room(self.policy, memory, horizon), felt

    def without(self, void: Tensor, after: Memory, before: Memory) -> Memory:
        """The memory `after` a step; but where that step is `void` (N,) bool, the one `before` it.

        What a policy writes into its memory in place stays, until the next token, which has the same position, takes
        its place.
        """

        def chosen(new: Any, old: Any) -> Any:
            if not isinstance(new, Tensor) or new.data_ptr() == old.data_ptr():
                return new
            return torch.where(void.to(new.device).view(-1, *[1] * (new.dim() - 1)), old, new)

        state = tree_map(chosen, after.state, before.state)
        return Memory(state, after.position - void.long(), torch.where(void[:, None], before.action, after.action))


def sample_with(noise: Tensor) -> Choose:
    """Choose actions by standard normal noise (T, N, A) on the policy's device, one row for each step."""
    rows = iter(noise)

    def choose(output: Output) -> Tensor:
        return torch.addcmul(output.mean, next(rows), torch.exp(output.log_std))

    return choose


def sample(output: Output, generator: torch.Generator) -> Tensor:
    """Actions drawn by a generator."""
    noise = torch.randn(output.mean.shape, generator=generator)
    (noise,) = upload([noise], output.mean.device)
    # Not `addcmul`: it rounds once less, and what an agent does and adapts to would change in the last bit.
    return output.mean + noise * torch.exp(output.log_std)


def acting(policy: Policy, adapted: Parameters | None, tasks: int) -> PolicyStep:
    """The policy's step over tokens (M * E, F), with parameters (M, ...) if they adapted."""
    if not adapted:
        return policy.step
    if tasks == 1:
        return folded(policy, adapted).step
    stepper = _Stepper(policy)
    renamed = {f"policy.{name}": value for name, value in adapted.items()}

    def one_task(parameters: Parameters, token: Tensor, state: State, position: Position) -> tuple[Output, State]:
        return functional_call(stepper, dict(parameters), (token, state, position))

    def act(token: Tensor, state: State, position: Position) -> tuple[Output, State]:
        # All of this is views, so a policy may write into its memory: nothing is copied.
        dims, place = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, (state, position))
        all_tasks = vmap(one_task, in_dims=(0, 0, dims, place), out_dims=(0, dims))
        token, state, position = _map(lambda leaf: leaf.unflatten(0, (tasks, -1)), (token, state, position))
        return _map(lambda leaf: leaf.flatten(0, 1), all_tasks(renamed, token, state, position))

    return act


class _Stepper(nn.Module):
    """`functional_call` calls `forward`; this one is the policy's `step`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, token: Tensor, state: State, position: Position) -> tuple[Output, State]:
        return self.policy.step(token, state, position)


def _map(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The tree with `function` of each tensor."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)
