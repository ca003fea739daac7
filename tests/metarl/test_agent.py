"""An agent in a user's hands: what `predict` remembers and refuses, and what `adapt` makes of an environment."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import SyncVectorEnv, VectorEnv
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401  (registers the Gymnasium environments)
import metarl
from envs.adapters.gymnasium import TaskEnv, VectorTaskEnv
from envs.adapters.sb3 import SB3VecEnv
from metarl.agent import Agent, Controller
from metarl.config.composition import compose
from metarl.errors import CheckpointError, MetaRLError, RunWarning
from metarl.rollouts.presented import vector_of
from metarl.rollouts.recall import forget
from metarl.rollouts.rollout import collect
from metarl.runs import train

HORIZON = 6
SMALL = ["env=point2d", f"env.horizon={HORIZON}", "algo=in_context", "algo.tasks=3", "agent=transformer"]
SMALL += ["agent.width=8", "budget.iterations=1", "evaluate.tasks=2", "evaluate.episodes_per_step=1", "report=page"]
POINT = "metarl/Point2d-v0"


def trained(folder: Path, *given: str) -> Agent:
    train(compose([*SMALL, *given, f"run_dir={folder}"]))
    agent = metarl.load(folder, "cpu")
    with torch.no_grad():  # away from the start, where an action hardly depends on anything
        generator = torch.Generator().manual_seed(0)
        for parameter in agent.run.policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return agent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Its context is an episode."""
    return trained(tmp_path_factory.mktemp("runs") / "episode")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Its context is a trial of two episodes."""
    return trained(tmp_path_factory.mktemp("runs") / "trial", "algo.trial_episodes=2", "agent.context=trial")


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


def test_it_says_what_it_is_in_one_line(agent: Agent) -> None:
    text = repr(agent)
    assert len(text) < 250 and "env=point2d, algo=in_context, iteration=1" in text and "as trained" in text
    assert "adapted" in repr(replace(agent, adapted={}))


# predict


def test_a_second_action_needs_the_reward_of_the_first(agent: Agent) -> None:
    _, state = agent.predict(rows(1))
    told = r"reads its task off its rewards: .* reward=\.\.\., .*feedback=.*agent\.controller\(\)"
    with pytest.raises(MetaRLError, match=told):
        agent.predict(rows(1), state)
    agent.predict(rows(1), state, reward=0.0)
    agent.predict(rows(1), state, episode_start=True)


def test_a_policy_without_context_needs_no_reward(tmp_path: Path) -> None:
    blind = trained(tmp_path / "run", "algo=multitask", "agent.context=none")
    _, state = blind.predict(rows(1))
    for _ in range(HORIZON):
        _, state = blind.predict(rows(1), state)


def test_a_state_is_a_snapshot(agent: Agent) -> None:
    _, state = agent.predict(rows(2))
    first, after = agent.predict(rows(2, 1), state, reward=1.0)
    other, _ = agent.predict(rows(2, 2), state, reward=-1.0)
    assert np.abs(other - first).max() > 1e-3
    again, _ = agent.predict(rows(2, 1), state, reward=1.0)
    np.testing.assert_array_equal(again, first)
    third, _ = agent.predict(rows(2, 3), after, reward=0.5)
    agent.predict(rows(2, 4), state, reward=9.0)
    np.testing.assert_array_equal(agent.predict(rows(2, 3), after, reward=0.5)[0], third)
    assert np.abs(third).max() < 1.0, "at its limit an action depends on nothing: the test shows nothing"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(agent: Agent, bad: float) -> None:
    with pytest.raises(MetaRLError, match=f"observation is not finite: entry 1 of row 0 is {bad}"):
        agent.predict(np.array([0.0, bad]))
    _, state = agent.predict(rows(1))
    with pytest.raises(MetaRLError, match=f"reward is not finite: {bad}"):
        agent.predict(rows(1), state, reward=bad)


def test_the_end_of_the_context_names_the_remedy(agent: Agent, trial: Agent) -> None:
    state = None
    for _ in range(HORIZON):
        _, state = agent.predict(rows(1), state, reward=0.0)
    with pytest.raises(MetaRLError, match=r"^step 7 is beyond .* 6 steps: .*episode_start=True, or a .* state=None$"):
        agent.predict(rows(1), state, reward=0.0)
    _, state = agent.predict(rows(1), state, episode_start=True)
    state = None
    for _ in range(2 * HORIZON):
        _, state = trial.predict(rows(1), state, reward=0.0)
    with pytest.raises(MetaRLError, match=r"^step 13 is beyond .* 12 steps: "):
        trial.predict(rows(1), state, reward=0.0)


def test_predict_draws_from_a_generator_of_its_own(agent: Agent) -> None:
    before = torch.get_rng_state()
    one, two = (replace(agent) for _ in range(2))
    first = [one.predict(rows(1), deterministic=False)[0] for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    second = [two.predict(rows(1), deterministic=False)[0] for _ in range(3)]
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > 3
    one.generator.manual_seed(1)
    assert np.any(one.predict(rows(1), deterministic=False)[0] != first[0])


def test_a_trial_is_remembered_for_as_long_as_the_task_stays(trial: Agent) -> None:
    """As in a rollout: the second episode sees the first, and so does the third, which takes the second's place."""
    env = trial.run.environment(2, seed=1)
    env.set_tasks(trial.run.held_out("test", 2))
    seen = collect(env, trial.run.policy, generator=torch.Generator(), trial_episodes=3, deterministic=True)
    assert bool(seen.valid.all())
    state, before = None, None
    for t in range(3 * HORIZON):
        reward = seen.reward[:, 0, t - 1].numpy() if t else 0.0
        start = np.full(2, t % HORIZON == 0)
        before = state
        action, state = trial.predict(seen.tokens[:, 0, t, :2].numpy(), state, start, reward=reward)
        np.testing.assert_allclose(action, seen.actions[:, 0, t].clamp(-1, 1).numpy(), atol=1e-5)
    again, _ = trial.predict(seen.tokens[:, 0, -1, :2].numpy(), before, reward=reward)
    np.testing.assert_array_equal(again, action)  # what comes after leaves a state as it was
    forgotten, _ = trial.predict(seen.tokens[:, 0, 2 * HORIZON, :2].numpy())
    assert np.abs(forgotten - seen.actions[:, 0, 2 * HORIZON].numpy()).max() > 1e-3


@pytest.mark.parametrize("context", ["agent", "trial"])
def test_episodes_of_a_batch_may_begin_at_different_times(context: str, request: pytest.FixtureRequest) -> None:
    agent: Agent = request.getfixturevalue(context)
    starts = np.array([[t == 0 or t % (2 + n) == 0 for n in range(3)] for t in range(9)])

    def acted(chosen: list[int]) -> np.ndarray:
        state, actions = None, []
        for t, start in enumerate(starts[:, chosen]):
            observation, reward = rows(3, t)[chosen], rows(3, t + 50)[chosen, 0]
            action, state = agent.predict(observation, state, start, reward=reward)
            actions.append(action)
        return np.stack(actions)

    np.testing.assert_allclose(acted([0, 1, 2]), np.concatenate([acted([n]) for n in range(3)], 1), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_stable_baselines3_evaluates_it_as_it_acts(agent: Agent, trial: Agent, count: int) -> None:
    for each in (agent, trial):
        env = SB3VecEnv("point2d", count, horizon=HORIZON)
        env.set_tasks([{"goal": [0.3, -0.4]}])
        with pytest.raises(MetaRLError, match="controller"):
            evaluate_policy(each, env, 2, warn=False)  # type: ignore[arg-type]
        robot = each.controller()
        for _ in range(2):
            returns, lengths = evaluate_policy(
                robot,  # type: ignore[arg-type]
                env,
                4,
                callback=robot.hear,
                return_episode_rewards=True,
                warn=False,  # type: ignore[arg-type]
            )
        assert lengths == [HORIZON] * 4
        own = TaskEnv("point2d", horizon=HORIZON)
        own.set_task({"goal": [0.3, -0.4]})
        state, reward, total = None, 0.0, 0.0
        observation, _ = own.reset(seed=0)
        for _ in range(HORIZON):
            action, state = each.predict(observation, state, reward=reward)
            observation, reward, *_ = own.step(action)
            total += reward
        assert isinstance(returns, list) and returns[0] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("kind", ["vec", "single"])
def test_stable_baselines3_tells_where_another_task_begins(trial: Agent, kind: str) -> None:
    """A memory of two episodes is that of one task: it begins new with each task, and goes on with the same one."""

    def remembered(keep: bool) -> list[int]:
        env: Any = SB3VecEnv("point2d", 2, horizon=HORIZON) if kind == "vec" else TaskEnv("point2d", horizon=HORIZON)
        (env.set_tasks if kind == "vec" else lambda tasks: env.set_task(tasks and tasks[0]))(
            [{"goal": [0.3, -0.4]}] if keep else None
        )
        robot, counts = trial.controller(), []

        def callback(local: dict[str, Any], everything: dict[str, Any]) -> None:
            robot.hear(local, everything)
            counts.append(max(group.episodes for group in local["states"]))

        evaluate_policy(robot, env, 4, callback=callback, warn=False)  # type: ignore[arg-type]
        with pytest.raises(MetaRLError, match="callback=robot.hear"):
            evaluate_policy(robot, env, 2, warn=False)  # type: ignore[arg-type]
        return sorted(set(counts))

    assert remembered(keep=False) == [1]
    assert remembered(keep=True) == ([1, 2] if kind == "vec" else [1, 2, 3, 4])


def test_a_new_task_is_one_for_those_in_which_it_begins(trial: Agent) -> None:
    policy, state = trial.run.policy, None
    for t in range(HORIZON):
        _, state = trial.predict(rows(2, t), state, reward=np.zeros(2))
    assert state is not None
    second = forget(policy, state, np.array([False, True]))
    assert [(group.rows.tolist(), int(group.memory.position), group.episodes) for group in second] == [
        ([0], HORIZON, 1),
        ([1], 0, 0),
    ]
    action, _ = trial.predict(rows(2, 9), second, np.ones(2, bool), reward=np.zeros(2))
    np.testing.assert_allclose(action[1], trial.predict(rows(2, 9)[1])[0], atol=1e-6)
    assert np.abs(action[0] - trial.predict(rows(2, 9)[0])[0]).max() > 1e-4


def test_the_example_of_a_controller_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert Controller.__doc__
    text = Controller.__doc__.partition("says so.\n")[2].partition("Attributes:")[0]
    exec(inspect.cleandoc(text), {})
    mean, spread = ast.literal_eval(re.sub(r"np\.float64\((.*?)\)", r"\1", capsys.readouterr().out))
    assert np.isfinite([mean, spread]).all()


# adapt


def single(**options: Any) -> Any:
    return gymnasium.make(POINT, **({"horizon": HORIZON} | options))  # type: ignore[arg-type]


def fixed(env: Any) -> Any:
    env.unwrapped.set_task({"goal": [0.3, -0.4]})
    return env


def test_adapting_plays_whole_trials(trial: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Any] = []
    prepare = trial.run.learner.prepare
    monkeypatch.setattr(trial.run.learner, "prepare", lambda played: prepared.append(played) or prepare(played))
    adapted = trial.adapt(fixed(single()), episodes=3)
    assert adapted.adapted is not None
    assert prepared[0].tokens.shape == (1, 2, 2 * HORIZON, 6) and prepared[0].returns.shape == (1, 2, 2)


def test_adapting_says_nothing_if_all_is_well(agent: Agent) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (single(), fixed(single()), fixed(VectorTaskEnv("point2d", 3, horizon=HORIZON))):
            assert agent.adapt(env, episodes=2, steps=2).adapted is not None
        agent.adapt(SyncVectorEnv([lambda: fixed(single())] * 2))


def redrawn() -> Any:
    env = single()
    env.unwrapped.set_task(None)
    return env


class Own(gymnasium.Env[Any, Any]):
    """A user's environment, which tells its task; one that `moves` has another after every reset."""

    observation_space, action_space = Box(-9, 9, (2,)), Box(-1, 1, (2,))

    def __init__(self, goal: float = 0.0, moves: bool = False) -> None:
        self.task, self.moves = {"goal": goal, "kind": "left"}, moves

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.task = {**self.task, "goal": self.task["goal"] + self.moves}  # type: ignore[operator]
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (lambda: VectorTaskEnv("point2d", 2, horizon=HORIZON), "different tasks"),
        (lambda: SyncVectorEnv([single, single]), "different tasks"),
        (lambda: SyncVectorEnv([lambda: Own(1.0), lambda: Own(2.0)]), "different tasks"),
        (redrawn, "another task after a reset"),
        (lambda: Own(moves=True), "another task after a reset"),
    ],
)
def test_what_is_not_one_task_is_refused(agent: Agent, env: Callable[[], Any], line: str) -> None:
    with pytest.raises(MetaRLError, match=f"{line}.*set_task"):
        agent.adapt(env(), episodes=1, steps=2)
    assert agent.adapt(Own(), episodes=2).adapted is not None
    assert agent.adapt(SyncVectorEnv([Own, Own]), episodes=2).adapted is not None


@pytest.mark.parametrize("kind", ["NormalizeObservation", "NormalizeReward", "ClipReward"])
def test_wrappers_that_change_what_is_seen_are_named(agent: Agent, kind: str) -> None:
    wrap = getattr(gymnasium.wrappers, kind)
    if kind == "ClipReward":
        wrap = partial(wrap, min_reward=-1.0)
    around = getattr(gymnasium.wrappers.vector, kind, None)
    wrapped = [wrap(fixed(single())), SyncVectorEnv([lambda: wrap(fixed(single()))] * 2)]
    wrapped += [around(SyncVectorEnv([lambda: fixed(single())]))] if around and kind != "ClipReward" else []
    for env in wrapped:
        with pytest.warns(RunWarning, match=f"pass through {kind}: ") as caught:
            agent.adapt(env, episodes=1)
        assert len(caught) == 1


@pytest.mark.parametrize(
    "env",
    [
        lambda: fixed(single(horizon=4)),
        lambda: gymnasium.wrappers.TimeLimit(Own(), 4),
        lambda: fixed(VectorTaskEnv("point2d", 2, horizon=4)),
        lambda: fixed(gymnasium.make(POINT, max_episode_steps=4, horizon=HORIZON)),
    ],
)
def test_episodes_of_another_length_are_named(agent: Agent, env: Callable[[], Any]) -> None:
    with pytest.warns(RunWarning, match="episodes end after 4 control steps, the policy was trained on 6"):
        agent.adapt(env(), episodes=1)


def test_values_of_another_shape_are_refused(agent: Agent, trial: Agent) -> None:
    _, one = agent.predict(rows(1)[0])
    _, four = agent.predict(rows(4))
    for call, line in [
        (lambda: agent.predict(rows(1)[0], one, reward=np.ones(2)), r"1 rewards expected, got .* shape \(2,\)"),
        (lambda: agent.predict(rows(4), four, reward=np.ones((4, 1))), r"4 rewards expected, got .* shape \(4, 1\)"),
        (lambda: agent.predict(rows(4), four, reward=np.array([[1.0], [2.0, 3.0]], object)), "4 rewards expected, got"),
        (lambda: agent.predict(rows(4), four, np.ones(3, bool), reward=0.0), "4 values of episode_start expected"),
        (lambda: agent.predict(np.zeros((2, 3, 2))), r"observation has the shape \(2, 3, 2\), expected \(2,\) or"),
        (lambda: agent.adapt(single(), episodes="3"), "an integer or a recording for episodes, got '3'"),
        (lambda: agent.adapt(single(), episodes=2.5), "an integer or a recording for episodes, got 2.5"),
    ]:
        with pytest.raises(MetaRLError, match=line):
            call()
    agent.predict(rows(4), four, np.zeros(4, bool), reward=np.arange(4.0))
    agent.predict(rows(4), four, False, reward=1.0)


def test_an_environment_that_breaks_its_promise_is_named(agent: Agent) -> None:
    class Long(Own):
        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return np.zeros(5, np.float32), {}

    class Short(Own):
        def step(self, action: np.ndarray) -> Any:
            return np.zeros(2, np.float32), 0.0, False, {}

    for env, line in ((Long(), r"Long: the observation has shape \(5,\)"), (Short(), "Short: step returned 4, not")):
        with pytest.raises(MetaRLError, match=line):
            agent.adapt(env, episodes=2)


def test_episodes_that_failed_are_told(agent: Agent) -> None:
    class Fails(TaskEnv):
        def step(self, action: np.ndarray) -> Any:
            observation, reward, _, truncated, info = super().step(action)
            self.taken = getattr(self, "taken", 0) + 1
            return observation, reward, self.taken == 3, truncated, info | {"failed": self.taken == 3}

    env = Fails("point2d", horizon=HORIZON)
    env.set_task({"goal": [0.3, -0.4]})
    with pytest.warns(RunWarning, match="^1 of the episodes failed"):
        adapted = agent.adapt(env, episodes=2)
    assert adapted.adapted is not None


def test_another_checkpoint_than_there_is_is_refused(agent: Agent) -> None:
    for name in ("bets", "", "25"):
        with pytest.raises(CheckpointError, match=f"^checkpoint={name}: must be one of last, best"):
            metarl.load(agent.run.folder.path, "cpu", checkpoint=name)


def test_what_does_not_fit_names_the_remedy(agent: Agent) -> None:
    class Named(Own):
        observation_space = Dict({"x": Box(-1, 1, (1,)), "y": Box(-1, 1, (1,))})

        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return self.observation_space.sample(), {}

        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 0.0, False, False, {}

    env = Named()
    with pytest.raises(MetaRLError, match=r"observation is a Dict, .*gymnasium.wrappers.FlattenObservation\(env\)"):
        agent.adapt(env)
    with pytest.raises(MetaRLError, match=r"gymnasium.wrappers.vector.FlattenObservation\(env\)"):
        agent.adapt(SyncVectorEnv([Named]))
    with pytest.raises(MetaRLError, match="flat observation: wrap the environment in FlattenObservation"):
        agent.predict(env.reset()[0])
    flat = gymnasium.wrappers.FlattenObservation(env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.adapt(flat, episodes=1)
        agent.adapt(gymnasium.wrappers.vector.FlattenObservation(SyncVectorEnv([Named])), episodes=1)
    agent.predict(flat.reset()[0])
    with pytest.raises(MetaRLError, match="adapt needs a gymnasium.Env or a gymnasium.vector.VectorEnv, not a SB3Vec"):
        vector_of(SB3VecEnv("point2d"))
    for space in ({}, {"observation_space": Box(-9, 9, (2,))}):
        bare = type("Bare", (gymnasium.Env,), space)()
        for each in (bare, gymnasium.Wrapper(bare)):
            with pytest.raises(MetaRLError, match=f"^Bare must set {'action' if space else 'observation'}_space to"):
                agent.adapt(each)
    with pytest.raises(MetaRLError, match="^Bare must set single_observation_space to"):
        agent.adapt(type("Bare", (VectorEnv,), {})())
