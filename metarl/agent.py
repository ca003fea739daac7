"""A trained policy in a user's hands: load it, adapt it to an environment, ask it for actions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv, VectorEnv

from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.rounds import finite_step, inner_loop
from metarl.assembly.opened import Run, open_run
from metarl.errors import MetaRLError
from metarl.rollouts.acting import Actor, Memory, sample
from metarl.rollouts.episodes import Batch
from metarl.rollouts.vector_env import explore
from metarl.run_folder.pretrained import locate


@dataclass(frozen=True)
class Agent:
    """A trained policy with the parameters that it has adapted so far (None: as it was trained)."""

    run: Run
    adapted: Parameters | None = None

    def adapt(
        self, env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], episodes: int = 10, steps: int = 1
    ) -> Agent:
        """Adapt to the task that `env` presents; this agent is left unchanged.

        Args:
            env: a Gymnasium environment, or a vector of environments of the same task, with the trained sizes.
            episodes: to collect before each inner step; all are played with exploration.
            steps: inner gradient steps.

        Returns:
            An agent with adapted parameters.

        Raises:
            MetaRLError: if the spaces do not fit, or episodes or steps are out of range.
            NotFiniteError: if an inner step is not finite; names the parameter.
        """
        if episodes < 1 or steps < 0:
            raise MetaRLError(f"adapt needs episodes >= 1 and steps >= 0, got episodes={episodes}, steps={steps}")
        vector = env if isinstance(env, VectorEnv) else SyncVectorEnv([lambda: env])
        self._check(vector)
        learner, horizon = self.run.learner, self.run.horizon
        generator = torch.Generator().manual_seed(self.run.settings.seed)

        def experience(adapted: Parameters | None) -> Batch:
            played = explore(vector, self.run.policy, adapted, horizon=horizon, episodes=episodes, generator=generator)
            return learner.prepare(played)

        *_, adapted = inner_loop(finite_step(learner, ["this task"]), experience, steps, self.adapted)
        return replace(self, adapted=adapted)

    def predict(
        self,
        observation: np.ndarray,
        state: Memory | None = None,
        episode_start: np.ndarray | bool | None = None,
        deterministic: bool = True,
        reward: np.ndarray | float = 0.0,
    ) -> tuple[np.ndarray, Memory]:
        """An action, in the convention of Stable-Baselines3.

        Args:
            observation: (D,) or (n, D).
            state: as the last call returned it; None at the first step.
            episode_start: (n,) true where a new episode begins; they begin together.
            deterministic: the mean action instead of a sample.
            reward: (n,) what the last action earned. A policy with context reads the task off its rewards: pass it.

        Returns:
            The action (A,) or (n, A), clipped to [-1, 1], and the state for the next call.

        Raises:
            MetaRLError: if the observation has another size, or only some of the episodes begin anew.
        """
        batch = torch.as_tensor(np.atleast_2d(observation), dtype=torch.float32)
        policy = self.run.policy
        if batch.shape[-1] != policy.observation_size:
            raise MetaRLError(
                f"observation has size {batch.shape[-1]}, the policy was trained on {policy.observation_size}"
            )
        starts = np.atleast_1d(np.asarray(False if episode_start is None else episode_start, dtype=bool))
        if starts.any() and not starts.all():
            raise MetaRLError("episodes of one batch must begin together: use one agent state for each of them")
        fresh = state is None or (bool(starts.any()) and policy.context != "trial")
        actor = Actor(policy, self.adapted, 1)
        memory = actor.start(len(batch)) if fresh else state
        assert memory is not None
        earned = np.broadcast_to(np.asarray(0.0 if fresh else reward, np.float32), (len(batch),)).copy()
        choose = attrgetter("mean") if deterministic else sample
        first = fresh or bool(starts.any())
        _, memory = actor.decide(memory, batch, torch.from_numpy(earned), first, choose)
        action = memory.action.numpy()
        return action[0] if np.ndim(observation) == 1 else action, memory

    def _check(self, env: VectorEnv[Any, Any, Any]) -> None:
        policy = self.run.policy
        found = (env.single_observation_space.shape, env.single_action_space.shape)
        wanted = ((policy.observation_size,), (policy.action_size,))
        if found != wanted:
            raise MetaRLError(f"the environment's observation and action shapes are {found}, the policy's are {wanted}")
        space = env.single_action_space
        if (
            isinstance(space, Box)
            and np.isfinite(space.low).all()
            and not (np.allclose(space.low, -1.0) and np.allclose(space.high, 1.0))
        ):
            remedy = "wrap it in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"
            raise MetaRLError(f"the environment's actions are not from -1 to 1, as the policy's are: {remedy}")


def load(path: str | Path, device: str = "auto", checkpoint: str = "last", trust: str | Collection[str] = ()) -> Agent:
    """An agent from a run folder, whoever made it (see `metarl.runs.open_run`), or a policy that comes with the
    package: load("grasp") or load("grasp-maml").

    Args:
        checkpoint: `last`, or `best` as far as training itself could tell.
        trust: modules outside of metarl that the run may name, such as "my_robots": their code will run.

    Raises:
        RunFolderError, CheckpointError, EnvsError: if the folder is not a usable run.
    """
    return Agent(open_run(locate(path, bare=True), device, checkpoint, {trust} if isinstance(trust, str) else trust))
