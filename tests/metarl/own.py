"""What a user may bring, as modules to write: what several tests share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import torch

import envs  # noqa: F401 - registers metarl/Reach-v0
import metarl
from metarl.agent import Agent
from metarl.config.composition import compose
from metarl.evaluation.films import render_run
from metarl.run_folder import RunFolder
from metarl.runs import evaluate_run, train

ROOT = Path(__file__).parents[2]

POINT = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Point(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, speed=0.1, render_mode=None):
        self.observation_space, self.action_space = Box(-9, 9, (2,)), Box(-2, 2, (2,))
        self.speed, self.render_mode = speed, render_mode

    def sample_tasks(self, n):
        return [{"goal": goal} for goal in self.np_random.uniform(-0.4, 0.4, (n, 2))]

    def set_task(self, task):
        self.goal = task["goal"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-0.1, 0.1, 2)
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.position = self.position + self.speed * action
        distance = np.linalg.norm(self.position - self.goal)
        return self.position.astype(np.float32), -distance, distance < 0.2, False, {"success": distance < 0.2}

    def render(self):
        return np.zeros((20, 20, 3), np.uint8)


def faster(**options):
    return Point(speed=0.2, **options)
"""


def walk_through(heading: str = "Add an environment") -> tuple[str, str]:
    """The first code and the command under a heading of ARCHITECTURE.md."""
    (code, *_), command = _shown(heading)
    return code, command


def hidden_length() -> str:
    """The method under "Add an environment" that gives a link its length."""
    (_, method), _ = _shown("Add an environment")
    return method


def _shown(heading: str) -> tuple[list[str], str]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"^    python -m metarl\.(.*)$", section, re.MULTILINE)
    return blocks, command


def command(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as a user gives it, from a folder of their own."""
    line = [sys.executable, "-m", f"metarl.{module}", *arguments]
    return subprocess.run(
        line, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )


def cart(*changes: tuple[str, str]) -> str:
    """The walk-through's module with other lines."""
    source = walk_through()[0]
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


def live_through(folder: Path, *given: str) -> Agent:
    """Train by these overrides, resume exactly, evaluate, film, load, adapt and act; the agent as it was loaded."""
    tiny = ["env=reach", "env.horizon=6", "algo.tasks=3", "algo.episodes=2", "device=cpu", *given]
    tiny += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "report=page"]
    whole = train(compose([*tiny, "budget.iterations=2", f"run_dir={folder / 'whole'}"]))
    half = train(compose([*tiny, "budget.iterations=1", f"run_dir={folder / 'half'}"]))
    train(compose([f"resume={half}", "budget.iterations=2"]))
    start, one, other = (
        RunFolder(path).load_checkpoint(number).tensors for path, number in ((half, 1), (whole, 2), (half, 2))
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(start["policy.log_std"], one["policy.log_std"]), "nothing is learned"
    evaluate_run(compose([f"run={half}", "tasks=2", "split=ood"], "evaluate"))
    assert (half / "evaluation" / "ood.json").is_file()
    render_run(compose([f"run={half}", f"out={folder / 'film.gif'}", "width=64", "height=48"], "render"))
    assert (folder / "film.gif").stat().st_size > 0
    agent = metarl.load(half, "cpu")
    env = gymnasium.make("metarl/Reach-v0", horizon=6)
    env.unwrapped.set_task(env.unwrapped.sample_tasks(1)[0])
    adapted = agent.adapt(env, episodes=2, steps=1)
    (observation, _), state, reward = env.reset(), None, 0.0
    for _ in range(6):
        action, state = adapted.predict(observation, state, reward=reward)
        observation, earned, *_ = env.step(action)
        reward = float(earned)
    assert adapted.adapted
    return agent
