"""Environments of a user's own, as modules to write: what several tests share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def walk_through() -> tuple[str, str]:
    """The code and the command under "Add an environment"."""
    (code, _), command = _shown()
    return code, command


def hidden_length() -> str:
    """The method under "Add an environment" that gives a link its length."""
    return _shown()[0][1]


def _shown() -> tuple[list[str], str]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.partition("## Add an environment")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"^    python -m metarl\.(.*)$", section, re.MULTILINE)
    assert len(blocks) == 2 and len(commands) == 1
    return blocks, commands[0]


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
