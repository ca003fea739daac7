"""Reach as a plain single-simulation Gymnasium environment, as one would write it without `envs`; no torch in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np

MODEL = Path(__file__).parents[2] / "envs" / "assets" / "reach.xml"
SUBSTEPS = 10
DELTA, WINDUP = 0.1, 0.2  # rad
SUCCESS_DISTANCE, SUCCESS_STEPS = 0.05, 5


class PlainReach(gymnasium.Env):
    """The same model, observation (24), action (7), reward and success as `env=reach`, on `mujoco.mj_step`."""

    metadata = {"render_modes": []}

    def __init__(self, seed: int = 0) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(MODEL))
        self.data = mujoco.MjData(self.model)
        self.home = self.model.key("home").qpos.copy()
        self.low, self.high = self.model.jnt_range.T.copy()
        start = int(self.model.sensor("grip_position").adr[0])
        self.grip = self.data.sensordata[start : start + 3]
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3 * self.model.nu + 3,), np.float32)
        self.goal = np.array([0.5, 0.0, 0.4])
        self.steps_inside = 0

    def set_task(self, goal: np.ndarray, payload_mass: float, damping: np.ndarray) -> None:
        """A goal (3,) in m, a payload in kg and the damping of each joint."""
        self.goal = goal
        body = self.model.body("payload").id
        self.model.body_mass[body] = payload_mass
        self.model.body_inertia[body] = 0.4 * 0.03**2 * payload_mass
        self.model.dof_damping[:] = damping
        mujoco.mj_setConst(self.model, self.data)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.data.ctrl[:] = self.home + 0.02 * self.np_random.standard_normal(self.model.nu)
        mujoco.mj_forward(self.model, self.data)
        self.steps_inside = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        data = self.data
        action = np.clip(action, -1.0, 1.0)
        target = np.clip(data.ctrl + DELTA * action, data.qpos - WINDUP, data.qpos + WINDUP)
        np.clip(target, self.low, self.high, out=data.ctrl)
        mujoco.mj_step(self.model, data, SUBSTEPS)
        distance = float(np.linalg.norm(self.grip - self.goal))
        self.steps_inside = self.steps_inside + 1 if distance < SUCCESS_DISTANCE else 0
        reward = -distance + 1.0 - np.tanh(10.0 * distance) - 0.005 * float(np.square(action).sum())
        return self.observe(), float(reward), False, False, {"success": self.steps_inside >= SUCCESS_STEPS}

    def observe(self) -> np.ndarray:
        """The observation (24,)."""
        data = self.data
        return np.concatenate([data.qpos, data.qvel, data.ctrl - data.qpos, self.grip]).astype(np.float32)
