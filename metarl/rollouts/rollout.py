"""Collect episodes: all simulations step together, and the policy acts in each with the parameters of its task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment, Step
from envs.errors import TaskError
from metarl.rollouts.acting import Actor, Choose, Parameters, sample_with
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.transfer import upload

Listener = Callable[[int, Step | None], None]


@runtime_checkable
class Simulations(Protocol):
    """What a rollout needs of an environment."""

    num_simulations: int
    horizon: int

    def reset(self) -> Tensor:
        """Start an episode in all of them; the observation (N, D)."""
        ...

    def step(self, action: Tensor) -> Step:
        """Advance one control step with actions (N, A), which it clips to [-1, 1]."""
        ...

    def privileged(self) -> Tensor | None:
        """What a critic may see of the tasks (N, P); None: nobody knows them."""
        ...


class Transition(NamedTuple):
    """What happened to N simulations in one control step."""

    token: Tensor  # (N, F) what the policy saw, on its device
    action: Tensor  # (N, A) as sampled, before clipping
    log_probability: Tensor  # (N,) on the policy's device
    value: Tensor  # (N,) likewise
    reward: Tensor  # (N,) 0 where not valid
    feedback: Tensor  # (N,) likewise
    valid: Tensor  # (N,) 1.0 where the episode still ran and nothing failed, else 0.0
    success: Tensor  # (N,) bool; False where not valid
    broken: Tensor  # (N,) bool: the running episode failed in this step
    over: Tensor  # (N,) bool: the episode has ended, in this step or before
    terms: dict[str, Tensor]  # reward term -> (N,), 0 where not valid


def play(
    env: Simulations,
    actor: Actor,
    choose: Choose,
    episodes: int = 1,
    listener: Listener | None = None,
    offset: Tensor | None = None,
) -> Iterator[Transition]:
    """Play `episodes` episodes that share one context, one after the other; yields every control step.

    An episode takes the whole horizon, even if it is over before in all simulations; to end it there, stop asking.
    What comes after an early end leaves no trace in the episodes that follow. There may be more episodes than the
    context has room for, see `Actor.next_episode`.

    Args:
        listener: called with (0, None) after every reset and with (t + 1, step) after every step t of an episode.
        offset: (N, D) by which all that the policy sees in a sequence is off; None: nothing is.
    """
    memory, felt = actor.start(env.num_simulations), torch.zeros(env.num_simulations)
    told = actor.policy.layout.privileged_size > 0
    for left in reversed(range(episodes)):
        if left < episodes - 1:
            memory, felt = actor.next_episode(memory, felt, env.horizon)
        observation, over = env.reset(), torch.zeros(env.num_simulations, dtype=torch.bool)
        task = env.privileged() if told else None
        if listener:
            listener(0, None)
        for t in range(env.horizon):
            before = memory
            seen = observation if offset is None else observation + offset
            decision, memory = actor.decide(before, seen, felt, t == 0, choose, task)
            step = env.step(decision.action)
            broken, valid = step.failed & ~over, ~(over | step.failed)
            earned, feedback = step.reward * valid, step.feedback * valid
            if left and not bool(valid.all()):  # nobody remembers the last episode
                memory, felt = actor.without(~valid, memory, before), torch.where(valid, feedback, felt)
            else:
                felt = feedback
            observation, over = step.observation, over | step.terminated | step.failed
            terms = {name: term * valid for name, term in step.terms.items()}
            if listener:
                listener(t + 1, step)
            yield Transition(*decision, earned, feedback, valid.float(), step.success & valid, broken, over, terms)


@torch.no_grad()
def collect(
    env: Environment,
    policy: Policy,
    adapted: Parameters | None = None,
    *,
    generator: torch.Generator,
    trial_episodes: int = 1,
    deterministic: bool = False,
    listener: Listener | None = None,
    observation_offset: float = 0.0,
) -> Episodes:
    """Run R = `trial_episodes` episodes in every simulation of the environment's current tasks.

    Args:
        env: with its tasks set; its N simulations give E = N / M sequences per task.
        policy: on any device; the physics stays on the CPU.
        adapted: parameters with a leading M, for those that differ between tasks.
        generator: of the action noise (CPU), which is drawn for all simulations that the environment is a part of.
        trial_episodes: episodes that share one context; the first flag marks where each begins.
        deterministic: act by the mean.
        listener: see `play`.
        observation_offset: standard deviation of what each observed number is off by throughout a sequence, as a share
            of the number's own in training; nothing is off until the policy has seen something.

    Returns:
        Episodes with T = R * H.

    Raises:
        TaskError: if the environment has no tasks.
    """
    if env.tasks is None:
        raise TaskError(f"{env.name}: set tasks before collecting episodes")
    env.begin_trial()
    actor = Actor(policy, adapted, len(env.tasks))
    shape = (trial_episodes * env.horizon, env.part.whole, env.action_size)
    choose: Choose = attrgetter("mean")
    if not deterministic:
        noise = torch.randn(shape, generator=generator).narrow(1, env.part.first, env.num_simulations)
        choose = sample_with(*upload([noise], policy.device))
    offset = _offset(env, policy, observation_offset, generator) if observation_offset else None
    transitions: list[Transition] = []
    failure: str | None = None
    for t, transition in enumerate(play(env, actor, choose, trial_episodes, listener, offset)):
        if failure is None and bool(transition.broken.any()):
            episode, step = divmod(t, env.horizon)
            failure = f"{_failure(env, transition.broken)}, episode {episode}, control step {step}"
        transitions.append(transition)
    return summarise(transitions, len(env.tasks), env.horizon, policy.device, env.fed_the_reward, failure)


def _offset(env: Environment, policy: Policy, share: float, generator: torch.Generator) -> Tensor:
    """By what each observed number of each simulation is off, (N, D); drawn for all simulations of the whole."""
    noise = torch.randn(env.part.whole, env.observation_size, generator=generator)
    # The policy has seen what was off: with this the offsets stay a share of the spread that there is without them.
    spread = (policy.layout.observation(policy.normaliser.variance) / (1.0 + share**2)).sqrt()
    spread *= bool(policy.normaliser.count)
    return share * spread.cpu() * noise.narrow(0, env.part.first, env.num_simulations)


def summarise(
    transitions: Sequence[Transition],
    tasks: int,
    horizon: int,
    device: torch.device,
    fed_the_reward: bool,
    failure: str | None = None,
) -> Episodes:
    """Episodes (M, E, T, ...) from T = R * H transitions of N = M * E simulations.

    Args:
        tasks: M. horizon: H. device: of the policy. fed_the_reward: see `Episodes`.
        failure: the first failure in words, if any.
    """

    def by_episode(name: str) -> Tensor:
        """A field of all transitions (R, H, N)."""
        return torch.stack([getattr(transition, name) for transition in transitions]).unflatten(0, (-1, horizon))

    def by_task(x: Tensor) -> Tensor:
        """(N, ...) to (M, E, ...)."""
        return x.unflatten(0, (tasks, -1))

    def in_sequence(name: str) -> Tensor:
        """A field of all transitions (M, E, T, ...)."""
        return by_task(torch.stack([getattr(transition, name) for transition in transitions], 1))

    success, broken = by_episode("success"), by_episode("broken")
    # Valid steps come first in an episode; one that broke ended without success.
    count = by_episode("valid").sum(1).long()
    last = success.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0]
    actions, *told = upload([in_sequence(name) for name in ("action", "reward", "feedback", "valid")], device)
    reward, feedback, valid = told
    return Episodes(
        tokens=in_sequence("token"),
        actions=actions,
        log_probability=in_sequence("log_probability"),
        value=in_sequence("value"),
        reward=reward,
        feedback=feedback,
        valid=valid,
        success_at_end=by_task((last & ~broken.any(1)).T),
        success_any_step=by_task(success.any(1).T),
        steps_to_success=by_task(torch.where(success.any(1), success.float().argmax(1) + 1, horizon).T),
        returns=by_task(by_episode("reward").sum(1).T),
        terms={name: by_task(total.T) for name, total in _summed(transitions, horizon).items()},
        fed_the_reward=fed_the_reward,
        broken=by_task(broken.any(1).T),
        failures=int(broken.sum()),
        failure=failure,
    )


def _summed(transitions: Sequence[Transition], horizon: int) -> dict[str, Tensor]:
    """Reward terms (R, N), each summed over its episode."""
    totals: dict[str, Tensor] = {}
    for t, transition in enumerate(transitions):
        for name, term in transition.terms.items():
            total = totals.setdefault(name, torch.zeros(len(transitions) // horizon, len(term)))
            total[t // horizon] += term
    return totals


def _failure(env: Environment, failed: Tensor) -> str:
    """The failure of simulations (N,) in words: the environment's own, if it has any."""
    first = int(failed.nonzero()[0, 0])
    own = getattr(env, "last_failure", None)
    return own or env.failure_of(first, "an episode failed")
