"""A trained policy in a user's hands: load it, adapt it to an environment, ask it for actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv, VectorEnv
from torch import Tensor

from agents.policy import State, log_probability
from metarl.algorithms.adaptation import Parameters
from metarl.assembly.opened import Run, open_run
from metarl.errors import MetaRLError
from metarl.evaluation.curve import finite_step
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import acting
from metarl.run_folder.pretrained import locate


@dataclass(frozen=True)
class Memory:
    """What an agent carries from one action to the next, for n simultaneous episodes."""

    state: State
    position: int
    previous_action: Tensor  # (n, A)


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
        agent = self
        generator = torch.Generator().manual_seed(self.run.settings.seed)
        for _ in range(steps):
            batch = self.run.learner.prepare(agent._play(vector, episodes, generator))
            agent = replace(agent, adapted=finite_step(self.run.learner, agent.adapted, batch, ["this task"]))
        return agent

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
        memory = self._fresh(len(batch)) if fresh else state
        assert memory is not None
        last = torch.as_tensor(np.broadcast_to(np.asarray(reward, np.float32), (len(batch),)).copy())
        first = float(fresh or bool(starts.any()))
        extra = torch.cat([memory.previous_action, (last * (0.0 if fresh else 1.0))[:, None]], -1)
        token = torch.cat([batch, extra, torch.full((len(batch), 1), first)], -1)
        with torch.no_grad():
            act = acting(policy, self.adapted, 1)
            output, inner = act(token.to(self.run.device), memory.state, memory.position)
            action = (
                output.mean if deterministic else output.mean + torch.randn_like(output.mean) * output.log_std.exp()
            )
        action = action.clamp(-1.0, 1.0).cpu()
        result = action.numpy()[0] if np.ndim(observation) == 1 else action.numpy()
        return result, Memory(inner, memory.position + 1, action)

    def _fresh(self, count: int) -> Memory:
        policy = self.run.policy
        return Memory(policy.initial_state(count), 0, torch.zeros(count, policy.action_size))

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

    @torch.no_grad()
    def _play(self, env: VectorEnv[Any, Any, Any], episodes: int, generator: torch.Generator) -> Episodes:
        """At least `episodes` exploring episodes of one task, as Episodes with M = 1."""
        count, policy, device = env.num_envs, self.run.policy, self.run.device
        horizon = self.run.horizon
        act = acting(policy, self.adapted, 1)
        batches: list[list[Tensor]] = []
        for _ in range(-(-episodes // count)):
            observation, _ = env.reset()
            state = policy.initial_state(count)
            alive, previous = torch.ones(count, dtype=torch.bool), torch.zeros(count, policy.action_size + 1)
            columns: list[tuple[Tensor, ...]] = []
            for t in range(horizon):
                seen = torch.as_tensor(np.asarray(observation), dtype=torch.float32)
                token = torch.cat([seen, previous, torch.full((count, 1), float(t == 0))], -1).to(device)
                output, state = act(token, state, t)
                noise = torch.randn(count, policy.action_size, generator=generator).to(device)
                action = output.mean + noise * torch.exp(output.log_std)
                clipped = action.clamp(-1.0, 1.0).cpu()
                observation, reward, terminated, truncated, _ = env.step(clipped.numpy())
                earned = torch.as_tensor(np.asarray(reward), dtype=torch.float32) * alive
                columns.append((token, action, log_probability(output, action), output.value, earned, alive.float()))
                alive = alive & ~torch.as_tensor(np.asarray(terminated) | np.asarray(truncated))
                previous = torch.cat([clipped, earned[:, None]], -1)
                if not alive.any():
                    break
            missing = horizon - len(columns)
            stacked = [torch.stack([c.to(device) for c in column], 1) for column in zip(*columns, strict=True)]
            pads = [torch.zeros(count, missing, *x.shape[2:], device=device) for x in stacked]
            batches.append([torch.cat([x, pad], 1) for x, pad in zip(stacked, pads, strict=True)])
        joined = [torch.cat(parts)[None] for parts in zip(*batches, strict=True)]
        nothing = torch.zeros(1, joined[0].shape[1], 1, dtype=torch.bool)
        token, action, log_density, value, reward, valid = joined
        return Episodes(
            tokens=token,
            actions=action,
            log_probability=log_density,
            value=value,
            reward=reward,
            valid=valid,
            success_at_end=nothing,
            success_any_step=nothing,
            returns=reward.sum(-1, keepdim=True),
            terms={},
            failures=0,
        )


def load(path: str | Path, device: str = "auto", checkpoint: str = "last") -> Agent:
    """An agent from a run folder, whoever made it (see `metarl.runs.open_run`), or a policy that comes with the
    package: load("grasp") or load("grasp-maml").

    Args:
        checkpoint: `last`, or `best` as far as training itself could tell.

    Raises:
        RunFolderError, CheckpointError, EnvsError: if the folder is no usable run.
    """
    return Agent(open_run(locate(path, bare=True), device, checkpoint))
