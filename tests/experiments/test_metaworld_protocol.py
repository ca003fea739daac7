"""An agent inside the package's own evaluation loop, on our simulations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import metarl
import metarl.runs
from envs.core.environment import Environment, Step
from envs.errors import PackageError
from envs.metaworld import package
from envs.metaworld.benchmarks import metaworld
from experiments import metaworld_protocol
from experiments.metaworld_protocol import ProtocolAgent, ProtocolEnvironments
from metarl.config.composition import compose
from metarl.errors import MetaRLError

try:
    package.models()
except PackageError as error:
    pytest.skip(str(error), allow_module_level=True)


class Stub:
    """What the adapter asks of an agent; it answers by a function of the observation, and keeps what it is told."""

    def __init__(self, answer: Any, feedback: str = "reward", steps: int = 0) -> None:
        self.run = SimpleNamespace(feedback=feedback, gradient_steps=steps, policy=SimpleNamespace(observation_size=39))
        self.answer, self.calls, self.recordings = answer, [], []

    def predict(
        self, observation: np.ndarray, state: Any, begins: np.ndarray, deterministic: bool, feedback: Any
    ) -> tuple[np.ndarray, Any]:
        self.calls.append((state, begins.copy(), deterministic, feedback))
        return self.answer(observation), (state or 0) + 1

    def adapt(self, episodes: list[Any], steps: int) -> Stub:
        self.recordings.append((episodes, steps))
        return self


def still(observation: np.ndarray) -> np.ndarray:
    return np.zeros((len(observation), 4), np.float32)


def test_rewards_and_beginnings_reach_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    env, stub = metaworld(2, horizon=4, threads=1), Stub(still)
    rewards: list[np.ndarray] = []
    step = env.step

    def watched(action: torch.Tensor) -> Step:
        found = step(action)
        rewards.append(found.reward.numpy().copy())
        return found

    monkeypatch.setattr(env, "step", watched)
    success, _, each = metaworld_protocol.evaluate(stub, env, "test", evals=1, episodes=2)  # type: ignore[arg-type]
    assert success == 0.0 and each == {"reach-v3": 0.0}
    begins = [call[1].all() for call in stub.calls]
    assert begins == [step % 4 == 0 for step in range(len(begins))] and len(begins) >= 8 + 8
    assert [call[0] for call in stub.calls] == [None, *range(1, len(begins))]
    told = [call[3] for call in stub.calls]
    assert told[0] is None
    for index in range(1, len(told)):
        # While it is evaluated nobody tells the last reward of an episode.
        expected = rewards[index - 1] if index <= 8 or index % 4 else np.zeros(2)
        np.testing.assert_array_equal(told[index], expected.astype(np.float32))


@pytest.mark.parametrize(("benchmark", "simulations"), [("ML1", 5), ("ML10", 10)])
def test_successes_are_counted_and_end_episodes(benchmark: str, simulations: int) -> None:
    env = metaworld(simulations, horizon=90, benchmark=benchmark, goal_visible=True, threads=1)
    stub = Stub(lambda seen: np.clip(15.0 * (seen[:, 36:39] - seen[:, :3] + [0, 0, 0.045]) @ np.eye(3, 4), -1, 1))
    success, _, each = metaworld_protocol.evaluate(stub, env, "train", evals=1, episodes=1)  # type: ignore[arg-type]
    assert each["reach-v3"] == 1.0
    assert len(each) == (1 if benchmark == "ML1" else 10)
    assert success == pytest.approx(np.mean(list(each.values())))
    if benchmark == "ML1":
        assert len(stub.calls) < 90 + 90


@pytest.mark.parametrize(("feedback", "bonus"), [("reward", 0), ("reward", 2), ("log_reward", 0)])
def test_a_policy_is_fed_what_it_was_fed_in_training(
    feedback: str, bonus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ["env.horizon=4", "env.action_repeat=2", "algo.tasks=2", "algo.outer.minibatches=1", "agent.width=8"]
    tiny += ["evaluate.tasks=1", "report=none", "threads=1", "budget.iterations=1", f"run_dir={tmp_path / 'run'}"]
    metarl.runs.train(
        compose(["env=metaworld", "algo=in_context", f"env.feedback={feedback}", f"env.bonus={bonus}", *tiny])
    )
    agent = metarl.load(tmp_path / "run")
    assert agent.run.fed_the_reward == ((feedback, bonus) == ("reward", 0))
    if not agent.run.fed_the_reward:
        _, state = agent.predict(np.zeros(39, np.float32))
        with pytest.raises(MetaRLError, match="this policy was not fed the reward"):
            agent.predict(np.zeros(39, np.float32), state, reward=1.0)
    env = agent.run.environment(2, 0, 1)
    success, mean_return, _ = metaworld_protocol.evaluate(agent, env, "test", evals=1, episodes=2)
    assert 0.0 <= success <= 1.0 and 0.0 <= mean_return <= 40.0
    # Of several simulations of a task the package would count those that succeed first.
    counted, sound = [], metaworld_protocol.evaluate

    def watched(agent: Any, env: Environment, *others: Any) -> Any:
        counted.append(env.num_simulations)
        return sound(agent, env, *others)

    monkeypatch.setattr(metaworld_protocol, "evaluate", watched)
    assert metaworld_protocol.main([f"run={tmp_path / 'run'}", "evals=1", "episodes=1"]) == 0
    assert counted == [1]


def test_gradient_steps_learn_from_the_episodes_of_each_simulation() -> None:
    env, stub = metaworld(2, horizon=4, threads=1), Stub(still, steps=3)
    metaworld_protocol.evaluate(stub, env, "test", evals=1, episodes=2)  # type: ignore[arg-type]
    assert len(stub.recordings) == 2
    for episodes, steps in stub.recordings:
        assert steps == 3
        assert [len(episode["feedback"]) for episode in episodes] == [4, 4]
        assert np.shape(episodes[0]["observations"]) == (4, 39)
    assert [call[2] for call in stub.calls[:8]] == [False] * 8  # it explores
    assert all(call[2] for call in stub.calls[8:])


def test_what_the_protocol_cannot_do_is_said() -> None:
    with pytest.raises(MetaRLError, match="this policy was fed something else"):
        ProtocolAgent(Stub(still, feedback="sparse"))  # type: ignore[arg-type]
    environments = ProtocolEnvironments(metaworld(1, threads=1), "test")
    with pytest.raises(MetaRLError, match="do not do that"):
        environments.call("fly")


@pytest.mark.parametrize("arguments", [[], ["split=test"], ["run=x", "evals=0"], ["run=x", "tusks=3"], ["run=x"]])
def test_a_wrong_argument_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert metaworld_protocol.main(arguments) != 0
    assert arguments == [] or len(capsys.readouterr().err.splitlines()) == 1
