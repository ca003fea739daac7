"""Collect episodes: policy and environment in lockstep over all tasks, with per-task parameters if they adapted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from agents.policy import Output, Policy, State, log_probability
from envs.core.environment import Environment, Step
from envs.errors import TaskError
from metarl.rollouts.episodes import Episodes

Parameters = Mapping[str, Tensor]
Act = Callable[[Tensor, State, int], tuple[Output, State]]


class _Stepper(nn.Module):
    """`functional_call` calls `forward`; this one is the policy's `step`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, token: Tensor, state: State, position: int) -> tuple[Output, State]:
        return self.policy.step(token, state, position)


def acting(policy: Policy, adapted: Parameters | None, tasks: int) -> Act:
    """The policy's step over tokens (M * E, F).

    Args:
        adapted: parameters with a leading M, one set per task; None acts with the policy's own.
    """
    if not adapted:
        return policy.step
    stepper = _Stepper(policy)

    def one_task(parameters: dict[str, Tensor], token: Tensor, keys: Tensor, values: Tensor, position: int) -> Output:
        return functional_call(stepper, parameters, (token, State(keys, values), position))[0]

    renamed = {f"policy.{name}": value for name, value in adapted.items()}
    all_tasks = vmap(one_task, in_dims=(0, 0, 0, 0, None))

    def act(token: Tensor, state: State, position: int) -> tuple[Output, State]:
        # The memory is written in place, through these views.
        split = [x.unflatten(0, (tasks, -1)) for x in (token, *state)]
        output = all_tasks(renamed, split[0], split[1], split[2], position)
        return Output._make(x.flatten(0, 1) for x in output), state

    return act


@torch.no_grad()
def collect(
    env: Environment,
    policy: Policy,
    adapted: Parameters | None = None,
    *,
    generator: torch.Generator,
    trial_episodes: int = 1,
    deterministic: bool = False,
    watch: Callable[[int, Step | None], None] | None = None,
) -> Episodes:
    """Run R = `trial_episodes` episodes in every simulation of the environment's current tasks.

    Args:
        env: with its tasks set; its N simulations give E = N / M sequences per task.
        policy: on any device; the physics stays on the CPU.
        adapted: parameters with a leading M for those that differ between tasks.
        generator: of the action noise (CPU).
        trial_episodes: episodes that share one context; the first flag marks where each begins.
        deterministic: act by the mean.
        watch: called with (0, None) after every reset and with (t + 1, step) after every step t, to record what
            happens.

    Returns:
        Episodes with T = R * H, on the policy's device.

    Raises:
        TaskError: if the environment has no tasks.
    """
    if env.tasks is None:
        raise TaskError(f"{env.name}: set tasks before collecting episodes")
    tasks, simulations, horizon = len(env.tasks), env.num_simulations, env.horizon
    shape = (tasks, simulations // tasks)
    device = policy.log_std.device
    act = acting(policy, adapted, tasks)
    state = policy.initial_state(simulations)
    steps = trial_episodes * horizon
    size_d, size_a = env.observation_size, env.action_size
    tokens = torch.zeros(steps, simulations, size_d + size_a + 2)
    actions = torch.zeros(steps, simulations, size_a)
    scalars = torch.zeros(4, steps, simulations)  # log probability, value, reward, valid
    noise = torch.zeros(steps, simulations, size_a)
    if not deterministic:
        noise = torch.randn(steps, simulations, size_a, generator=generator)
    successes, broken = (torch.zeros(steps, simulations, dtype=torch.bool) for _ in range(2))
    terms: dict[str, Tensor] = {}
    failures, failure = 0, None
    previous = torch.zeros(simulations, size_a + 1)

    for t in range(steps):
        episode, first = t // horizon, t % horizon == 0
        if first:
            observation = env.reset()
            alive = torch.ones(simulations, dtype=torch.bool)
            if watch:
                watch(0, None)
        torch.cat([observation, previous, torch.full((simulations, 1), float(first))], -1, out=tokens[t])
        with torch.inference_mode():  # less overhead than `no_grad`; what it makes stays in here
            output, state = act(tokens[t].to(device), state, t)
            action = torch.addcmul(output.mean, noise[t].to(device), torch.exp(output.log_std))
            scalars[0, t] = log_probability(output, action)
            scalars[1, t] = output.value
            actions[t] = action
        step = env.step(actions[t])
        valid = alive & ~step.failed
        reward = step.reward * valid
        scalars[2, t], scalars[3, t] = reward, valid
        successes[t], broken[t] = step.success, alive & step.failed
        for name, term in step.terms.items():
            terms.setdefault(name, torch.zeros(trial_episodes, simulations))[episode].addcmul_(term, scalars[3, t])
        if broken[t].any():
            failures += int(broken[t].sum())
            failure = failure or f"{_failure(env, broken[t])}, episode {episode}, control step {t % horizon}"
        alive = alive & ~step.terminated
        observation = step.observation
        if watch:
            watch(t % horizon + 1, step)
        previous = torch.cat([actions[t].clamp(-1.0, 1.0), reward[:, None]], -1)

    valid, success, failed = (x.unflatten(0, (trial_episodes, horizon)) for x in (scalars[3] > 0, successes, broken))
    # Valid steps come first in an episode; one that broke ended without success.
    count = valid.sum(1)
    at_end = success.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0] & (count > 0) & ~failed.any(1)

    def by_task(x: Tensor) -> Tensor:
        """(T, N, ...) to (M, E, T, ...)."""
        return x.transpose(0, 1).unflatten(0, shape).to(device)

    return Episodes(
        tokens=by_task(tokens).contiguous(),
        actions=by_task(actions).contiguous(),
        log_probability=by_task(scalars[0]).contiguous(),
        value=by_task(scalars[1]).contiguous(),
        reward=by_task(scalars[2]).contiguous(),
        valid=by_task(scalars[3]).contiguous(),
        success_at_end=by_task(at_end),
        success_any_step=by_task((success & valid).any(1)),
        returns=by_task(scalars[2].unflatten(0, (trial_episodes, horizon)).sum(1)),
        terms={name: by_task(value) for name, value in terms.items()},
        failures=failures,
        failure=failure,
    )


def _failure(env: Environment, failed: Tensor) -> str:
    """The failure of simulations (N,) in words: the environment's own, if it has any."""
    first = int(failed.nonzero()[0, 0])
    own = getattr(env, "last_failure", None)
    return own or f"{env.name}: an episode failed in simulation {first}, {env.task_of(first)}"
