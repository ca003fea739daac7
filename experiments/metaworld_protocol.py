"""A trained policy in Meta-World's own evaluation, `metaworld.evaluation.metalearning_evaluation`.

  python -m experiments.metaworld_protocol run=FOLDER [split=test] [evals=50] [episodes=10] [seed=0]

The protocol's loop is the package's: so many times (evals), it draws a variation of each task of the split, lets the
agent play episodes to adapt, and counts successes at any step in three further episodes of each task, which end when
they succeed. The simulations are ours, on today's MuJoCo, which the package's own do not run on.

The package stops when three episodes of a task have ended, in whichever of its simulations: of several, those that
succeed first would be counted and the others not. So there is one simulation of each task here, and more evals.

Example
  python -m experiments.metaworld_protocol run=runs/metaworld-in_context-0
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from envs.core.environment import Environment
from envs.metaworld.benchmarks import TASKS
from envs.metaworld.mixed import MixedTasks
from envs.metaworld.sawyer import SawyerTask
from envs.metaworld.variations import Variations
from experiments.arguments import command, given
from metarl.agent import Agent, load
from metarl.errors import ConfigError, MetaRLError

SIZES = {"evals": 50, "episodes": 10, "seed": 0}


class ProtocolAgent:
    """An agent as the package's evaluation asks for it, for n simulations, each with a task of its own.

    An observation has, behind the environment's D numbers, what the package's wrapper for recurrent agents puts there:
    the previous action, its reward, and whether the episode ended by it. The policy is fed that reward. Only when an
    episode has just begun the wrapper does not tell the last one's; while adapting, `step` does.

    It explores while it adapts by gradient steps, as `Agent.adapt` does; what adapts in context acts as `predict` does.

    Args:
        agent: with a policy that was fed the reward, as it is or its logarithm.
        steps: gradient steps of each `adapt`; None: as many as in training.

    Raises:
        MetaRLError: if it was fed something else.
    """

    def __init__(self, agent: Agent, steps: int | None = None) -> None:
        if agent.run.feedback not in ("reward", "log_reward"):
            raise MetaRLError("Meta-World's protocol tells an agent rewards, and this policy was fed something else")
        self.trained = agent
        self.steps = agent.run.gradient_steps if steps is None else steps
        self.size = agent.run.policy.observation_size
        self.init()

    def init(self) -> None:
        """New tasks: nothing is known of them."""
        self.agents: list[Agent] = [self.trained]  # one for all, or after gradient steps one for each simulation
        self.states: list[Any] = [None]
        self.begins: np.ndarray | None = None
        self.told: np.ndarray | None = None  # (n,) rewards of the last actions, where `step` has told them
        self.played: list[list[dict[str, list[Any]]]] = []

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions (n, A) on observations (n, D + A + 2), and nothing besides."""
        return self._act(observations, deterministic=not self.steps), {}

    def step(self, timestep: Any) -> None:
        """What came of the last actions: rewards, and which episodes are over."""
        over = np.logical_or(timestep.terminated, timestep.truncated)
        if self.steps:
            self._write_down(timestep, over)
        self.told = np.asarray(timestep.reward, np.float32)
        self.begins = over if self.begins is None else self.begins | over

    def adapt(self) -> None:
        """Take the gradient steps, each simulation on its own episodes."""
        if not self.steps:
            return
        agents = self.agents if len(self.agents) > 1 else self.agents * len(self.played)
        whole = [[episode for episode in own if episode["feedback"]] for own in self.played]
        self.agents = [a.adapt(episodes=own, steps=self.steps) for a, own in zip(agents, whole, strict=True)]
        self.states, self.played, self.told = [None] * len(agents), [], None

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Actions (n, A) on observations (n, D + A + 2)."""
        return self._act(observations, deterministic=True)

    def reset(self, env_mask: np.ndarray) -> None:
        """In these simulations (n,) an episode has begun."""
        mask = np.asarray(env_mask, bool)
        self.begins = mask if self.begins is None else self.begins | mask

    def _act(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        seen, felt = observations[:, : self.size], observations[:, -2].astype(np.float32)
        if self.told is not None:
            felt, self.told = self.told, None
        begins = np.full(len(seen), self.states[0] is None) if self.begins is None else self.begins
        self.begins = None
        parts = [slice(None)] if len(self.agents) == 1 else [slice(i, i + 1) for i in range(len(seen))]
        actions = []
        for index, (agent, part) in enumerate(zip(self.agents, parts, strict=True)):
            state = self.states[index]
            action, self.states[index] = agent.predict(
                seen[part], state, begins[part], deterministic, feedback=None if state is None else felt[part]
            )
            actions.append(action)
        return np.concatenate(actions)

    def _write_down(self, timestep: Any, over: np.ndarray) -> None:
        """Keep episodes as `Agent.adapt` takes recordings; what comes after the last whole one is left out."""
        if not self.played:
            self.played = [[_empty()] for _ in over]
        for index, own in enumerate(self.played):
            own[-1]["observations"].append(timestep.observation[index, : self.size])
            own[-1]["actions"].append(timestep.action[index])
            own[-1]["feedback"].append(timestep.reward[index])
            if over[index]:
                own.append(_empty())


class ProtocolEnvironments:
    """N simulations as the package's evaluation asks for them: a vector of environments that reset themselves.

    Observations (N, D + A + 2) have the previous action, its reward and whether an episode ended behind them. Where an
    action is held, that reward is a sum; with `feedback=log_reward` it is the logarithms'.

    Args:
        env: one of Meta-World's benchmarks.
        split: from which `sample_tasks` draws.
    """

    def __init__(self, env: Environment, split: str) -> None:
        assert isinstance(env, SawyerTask | MixedTasks)
        self.env, self.split, self.num_envs = env, split, env.num_simulations
        self.terminate_on_success = False
        self._sample()

    def call(self, name: str, *arguments: bool) -> None:
        """`sample_tasks`, or what the package switches."""
        if name == "sample_tasks":
            self._sample()
        elif name == "toggle_terminate_on_success":
            (self.terminate_on_success,) = arguments
        elif name != "toggle_sample_tasks_on_reset" or any(arguments):
            raise MetaRLError(f"{name}{arguments}: the protocol's environments do not do that")

    def get_attr(self, name: str) -> list[Any]:
        """`task_name`, the package's class of each simulation, or `terminate_on_success`."""
        if name == "terminate_on_success":
            return [self.terminate_on_success] * self.num_envs
        classes = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
        return [classes[f"{task}-v3"].__name__ for task in self._tasks()]

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes in all of them."""
        self._begin(torch.ones(self.num_envs, dtype=torch.bool))
        return self._seen(self.env.reset(), None, None, None), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control step; episodes that end begin anew in the same step."""
        action = torch.from_numpy(np.asarray(actions)).float()
        step = self.env.step(action)
        self.elapsed += 1
        self.returns += step.terms["reward"]  # without a bonus that there may be in training
        ended = step.success if self.terminate_on_success else torch.zeros_like(step.success)
        truncated = self.elapsed >= self.env.horizon
        over, observation = ended | truncated, step.observation
        infos: dict[str, Any] = {}
        if over.any():
            infos = {"final_info": {"episode": {"r": self.returns.numpy().copy()}, "success": step.success.numpy()}}
            observation = torch.where(over[:, None], self.env.reset(over), observation)
            self._begin(over)
        seen = self._seen(observation, action, step.feedback, over)
        return seen, step.feedback.numpy(), ended.numpy(), truncated.numpy(), infos

    def _begin(self, mask: torch.Tensor) -> None:
        self.elapsed = torch.where(mask, 0, self.elapsed)
        self.returns = torch.where(mask, 0.0, self.returns)

    def _sample(self) -> None:
        self.env.set_tasks(self.env.distribution.sample(self.num_envs, self.split))
        self.elapsed, self.returns = torch.zeros(self.num_envs, dtype=torch.int64), torch.zeros(self.num_envs)

    def _tasks(self) -> list[str]:
        if isinstance(self.env, SawyerTask):
            return [self.env.task] * self.num_envs
        return [list(TASKS)[int(number)] for number in self.env.assigned["task"][:, 0]]

    def _seen(
        self,
        observation: torch.Tensor,
        action: torch.Tensor | None,
        reward: torch.Tensor | None,
        over: torch.Tensor | None,
    ) -> np.ndarray:
        """Observations with what happened before; at the beginning of an episode nothing has."""
        more = torch.zeros(self.num_envs, self.env.action_size + 2)
        if action is not None and reward is not None and over is not None:
            more = torch.where(over[:, None], 0.0, torch.cat([action, reward[:, None], over[:, None].float()], -1))
        return torch.cat([observation, more], -1).numpy()


def evaluate(
    agent: Agent, env: Environment, split: str, evals: int, episodes: int
) -> tuple[float, float, dict[str, float]]:
    """The package's evaluation: mean success, mean return, and the success of each of its tasks."""
    protocol = importlib.import_module("metaworld.evaluation").metalearning_evaluation
    return protocol(
        ProtocolAgent(agent), ProtocolEnvironments(env, split), num_evals=evals, adaptation_episodes=episodes
    )


def _empty() -> dict[str, list[Any]]:
    return {"observations": [], "actions": [], "feedback": []}


def main(arguments: Sequence[str] | None = None) -> int:
    return command(arguments, __doc__, _work, bare=False)


def _work(arguments: list[str]) -> None:
    values = given(arguments, ("run", "split", *SIZES))
    if "run" not in values:
        raise ConfigError("run=FOLDER: say which run")
    numbers = {name: values.get(name, str(size)) for name, size in SIZES.items()}
    for name, text in numbers.items():
        if not text.isdecimal() or (name != "seed" and int(text) < 1):
            raise ConfigError(f"{name}={text}: must be a positive integer")
    evals, episodes, seed = (int(numbers[name]) for name in SIZES)
    agent, split = load(values["run"]), values.get("split", "test")
    one = agent.run.environment(1, seed)
    if not isinstance(one.distribution, Variations):
        raise ConfigError(f"run={values['run']}: was trained on {one.name}, and this protocol is Meta-World's")
    env = agent.run.environment(one.distribution.count(split), seed)
    env.distribution.generator.manual_seed(seed)
    success, mean_return, each = evaluate(agent, env, split, evals, episodes)
    print(f"success {success:.3f}, return {mean_return:.1f}: {evals} variations of each task of split '{split}'")
    for name, rate in each.items():
        print(f"  {name}: {rate:.3f}")


if __name__ == "__main__":
    sys.exit(main())
