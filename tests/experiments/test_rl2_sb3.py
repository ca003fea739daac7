"""Trials for Stable-Baselines3, and what it learned acting under our code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from envs.adapters.sb3 import SB3VecEnv
from experiments.compare import rl2_sb3
from experiments.compare.trials import TrialsVecEnv
from metarl.config.composition import compose
from metarl.errors import MetaRLError

HORIZON, N = 4, 3
CONFIG = compose(
    [
        *("env=navigate_search", f"env.horizon={HORIZON}", "algo=in_context", "algo.trial_episodes=2"),
        *("algo.tasks=3", "evaluate.tasks=3", "evaluate.episodes_per_step=2", "threads=1"),
    ]
)


def made(episodes: int) -> TrialsVecEnv:
    env = SB3VecEnv("navigate_search", N, horizon=HORIZON)
    env.seed(0)
    return TrialsVecEnv(env, episodes)


def played(env: TrialsVecEnv, steps: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, list[dict], np.ndarray]]:
    """What each step returned, and the goals in which it ended."""
    generator, found = np.random.default_rng(0), []
    for _ in range(steps):
        action = generator.normal(0, 2, (N, env.action_space.shape[0])).astype(np.float32)  # type: ignore[index]
        env.step_async(action)
        found.append((*env.step_wait(), env.inner.environment.assigned["goal"].numpy().copy()))
    return found


@pytest.mark.parametrize("episodes", [1, 3])
def test_a_trial_keeps_its_task_and_the_next_has_another(episodes: int) -> None:
    env = made(episodes)
    env.reset()
    first = env.inner.environment.assigned["goal"].numpy().copy()
    steps = played(env, 2 * episodes * HORIZON)
    for t, (_, _, done, _, goal) in enumerate(steps, 1):
        assert done.all() == (t % (episodes * HORIZON) == 0) == done.any()
        assert np.array_equal(goal, first) == (t < episodes * HORIZON)
    second, third = steps[episodes * HORIZON - 1][-1], steps[-1][-1]
    assert np.array_equal(steps[-2][-1], second) and (third != second).any()


def test_what_is_seen_is_the_token_of_our_own_policies() -> None:
    env = made(2)
    size = env.inner.observation_space.shape[0]  # type: ignore[index]
    start = env.reset()
    assert (start[:, size:-1] == 0).all() and (start[:, -1] == 1).all()
    generator = np.random.default_rng(0)
    for t, (seen, _, done, infos, _) in enumerate(played(env, 2 * HORIZON), 1):
        action = np.clip(generator.normal(0, 2, (N, env.action_space.shape[0])), -1, 1).astype(np.float32)  # type: ignore[index]
        feedback = np.array([info["feedback"] for info in infos], np.float32)
        last = t == 2 * HORIZON
        kept = np.array([info["terminal_observation"] for info in infos]) if last else seen
        assert np.allclose(kept[:, size:-2], action) and np.allclose(kept[:, -2], feedback)
        assert (seen[:, -1] == float(t % HORIZON == 0)).all()
        assert done.all() == last == all(info["TimeLimit.truncated"] for info in infos)
        assert ("is_success" in infos[0]) == (t % HORIZON == 0)
        if last:
            assert (kept[:, -1] == 0).all() and (seen[:, size:-1] == 0).all()
            assert not np.allclose(kept[:, :size], seen[:, :size])


def test_what_it_learned_acts_as_it_does_there(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    model, scales = rl2_sb3.learn(CONFIG, 0.0)
    policy = rl2_sb3.Recurrent(model, scales, model.action_space.shape[0], model.n_steps)
    env = made(2)
    seen, state, started = env.reset(), None, np.ones(N, bool)
    ours = policy.initial_state(N)
    with torch.no_grad():
        for t in range(5):
            expected, state = model.predict(scales.normalize_obs(seen), state, started, deterministic=True)
            output, ours = policy.step(torch.from_numpy(seen), ours, t)
            assert np.allclose(output.mean.clamp(-1, 1).numpy(), expected, atol=1e-5)
            env.step_async(expected)
            seen, _, started, _ = env.step_wait()
    found = rl2_sb3.evaluations(CONFIG, tmp_path, 0.0, Console(quiet=True))
    assert [entry["episodes"] for entry in found["splits"]["test"]["curve"]] == [0, 1]
    assert set(found["splits"]) == {"test", "ood"} and found["env_steps"] > 0


def test_without_sb3_contrib_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    with pytest.raises(MetaRLError, match="rl2_sb3: `sb3-contrib` is missing; run `pip install sb3-contrib`"):
        rl2_sb3.recurrent_ppo()
