"""An adapted policy is kept in a folder, comes back as it was, and commands take it; episodes that were recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from envs.adapters.gymnasium import TaskEnv
from metarl.agent import Agent
from metarl.assembly.build import stream_seed
from metarl.config.composition import compose
from metarl.errors import CheckpointError, CollectionStopped, ConfigError, MetaRLError, RunFolderError
from metarl.evaluation.films import render_run
from metarl.overview import states
from metarl.rollouts.recorded import replay
from metarl.rollouts.vector_env import VectorSimulations, explore
from metarl.runs import evaluate_run, train
from tests.metarl.test_agent import HORIZON, fixed, rows, single, trained


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Its context is a trial of two episodes, and later gradient steps have another rate than the first."""
    folder = tmp_path_factory.mktemp("runs") / "trial"
    given = ["algo.trial_episodes=2", "agent.context=trial", "algo.inner.rate=0.1", "algo.inner.later_rate=0.1"]
    return trained(folder, *given)


@pytest.fixture(scope="module")
def adapted(agent: Agent) -> Agent:
    return agent.adapt(fixed(single()), episodes=4, steps=2)


def same(one: Agent, two: Agent) -> bool:
    assert one.adapted is not None and two.adapted is not None
    return one.adapted.keys() == two.adapted.keys() and all(
        torch.equal(value, two.adapted[name]) for name, value in one.adapted.items()
    )


def test_it_comes_back_as_it_was_and_goes_on_from_there(adapted: Agent, tmp_path: Path) -> None:
    path = adapted.save(tmp_path / "arm7")
    back = metarl.load(path, "cpu")
    assert same(back, adapted) and back.memory is None
    (entry,) = back.history
    assert (entry["env"], entry["episodes"], entry["steps"], len(entry["feedback"])) == ("point2d", 4, 2, 2)
    np.testing.assert_array_equal(back.predict(rows(1))[0], adapted.predict(rows(1))[0])
    env = fixed(single())
    further = [each.adapt(env, episodes=2) for each in (back, adapted) if env.reset(seed=0)]
    assert same(*further) and not same(further[0], adapted)
    assert further[0].adapted is not None and len(further[0].history) == 2
    assert not list(path.rglob("*.p*k*l*"))
    assert further[0].save(path) == path and len(metarl.load(path, "cpu").history) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["arm7"]


def test_what_it_remembers_can_be_kept(adapted: Agent, tmp_path: Path) -> None:
    robot = adapted.controller()
    for t in range(HORIZON + 2):
        if t in (0, HORIZON):
            robot.reset()
        robot.act(rows(1, t)[0], 0.1 * t)
    back = metarl.load(adapted.save(tmp_path / "arm7", robot.memory), "cpu")
    second = back.controller()
    for t in range(HORIZON + 2, 2 * HORIZON):
        np.testing.assert_array_equal(second.act(rows(1, t)[0], 0.1), robot.act(rows(1, t)[0], 0.1))
    with pytest.raises(MetaRLError, match="only the memory of one robot"):
        adapted.save(tmp_path / "two", adapted.predict(rows(2))[1])


def test_what_cannot_be_kept_is_one_line(agent: Agent, adapted: Agent, tmp_path: Path) -> None:
    with pytest.raises(MetaRLError, match="nothing has adapted: this is the policy as it was trained, run="):
        agent.save(tmp_path / "arm7")
    (tmp_path / "mine.txt").write_text("mine")
    noted = adapted.save(tmp_path / "noted")
    adapted.save(noted)
    (noted / "notes.txt").touch()
    for taken in (tmp_path, tmp_path / "mine.txt", agent.run.folder.path, noted):
        with pytest.raises(RunFolderError, match="is there already, and is not a policy that was kept"):
            adapted.save(taken)
    with pytest.raises(RunFolderError, match="cannot write"):
        adapted.save(tmp_path / "mine.txt" / "arm7")
    assert (tmp_path / "mine.txt").read_text() == "mine" and agent.run.folder.iterations()


def test_the_commands_take_it(adapted: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = adapted.save(tmp_path / "arm7")
    evaluate_run(compose([f"run={path}", "tasks=3", "steps=1", "episodes=2"], "evaluate"))
    assert "as it was adapted on point2d (4 episodes, 2 steps)" in capsys.readouterr().out
    told = json.loads((path / "evaluation" / "test.json").read_text())
    assert told["adapted_on"] == list(adapted.history)
    render_run(compose([f"run={path}", "steps=[0]", f"out={tmp_path / 'a.png'}", "width=64", "height=48"], "render"))
    assert (tmp_path / "a.png").is_file()
    assert states(tmp_path)[path] == f"adapted, of {adapted.run.folder.path}"
    with pytest.raises(RunFolderError, match="arm7 is adapted to one task: training goes on in the run"):
        train(compose([f"resume={path}", "budget.iterations=2"]))
    given = [
        "env=point2d",
        "algo=maml",
        "agent=transformer",
        "agent.width=8",
        "agent.context=trial",
        f"algo.warm_start.run={path}",
    ]
    with pytest.raises(ConfigError, match="is adapted to one task; begin from the run that it came from"):
        train(compose([*given, f"env.horizon={HORIZON}", f"run_dir={tmp_path / 'run'}"]))


def test_who_adapts_further_tries_something_else(agent: Agent) -> None:
    class Heard(TaskEnv):
        def step(self, action: np.ndarray) -> Any:
            actions.append(action)
            return super().step(action)

    env = Heard("point2d", horizon=HORIZON)
    env.set_task({"goal": [0.3, -0.4]})
    tried, still = [], agent
    for _ in range(2):
        actions: list[np.ndarray] = []
        still = replace(still.adapt(env, episodes=2), adapted=agent.adapted)
        tried.append(np.stack(actions))
    assert tried[0].shape == tried[1].shape and not np.allclose(tried[0], tried[1])
    actions = []
    agent.adapt(env, episodes=2)
    np.testing.assert_array_equal(actions, tried[0])


def test_an_evaluation_begins_with_what_adapted(adapted: Agent) -> None:
    from metarl.evaluation.curve import adaptation_rounds

    run = adapted.run
    env = run.environment(4, seed=1)
    tasks = run.held_out("test", 2)
    for start in (None, adapted.adapted):
        rounds, acting = adaptation_rounds(
            env, run.policy, run.learner, tasks, 0, torch.Generator(), True, adapted=start
        )
        first = adapted if start else replace(adapted, adapted=None)
        action, _ = first.predict(rounds[0].tokens[:, 0, 0, :2].numpy())
        np.testing.assert_allclose(rounds[0].actions[:, 0, 0].clamp(-1, 1), action, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda tensors, state: tensors.pop("adapted.log_std"), "log_std is one of them only"),
        (lambda tensors, state: tensors["adapted.log_std"].fill_(torch.nan), "is not finite"),
        (lambda tensors, state: tensors.update({"adapted.log_std": torch.zeros(1, 3)}), r"\(1, 3\), expected \(1, 2\)"),
        (lambda tensors, state: state["adapted"].update(history=[{}]), "what is said of its adaptation is damaged"),
        (lambda tensors, state: state.update(memory={"position": -1, "episodes": 0}), "is one of them only|damaged"),
    ],
)
def test_a_damaged_one_is_refused(adapted: Agent, tmp_path: Path, change: Any, line: str) -> None:
    from metarl.run_folder import RunFolder, checkpoints

    folder = RunFolder(adapted.save(tmp_path / "arm7"))
    number, tensors, state = folder.load_checkpoint()
    change(tensors, state)
    checkpoints.save(folder.path / "checkpoints", folder.checkpoint_path(number), number, tensors, state)
    with pytest.raises(CheckpointError, match=line):
        metarl.load(folder.path, "cpu")


# recorded episodes


class Stopped(Exception):
    """An emergency stop."""


class Stopping(TaskEnv):
    """Raises in a step."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__("point2d", horizon=HORIZON)
        self.set_task({"goal": [0.3, -0.4]})
        self.left, self.error = after, error

    def step(self, action: np.ndarray) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().step(action)


def test_a_recording_is_as_good_as_the_episodes(agent: Agent) -> None:
    """What an interrupted collection leaves gives the inner step that the same episodes would have given."""
    run, played = agent.run, 3 * HORIZON
    with pytest.raises(CollectionStopped) as stopped:
        agent.adapt(Stopping(played, Stopped("red button")), episodes=6)
    assert stopped.value.recording and stopped.value.agent.adapted is None
    env = VectorSimulations(_vector(Stopping(10**6, Stopped())), HORIZON)
    generator = torch.Generator().manual_seed(stream_seed(run.settings.seed, "adaptation"))
    live = explore(env, run.policy, episodes=4, trial_episodes=2, generator=generator)
    past = replay(stopped.value.recording, run.policy, None, horizon=HORIZON, trial_episodes=2)
    assert past.tokens.shape == live.tokens.shape == (1, 2, 2 * HORIZON, 6)
    for name in ("tokens", "actions", "log_probability", "value", "feedback", "valid"):
        there = past.valid.bool()
        assert int(there.sum()) == int(live.valid[0, 0].sum() + live.valid[0, 1, :HORIZON].sum())
        torch.testing.assert_close(getattr(past, name)[there], getattr(live, name)[there], atol=1e-5, rtol=1e-5)
    assert agent.adapt(episodes=stopped.value.recording, steps=2).history[0]["episodes"] == 3
    assert agent.adapt(Stopping(10**6, Stopped()), episodes=np.int64(2)).history[0]["steps"] == 1


def _vector(env: Any) -> Any:
    from metarl.rollouts.presented import vector_of

    return vector_of(env)


@pytest.mark.parametrize("error", [Stopped("red button"), KeyboardInterrupt()])
def test_what_adapted_before_an_interruption_is_kept(agent: Agent, error: BaseException) -> None:
    with pytest.raises(CollectionStopped, match=f"stopped after .* by {type(error).__name__}") as stopped:
        agent.adapt(Stopping(5 * HORIZON, error), episodes=2, steps=4)
    before = stopped.value.agent
    assert before.adapted is not None and before.history[0]["steps"] == 2
    assert before.adapt(episodes=stopped.value.recording).history[1]["env"] == "a recording"
    with pytest.raises(type(error)):
        agent.adapt(Stopping(0, error), episodes=2)


def test_a_minari_dataset_is_a_recording(agent: Agent) -> None:
    """Observations and infos then have one entry more than there are steps."""
    generator = np.random.default_rng(0)

    def episode(steps: int) -> Any:
        infos = {"feedback": generator.normal(size=steps + 1)}
        observations, actions = generator.normal(size=(steps + 1, 2)), generator.uniform(-1, 1, (steps, 2))
        return SimpleNamespace(observations=observations, actions=actions, rewards=infos["feedback"] + 9, infos=infos)

    class Dataset:
        def iterate_episodes(self) -> Iterator[Any]:
            return iter([first, second])

    first, second = episode(HORIZON), episode(2)
    plain = [
        {"observations": each.observations[:-1], "actions": each.actions, "feedback": each.infos["feedback"][1:]}
        for each in (first, second)
    ]
    assert same(agent.adapt(episodes=Dataset()), agent.adapt(episodes=plain))
    told = [{"observations": e.observations, "actions": e.actions, "rewards": e.rewards[1:]} for e in (first, second)]
    assert not same(agent.adapt(episodes=told), agent.adapt(episodes=plain[:1]))


GOOD = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 2)), "feedback": np.zeros(3)}


@pytest.mark.parametrize(
    ("recording", "line"),
    [
        ([], "has no episodes"),
        (GOOD, "a list of episodes or a Minari dataset, not a dict"),
        ([GOOD, GOOD | {"feedback": None}], "episode 1 of the recording has no feedback"),
        ([GOOD | {"actions": np.zeros((3, 5))}], r"episode 0 .* has actions of shape \(3, 5\), expected \(3, 2\)"),
        ([GOOD | {"feedback": [0, np.nan, 0]}], "episode 0 of the recording: feedback is not finite"),
        ([GOOD | {"observations": np.zeros((5, 2))}], r"has observations of shape \(5, 2\), expected \(3, 2\)"),
        ([GOOD | {"feedback": np.zeros(5)}], r"has feedback of shape \(5,\), expected \(3,\)"),
        (
            [GOOD, GOOD | {"trial": np.zeros(3)}],
            r"episode 1 of the recording has a trial of shape \(3,\), expected a num",
        ),
        ([np.zeros(3)], "episode 0 of the recording, a ndarray, has no observations, actions and feedback by these"),
        ([GOOD | {"observations": ["a"]}], "episode 0 of the recording is not made of arrays"),
        ([{name: np.concatenate([value] * 3) for name, value in GOOD.items()}], "has 9 steps, the policy .* on 6"),
        ([{name: value[:0] for name, value in GOOD.items()}], "has 0 steps"),
    ],
)
def test_a_bad_recording_is_one_line(agent: Agent, recording: Any, line: str) -> None:
    with pytest.raises(MetaRLError, match=line):
        agent.adapt(episodes=recording)


def test_an_environment_or_a_recording(agent: Agent) -> None:
    for given in ({}, {"env": single(), "episodes": [GOOD]}):
        with pytest.raises(MetaRLError, match="an environment, or recorded episodes in its place"):
            agent.adapt(**given)
