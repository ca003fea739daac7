"""A trained policy in a user's hands: load it, adapt it to an environment, ask it for actions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.rounds import finite_step, inner_loop
from metarl.assembly.build import stream_seed
from metarl.assembly.kept import Kept
from metarl.assembly.opened import Run, keep, open_run
from metarl.errors import CollectionStopped, MetaRLError, RunWarning
from metarl.rollouts.acting import ActingStep, mean_action, sample
from metarl.rollouts.episodes import Batch, Episodes
from metarl.rollouts.folded import folded, swift
from metarl.rollouts.presented import check_spaces, name_of, same_task, vector_of, warn_of_differences
from metarl.rollouts.recall import Recall, act, forget, look_back, remember_nothing
from metarl.rollouts.recorded import replay
from metarl.rollouts.vector_env import VectorSimulations, Watch, explore
from metarl.run_folder.pretrained import locate


@dataclass(frozen=True, repr=False)
class Agent:
    """A trained policy with the parameters that it has adapted so far (None: as it was trained).

    Attributes:
        history: what it was adapted on: for each call of `adapt` the environment, episodes, steps, and the mean
            feedback of an episode before each step. Plain data.
        memory: what `controller` begins with; None: nothing.
        generator: what `predict` samples actions by; seeded by the run's seed, and anew by `generator.manual_seed(n)`.
    """

    run: Run
    adapted: Parameters | None = None
    history: tuple[dict[str, Any], ...] = ()
    memory: Recall | None = field(default=None, compare=False)
    generator: torch.Generator = field(init=False, compare=False)

    def __post_init__(self) -> None:
        seeded = torch.Generator().manual_seed(stream_seed(self.run.settings.seed, "agent"))
        object.__setattr__(self, "generator", seeded)

    def __repr__(self) -> str:
        return f"Agent({self.run}, {'as trained' if self.adapted is None else 'adapted'})"

    def adapt(
        self,
        env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any] | None = None,
        episodes: int | object = 10,
        steps: int = 1,
        watch: Watch | None = None,
    ) -> Agent:
        """Adapt to the task that `env` presents, or to that of a recording; this agent is left unchanged.

        Warns if observations or rewards pass through a wrapper, or episodes have another length than in training.

        Args:
            env: a Gymnasium environment, or a vector of environments of the same task, with the trained sizes.
            episodes: to collect before each inner step; all are played with exploration. A policy whose context is a
                trial plays whole trials, as in training: at least so many episodes. Or, without an environment,
                episodes that this agent has played, see `metarl.rollouts.recorded`: each step learns from all of them.
            steps: inner gradient steps.
            watch: called in an environment where an episode has ended: with its number from 1 and how many there are,
                both of this step, and its feedback in sum.

        Returns:
            An agent with adapted parameters.

        Raises:
            MetaRLError: if the spaces do not fit, episodes or steps are out of range, or the environment tells that it
                is not one task: its parts have different tasks, or it has another one after a reset.
            NotFiniteError: if an inner step is not finite; names the parameter.
            CollectionStopped: if collecting is stopped, by Ctrl-C or an exception of the environment; it has the
                episodes that had ended, and the agent as it had adapted before. If there is neither, the exception
                itself comes.
        """
        count = isinstance(episodes, int | np.integer)
        if isinstance(episodes, float | str):
            raise MetaRLError(f"adapt needs an integer or a recording for episodes, got {episodes!r}")
        if steps < 0 or (count and episodes < 1):
            raise MetaRLError(f"adapt needs episodes >= 1 and steps >= 0, got episodes={episodes}, steps={steps}")
        if (env is None) == count:
            raise MetaRLError("adapt needs an environment, or recorded episodes in its place: episodes=recording")
        play = self._playing(env, int(episodes), watch) if count else self._replayed(episodes)
        place, rounds, agent = "a recording" if env is None else name_of(env), [], replace(self)

        def experience(adapted: Parameters | None) -> Batch:
            rounds.append(play(adapted))
            if count and (failures := rounds[-1].failures):
                text = f"{failures} of the episodes failed, as the environment says; they end there"
                warnings.warn(text, RunWarning, stacklevel=5)
            return self.run.learner.prepare(rounds[-1])

        try:
            for adapted in inner_loop(finite_step(self.run.learner, ["this task"]), experience, steps, self.adapted):
                if rounds:
                    entry = {"env": place, "steps": len(rounds)} | _told(rounds)
                    agent = replace(self, adapted=adapted, memory=None, history=(*self.history, entry))
        except CollectionStopped as stopped:
            if not rounds and not stopped.recording and stopped.__cause__:
                raise stopped.__cause__ from None
            stopped.agent = agent
            raise
        return agent

    def _playing(self, env: Any, episodes: int, watch: Watch | None) -> Callable[[Parameters | None], Episodes]:
        """Exploring episodes in an environment, by the parameters that act."""
        run = self.run
        # One who has adapted before tries something else than the first time.
        seed = stream_seed(run.settings.seed, "adaptation") + sum(entry["steps"] for entry in self.history)
        vector = vector_of(env)
        check_spaces(env, run.policy)
        warn_of_differences(vector, run.horizon, stacklevel=3)
        return partial(
            explore,
            VectorSimulations(vector, run.horizon),
            run.policy,
            episodes=episodes,
            trial_episodes=run.learner.settings.trial_episodes,
            fed_the_reward=run.fed_the_reward,
            generator=torch.Generator().manual_seed(seed),
            watch=watch,
        )

    def _replayed(self, recording: object) -> Callable[[Parameters | None], Episodes]:
        """Recorded episodes, as they were for this agent: later steps know from whose actions they learn."""
        run = self.run
        trial, fed = run.learner.settings.trial_episodes, run.fed_the_reward
        past = replay(
            recording, run.policy, self.adapted, horizon=run.horizon, trial_episodes=trial, fed_the_reward=fed
        )
        return lambda _: past

    def save(self, path: str | Path, memory: Recall | None = None) -> Path:
        """Keep what has adapted in a folder, which `load` gives back and the commands take as `run=`.

        It has the policy, what adapted, on what (`history`), and no pickle.

        Args:
            path: a new folder, or one in which an adapted policy was kept, which this one replaces.
            memory: of one robot, as `predict` returned it or a controller has it; None: that of this agent.

        Returns:
            The folder.

        Raises:
            MetaRLError: if nothing has adapted, or the memory cannot be kept.
            RunFolderError: if the folder cannot be written, or holds something else.
        """
        run, memory = self.run, self.memory if memory is None else memory
        if not self.adapted and memory is None:
            raise MetaRLError(f"nothing has adapted: this is the policy as it was trained, run={run.name}")
        origin = run.kept.origin if run.kept else run.name
        return keep(run, Kept(self.adapted, self.history, memory, origin), Path(path))

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
            state: as the last call returned it; None where a task begins. It is not changed, so one may go on from it
                several times.
            episode_start: (n,) true where a new episode begins. A policy whose context is a trial remembers the
                episodes before; one for which its context has no room takes the last one's place.
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
        recall = remember_nothing(policy, count) if state is None else state
        if sum(len(group.rows) for group in recall) != count:
            raise MetaRLError(f"{count} observations, but the state is for another number")
        begins = np.full(count, state is None)
        if episode_start is not None:
            begins |= _per_row("values of episode_start", episode_start, count, bool)
        if feedback is None and reward is not None and not self.run.fed_the_reward:
            raise MetaRLError("this policy was not fed the reward: give predict feedback=info['feedback'] in its place")
        told = reward if feedback is None else feedback
        felt = None if told is None else _feedback(told, count)
        choose = mean_action if deterministic else partial(sample, generator=self.generator)
        actions, after = act(self._acting, recall, seen, felt, begins, self.run.horizon, choose)
        return actions[0] if np.asarray(observation).ndim == 1 else actions, after

    @cached_property
    def _acting(self) -> ActingStep:
        """The step of a copy of the policy with the tensors of the run's own, where they have not adapted."""
        return swift(ActingStep(folded(self.run.policy, self.adapted, critic=False)))

    def controller(self, deterministic: bool = True) -> Controller:
        """This agent for a control loop, in which it remembers and counts episodes by itself."""
        return Controller(self, deterministic)


class Controller:
    """An agent in a control loop, on one robot or on n side by side.

        robot = agent.controller()
        for _ in range(episodes):
            observation, feedback = start(), ...
            robot.reset()
            while running:
                action = robot.act(observation, feedback)
                observation, feedback = ...

    Stable-Baselines3's `evaluate_policy` takes it too, but passes neither feedback on nor where another task begins.
    Its callback does; without it, a policy that reads its task off its feedback ends in a MetaRLError that says so.

        from stable_baselines3.common.evaluation import evaluate_policy

        import metarl
        from envs.sb3_adapter import SB3VecEnv

        robot = metarl.load("reach_search").controller()
        env = SB3VecEnv("reach_search", num_envs=2, split="test")
        print(evaluate_policy(robot, env, n_eval_episodes=4, callback=robot.hear))

    Attributes:
        memory: what it remembers of this task; None: nothing.
        episode: the number of the present episode on this task, from 1; 0 before the first.
    """

    def __init__(self, agent: Agent, deterministic: bool = True) -> None:
        self.agent, self.deterministic = agent, deterministic
        self.memory = agent.memory
        self.episode = self.memory[0].episodes if self.memory else 0
        self._begins = self.memory is None
        self._last: tuple[Recall | None, np.ndarray, np.ndarray | float | None, bool] | None = None  # what `act` got
        # What `hear` was told since the last action: (n,) feedback on it, and (n,) whether another task has begun.
        self._heard: tuple[np.ndarray, np.ndarray] | None = None

    def reset(self) -> None:
        """An episode begins. A policy whose context is a trial remembers those before, as `Agent.predict` says."""
        self._begins = True

    def forget(self) -> None:
        """A new task begins: nothing is remembered."""
        self.memory, self.episode, self._begins, self._last = None, 0, True, None

    def act(self, observation: np.ndarray, feedback: np.ndarray | float | None = None) -> np.ndarray:
        """The next action (A,) or (n, A), from -1 to 1.

        Args:
            observation: (D,) or (n, D).
            feedback: on the action before, at the first step of an episode that on the last action of the one before;
                None where there is none before.

        Raises:
            MetaRLError: as `Agent.predict`; then nothing is remembered of the step.
        """
        before, begins = self.memory, self._begins
        action, self.memory = self.agent.predict(
            observation, before, begins or None, self.deterministic, feedback=feedback
        )
        self.episode += begins
        self._begins, self._last = False, (before, observation, feedback, begins)
        return action

    def attention(self) -> np.ndarray | None:
        """What the last action of `act` looked at: (n, layers, heads, t) weights of the t steps that are remembered.

        The last of these is the step itself; they are 1 in sum. They are computed anew here, so that acting takes no
        longer for them. None: before the first action, of a policy that does not attend, or of robots that have not
        come equally far.
        """
        if self._last is None or len(self.memory or ()) != 1 or not self.agent.run.policy.attends:
            return None
        assert self.memory is not None
        before, observation, feedback, begins = self._last
        seen = _observation(observation, self.agent.run.policy.observation_size)
        felt = np.zeros(len(seen), np.float32) if feedback is None else _feedback(feedback, len(seen))
        return look_back(self.agent._acting.policy, before, self.memory, seen, felt, begins)

    def predict(
        self,
        observation: np.ndarray,
        state: Recall | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Recall]:
        """As `Agent.predict`, with the feedback that it has heard; what `act` remembers is another thing.

        Where it has heard that another task begins, nothing is remembered of the one before.

        Raises:
            MetaRLError: as `Agent.predict`.
        """
        heard, self._heard = self._heard, None
        if state is None or heard is None:
            return self.agent.predict(observation, state, episode_start, deterministic)
        feedback, other_task = heard
        state = forget(self.agent.run.policy, state, other_task)
        begins = other_task if episode_start is None else other_task | episode_start
        return self.agent.predict(observation, state, begins, deterministic, feedback=feedback)

    def hear(self, local: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        """The callback of `evaluate_policy`, which it calls after every step with its variables.

        An environment tells its task by `info["task"]`, of the last step of an episode and of the reset after it.
        """
        # `evaluate_policy` hands over the infos of all environments after their step. Where an episode has ended, the
        # next one has begun already; what its reset told only the innermost environment has.
        infos, resets = local["infos"], local["env"].unwrapped.reset_infos
        told = zip(infos, local["rewards"], strict=True)
        feedback = np.array([info.get("feedback", reward) for info, reward in told], np.float32)
        ended = zip(local["dones"], infos, resets, strict=True)
        others = [bool(done) and not same_task(info.get("task"), reset.get("task")) for done, info, reset in ended]
        self._heard = feedback, np.array(others, bool)


def _observation(observation: object, size: int) -> np.ndarray:
    """Observations (n, D) of one or several rows."""
    if isinstance(observation, Mapping):
        raise MetaRLError("predict needs a flat observation: wrap the environment in FlattenObservation")
    rows = np.atleast_2d(np.asarray(observation, np.float32))
    if rows.shape[-1] != size:
        raise MetaRLError(f"observation has size {rows.shape[-1]}, the policy was trained on {size}")
    if rows.ndim > 2:
        raise MetaRLError(f"the observation has the shape {rows.shape}, expected ({size},) or (n, {size})")
    if not np.isfinite(rows).all():
        row, entry = np.argwhere(~np.isfinite(rows))[0]
        raise MetaRLError(f"the observation is not finite: entry {entry} of row {row} is {rows[row, entry]}")
    return rows


def _feedback(told: np.ndarray | float, count: int) -> np.ndarray:
    """Rewards or feedback (n,)."""
    felt = _per_row("rewards", told, count, np.float32)
    if not np.isfinite(felt).all():
        raise MetaRLError(f"the reward is not finite: {felt[~np.isfinite(felt)][0]}")
    return felt


def _per_row(name: str, told: Any, count: int, kind: type) -> np.ndarray:
    """One value (n,) for each observation, of n or of one for all.

    Raises:
        MetaRLError: if there is another number of them.
    """
    try:
        values = np.asarray(told, kind)
    except (TypeError, ValueError):
        raise MetaRLError(f"{count} {name} expected, got {told!r}") from None
    if values.shape not in ((), (count,)):
        raise MetaRLError(f"{count} {name} expected, got an array of the shape {values.shape}")
    return np.full(count, values)


def _told(rounds: Sequence[Episodes]) -> dict[str, Any]:
    """The episodes before each inner step, and the mean feedback of each of these rounds' episodes."""
    played = [episodes.valid.unflatten(-1, (episodes.trial_episodes, -1)).any(-1).sum() for episodes in rounds]
    feedback = [float(e.feedback.sum() / count) for e, count in zip(rounds, played, strict=True)]
    return {"episodes": int(played[-1]), "feedback": [round(value, 6) for value in feedback]}


def load(path: str | Path, device: str = "auto", checkpoint: str = "last", trust: str | Collection[str] = ()) -> Agent:
    """An agent from a run folder, whoever made it (see `metarl.assembly.opened`), from one that `Agent.save` made, or
    a policy that comes with the package: load("grasp") or load("grasp-in_context").

    Args:
        checkpoint: `last`, or `best` as far as training itself could tell.
        trust: modules outside of metarl that the run may name, such as "my_robots": their code will run.

    Raises:
        RunFolderError, CheckpointError, EnvsError: if the folder is not a usable run.
    """
    run = open_run(locate(path, bare=True), device, checkpoint, {trust} if isinstance(trust, str) else trust)
    kept = run.kept or Kept()
    return Agent(run, kept.parameters, kept.history, kept.memory)
