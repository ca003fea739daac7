"""Environments of a user's own in pieces, the first of each as it should be, the others wrong."""

from __future__ import annotations

OWN = """
import torch
from torch import Tensor
from envs.core.environment import Environment, Step
from envs.core.tasks import Range, TaskDistribution

class Own(Environment):
    name, success_criterion, control_period = "own", "never", 0.1

    def __init__(self, num_simulations, seed=0, threads=0, tasks_override=None, horizon=3):
        ranges = {{"goal": Range(0.0, 1.0)}}
        super().__init__(num_simulations, TaskDistribution(ranges).override(tasks_override or {{}}), seed)
        self.horizon, self.observation_size, self.action_size = {sizes}

    def apply_tasks(self):
        {apply_tasks}

    def reset(self, mask=None):
        return {reset}

    def step(self, action):
        n = self.num_simulations
        zero, no = torch.zeros(n), torch.zeros(n, dtype=torch.bool)
        return {step}

    def render_state(self, simulation): raise NotImplementedError
    def drawer(self, simulation, width, height): raise NotImplementedError
"""
GYM = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

class Own(gymnasium.Env):
    observation_space, action_space = {spaces}
    def sample_tasks(self, n): return {tasks}
    def set_task(self, task): {set_task}
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {reset}
    def step(self, action):
        return {step}
"""
FAILS = ["None", "3", "1 / 0", "undefined", "torch.zeros(1)", "torch.full((self.num_simulations, 2), torch.nan)"]
OBSERVATION = "torch.zeros(self.num_simulations, 2)"
STEP = f"Step({OBSERVATION}, zero, {{'r': zero}}, no, no, no, zero)"
PIECES: dict[str, list[str]] = {
    "sizes": ["horizon, 2, 1", "horizon, 3, 1", "horizon, 2, 0", "0, 2, 1", "horizon, '2', 1", "1", "horizon, 2, -1"],
    "apply_tasks": ["pass", "1 / 0", "self.assigned['nothing']", "raise RuntimeError('a\\nb')"],
    "reset": [OBSERVATION, *FAILS, f"{OBSERVATION}.double()", f"{OBSERVATION}.numpy()"],
    "step": [STEP, *FAILS, STEP.replace("zero, {", "no, {"), STEP.replace("no, no, no", "zero, no, no"),
             STEP.replace("{'r': zero}", "{}"), STEP.replace("zero, {", "zero / 0, {"), "Step(zero)"],
}  # fmt: skip
SPACES = "Box(-1, 1, (2,)), Box(-1, 1, (1,))"
OBSERVED = "np.zeros(2, np.float32), {}"
STEPPED = "np.zeros(2, np.float32), 0.0, False, False, {}"
GYM_PIECES: dict[str, list[str]] = {
    "spaces": [SPACES, "Discrete(3), Discrete(2)", "Box(-1, 1, (2,)), Box(-np.inf, 1, (1,))", "None, None", "1, 2"],
    "tasks": ["list(range(n))", "[]", "None", "3", "[{}] * n", "1 / 0", "range(n + 1)"],
    "set_task": ["pass", "1 / 0", "self.x"],
    "reset": [OBSERVED, "None", "3", "1 / 0", "np.zeros(3), {}", "'x', {}", "np.full(2, np.nan, np.float32), {}"],
    "step": [STEPPED, "None", "1 / 0", STEPPED.replace("zeros(2", "zeros(3"), STEPPED.replace("0.0", "None"),
             STEPPED.replace("0.0", "np.nan"), STEPPED.replace("{}", "None"), STEPPED.replace("0.0", "[1, 2]")],
}  # fmt: skip
