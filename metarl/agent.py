"""A trained policy in a user's hands: load it, adapt it to an environment, ask it for actions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.rounds import finite_step, inner_loop
from metarl.assembly.build import stream_seed
from metarl.assembly.opened import Run, open_run
from metarl.errors import MetaRLError
from metarl.rollouts.acting import Actor, sample
from metarl.rollouts.episodes import Batch
from metarl.rollouts.presented import check_spaces, vector_of, warn_of_differences
from metarl.rollouts.recall import Recall, act, remember_nothing
from metarl.rollouts.vector_env import VectorSimulations, explore
from metarl.run_folder.pretrained import locate


@dataclass(frozen=True, repr=False)
class Agent:
    """A trained policy with the parameters that it has adapted so far (None: as it was trained).

    Attributes:
        generator: what `predict` samples actions by; seeded by the run's seed, and anew by `generator.manual_seed(n)`.
    """

    run: Run
    adapted: Parameters | None = None
    generator: torch.Generator = field(init=False, compare=False)

    def __post_init__(self) -> None:
        seeded = torch.Generator().manual_seed(stream_seed(self.run.settings.seed, "agent"))
        object.__setattr__(self, "generator", seeded)

    def __repr__(self) -> str:
        return f"Agent({self.run}, {'as trained' if self.adapted is None else 'adapted'})"

    def adapt(
        self, env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], episodes: int = 10, steps: int = 1
    ) -> Agent:
        """Adapt to the task that `env` presents; this agent is left unchanged.

        Warns if observations or rewards pass through a wrapper, or episodes have another length than in training.

        Args:
            env: a Gymnasium environment, or a vector of environments of the same task, with the trained sizes.
            episodes: to collect before each inner step; all are played with exploration. A policy whose context is a
                trial plays whole trials, as in training: at least so many episodes.
            steps: inner gradient steps.

        Returns:
            An agent with adapted parameters.

        Raises:
            MetaRLError: if the spaces do not fit, episodes or steps are out of range, or the environment tells that it
                is not one task: its parts have different tasks, or it has another one after a reset.
            NotFiniteError: if an inner step is not finite; names the parameter.
        """
        if episodes < 1 or steps < 0:
            raise MetaRLError(f"adapt needs episodes >= 1 and steps >= 0, got episodes={episodes}, steps={steps}")
        learner, policy = self.run.learner, self.run.policy
        vector = vector_of(env)
        check_spaces(env, policy)
        warn_of_differences(vector, self.run.horizon, stacklevel=2)
        simulations = VectorSimulations(vector, self.run.horizon)
        generator = torch.Generator().manual_seed(self.run.settings.seed)
        fed, trial = self.run.feedback == "reward", learner.settings.trial_episodes
        play = partial(explore, episodes=episodes, trial_episodes=trial, fed_the_reward=fed, generator=generator)

        def experience(adapted: Parameters | None) -> Batch:
            return learner.prepare(play(simulations, policy, adapted))

        *_, adapted = inner_loop(finite_step(learner, ["this task"]), experience, steps, self.adapted)
        return replace(self, adapted=adapted)

    def predict(
        self,
        observation: np.ndarray | Mapping[str, Any],
        state: Recall | None = None,
        episode_start: np.ndarray | bool | None = None,
        deterministic: bool = True,
        reward: np.ndarray | float | None = None,
        feedback: np.ndarray | float | None = None,
    ) -> tuple[np.ndarray, Recall]:
        """An action, in the convention of Stable-Baselines3.

        Args:
            observation: (D,) or (n, D). Named parts are refused: adapt and predict need them flat.
            state: as the last call returned it; None at the first step. It is not changed, so one may go on from it
                several times.
            episode_start: (n,) true where a new episode begins. A policy whose context is a trial remembers the
                episodes before, until the trial has as many as in training; then it begins a new one.
            deterministic: the mean action instead of a sample.
            reward: (n,) what the last action earned. A policy with context reads the task off it and needs it from the
                second step on.
            feedback: (n,) in its place, for a policy that was fed something else in training: `info["feedback"]`.

        Returns:
            The action (A,) or (n, A), clipped to [-1, 1], and the state for the next call.

        Raises:
            MetaRLError: if the observation has another size or is not finite, if the reward is missing or not finite,
                or if the context is at its end.
        """
        policy = self.run.policy
        seen = _observation(observation, policy.observation_size)
        count = len(seen)
        actor = Actor(policy, self.adapted, 1)
        recall = remember_nothing(actor, count) if state is None else state
        if sum(len(group.rows) for group in recall) != count:
            raise MetaRLError(f"{count} observations, but the state is for another number")
        starts = np.asarray(False if episode_start is None else episode_start, bool)
        begins = np.broadcast_to(starts | (state is None), (count,))
        if feedback is None and reward is not None and self.run.feedback != "reward":
            raise MetaRLError("this policy was not fed the reward: give predict feedback=info['feedback'] in its place")
        told = reward if feedback is None else feedback
        felt = None if told is None else _feedback(told, count)
        choose = attrgetter("mean") if deterministic else partial(sample, generator=self.generator)
        trial = self.run.learner.settings.trial_episodes
        actions, after = act(actor, recall, seen, felt, begins, trial, choose)
        return actions[0] if np.ndim(np.asarray(observation)) == 1 else actions, after

    def listening(self) -> Listening:
        """This agent for Stable-Baselines3's `evaluate_policy`, which does not pass feedback to `predict`:

        ears = agent.listening()
        evaluate_policy(ears, env, callback=ears.hear)
        """
        return Listening(self)


class Listening:
    """An agent that is told its feedback by a callback."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.feedback: np.ndarray | None = None  # (n,) on the last actions

    def predict(
        self,
        observation: np.ndarray,
        state: Recall | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Recall]:
        """As `Agent.predict`, with the feedback that it has heard.

        Raises:
            MetaRLError: as `Agent.predict`.
        """
        feedback = None if state is None else self.feedback
        return self.agent.predict(observation, state, episode_start, deterministic, feedback=feedback)

    def hear(self, local: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        """The callback of `evaluate_policy`, which it calls after every step with its variables."""
        # `evaluate_policy` hands over the infos of all environments after their step.
        told = zip(local["infos"], local["rewards"], strict=True)
        self.feedback = np.array([info.get("feedback", reward) for info, reward in told], np.float32)


def _observation(observation: object, size: int) -> np.ndarray:
    """Observations (n, D) of one or several rows."""
    if isinstance(observation, Mapping):
        raise MetaRLError("predict needs a flat observation: wrap the environment in FlattenObservation")
    rows = np.atleast_2d(np.asarray(observation, np.float32))
    if rows.shape[-1] != size:
        raise MetaRLError(f"observation has size {rows.shape[-1]}, the policy was trained on {size}")
    if not np.isfinite(rows).all():
        row, entry = np.argwhere(~np.isfinite(rows))[0]
        raise MetaRLError(f"the observation is not finite: entry {entry} of row {row} is {rows[row, entry]}")
    return rows


def _feedback(told: np.ndarray | float, count: int) -> np.ndarray:
    """Rewards or feedback (n,)."""
    felt = np.broadcast_to(np.asarray(told, np.float32), (count,))
    if not np.isfinite(felt).all():
        raise MetaRLError(f"the reward is not finite: {felt[~np.isfinite(felt)][0]}")
    return felt


def load(path: str | Path, device: str = "auto", checkpoint: str = "last", trust: str | Collection[str] = ()) -> Agent:
    """An agent from a run folder, whoever made it (see `metarl.assembly.opened`), or a policy that comes with the
    package: load("grasp") or load("grasp-in_context").

    Args:
        checkpoint: `last`, or `best` as far as training itself could tell.
        trust: modules outside of metarl that the run may name, such as "my_robots": their code will run.

    Raises:
        RunFolderError, CheckpointError, EnvsError: if the folder is not a usable run.
    """
    return Agent(open_run(locate(path, bare=True), device, checkpoint, {trust} if isinstance(trust, str) else trust))
