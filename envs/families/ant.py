"""Ant: run in a direction or to a goal; which one is felt only through the reward."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.core.tasks import Range, TaskDistribution
from envs.errors import TaskError
from envs.families.locomotion import MASS_SCALE, LocomotionEnvironment, add_camera, add_marker, arrow, gymnasium_spec

SUCCESS_WAY = 5.0  # m
SUCCESS_DISTANCE = 0.5  # m
HEALTHY = (0.2, 1.0)  # m, height of the torso
TURN = Range(-math.pi, math.pi, unit="rad", within=(-2 * math.pi, 2 * math.pi), semantic=True)


class Ant(LocomotionEnvironment):
    """Gymnasium's four-legged ant.

    Action (A = 8): torques as parts of each motor's greatest (150 Nm); hip and ankle of legs 4, 1, 2 and 3.

    Both environments omit what PEARL's code takes from external contact forces (`cfrc_ext`): a cost of 5e-4 times
    the squared forces, clipped to 1, which is 0.042 per step at most, and in ant_goal 84 observations. Since 2.0 MuJoCo
    does not fill that field in a plain step; Gymnasium's Ant-v4 omits it by default.
    """

    root = 2
    action_size, hidden_size = 8, 2

    def effort(self, action: Tensor, price: float) -> Tensor:
        """The price of torque, (N,)."""
        return -price * action.square().sum(-1)


class AntDir(Ant):
    """An ant runs in a direction that it is not told; horizon 200 (10 s). Action: `Ant`.

    Observation (D = 27, with `goal_visible` 29; float32), as in PEARL's code:

    | index | meaning                                            | unit  | source     |
    |-------|----------------------------------------------------|-------|------------|
    | 0     | height of the torso                                | m     | qpos       |
    | 1-4   | orientation of the torso, w x y z                  | 1     | qpos       |
    | 5-12  | joints: hip and ankle of legs 1 to 4               | rad   | qpos       |
    | 13-15 | velocity of the torso, world frame                 | m/s   | qvel       |
    | 16-18 | angular velocity of the torso, its own frame       | rad/s | qvel       |
    | 19-26 | joint velocities                                   | rad/s | qvel       |
    | 27-28 | direction x, y, only with `goal_visible` (an oracle) | 1   | task       |

    Reward terms: `run` = the torso's mean velocity over the control step along the direction, m/s;
    `effort` = -0.5 |action|^2; `survive` = 1 while the torso is 0.2 to 1 m high.

    Success (ours; the paper quotes returns): the torso is 5 m or more from the origin, measured along the direction.

    Task parameters (hidden): `heading` (rad, the whole turn; held out in two blocks of 72 degrees), `mass_scale`
    (multiplies all masses and inertias). ood: lighter and heavier bodies; there is no direction beyond the whole turn.

    Source: arXiv 1903.08254, section 6.1, with rlkit/envs/ant_dir.py of katerakelly/oyster, which draws headings from
    the whole turn unless it is told to have two (the paper's Ant-Fwd-Back). Deviations: (1) `mass_scale` is ours;
    `env.tasks.mass_scale=1.0` gives the published tasks. (2) A fallen ant goes on, without `survive`; there its episode
    ends. (3) No contact forces: see `Ant`. (4) The action in `effort` is clipped to [-1, 1].
    """

    name = "ant_dir"
    success_criterion = "torso at least 5 m from the start along the task's direction at the end of the episode"
    observation_size = 27
    parameters = {"heading": TURN, "mass_scale": MASS_SCALE}

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = gymnasium_spec("ant.xml")
        add_camera(spec, "torso", (0.0, -4.6, 3.2), (0.0, 1.0, -0.62))
        add_marker(spec, arrow())
        return spec

    def apply_goal(self) -> None:
        heading = self.assigned["heading"]
        self.goal = torch.cat([heading.cos(), heading.sin()], -1)

    def seen(self) -> list[Tensor]:
        return [self.qpos[:, 2:], self.qvel]

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        height = self.qpos[:, 2]
        upright = (height >= HEALTHY[0]) & (height <= HEALTHY[1])
        run = (self.velocity() * self.goal).sum(-1)
        return {"run": run, "effort": self.effort(action, 0.5), "survive": upright.float()}

    def success(self) -> Tensor:
        return (self.position * self.goal).sum(-1) >= SUCCESS_WAY

    def marker(self, simulation: int) -> tuple[np.ndarray, float]:
        ahead = self.position[simulation] + 1.4 * self.goal[simulation]  # on the floor before the ant
        return np.array([*ahead.tolist(), 0.05]), self.assigned["heading"][simulation].item()


class AntGoal(Ant):
    """An ant runs to a goal that it is not told; horizon 200 (10 s). Action: `Ant`.

    Observation (D = 29, with `goal_visible` 31; float32):

    | index | meaning                                            | unit  | source     |
    |-------|----------------------------------------------------|-------|------------|
    | 0-2   | position of the torso                              | m     | qpos       |
    | 3-6   | orientation of the torso, w x y z                  | 1     | qpos       |
    | 7-14  | joints: hip and ankle of legs 1 to 4               | rad   | qpos       |
    | 15-17 | velocity of the torso, world frame                 | m/s   | qvel       |
    | 18-20 | angular velocity of the torso, its own frame       | rad/s | qvel       |
    | 21-28 | joint velocities                                   | rad/s | qvel       |
    | 29-30 | goal x, y, only with `goal_visible` (an oracle)    | m     | task       |

    Reward terms: `distance` = -(|dx| + |dy|) of the torso to the goal, m; `effort` = -0.1 |action|^2; `closing` = the
    option of this name (10, in s/m) times the mean speed over the control step at which the torso comes nearer to the
    goal, m/s; with `closing=0` there is no such term.

    Success (ours; the paper quotes returns): the torso is within 0.5 m of the goal.

    Task parameters (hidden): `goal_angle` (rad) and `goal_radius_squared` (m^2), both uniform, which makes goals
    uniform on a disk of 3 m; blocks of 72 degrees by 1.8 m^2 are held out. `mass_scale` (multiplies all masses and
    inertias). ood: goals 3 to 4 m away, lighter and heavier bodies.

    Source: arXiv 1903.08254, section 6.1 (Ant-Goal-2D), with rlkit/envs/ant_goal.py of katerakelly/oyster, where
    episodes do not end early either. Deviations: (1) `mass_scale` is ours; `env.tasks.mass_scale=1.0` gives the
    published tasks. (2) No contact forces: see `Ant`. (3) The action in `effort` is clipped to [-1, 1]. (4) `closing`
    is ours; `closing=0` gives the published reward, which tells a policy so little about a step that it takes more
    than our budgets to learn from. It is a difference of potentials (Ng et al. 1999): over an episode it sums up to
    `closing` / 0.05 s times the way by which the torso has come nearer.

    Raises:
        TaskError: if `closing` is negative or not finite.
    """

    name = "ant_goal"
    success_criterion = "torso within 0.5 m of the goal at the end of the episode"
    observation_size = 29
    parameters = {
        "goal_angle": TURN,
        "goal_radius_squared": Range(0.0, 9.0, ood=[(9.0, 16.0)], unit="m^2", within=(0.0, 100.0), semantic=True),
        "mass_scale": MASS_SCALE,
    }

    def __init__(
        self,
        num_simulations: int,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        goal_visible: bool = False,
        closing: float = 10.0,
        tasks_override: Mapping[str, object] | None = None,
    ) -> None:
        if not 0.0 <= closing < math.inf:
            raise TaskError(f"closing must be a finite number of at least 0, got {closing}")
        super().__init__(num_simulations, seed, threads, horizon, goal_visible, tasks_override)
        self.closing = closing

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = gymnasium_spec("ant.xml")
        add_camera(spec, "world", (0.0, -7.0, 6.5), (0.0, 1.0, -1.0), tracks=False)
        add_marker(spec, [{"type": mujoco.mjtGeom.mjGEOM_CYLINDER, "size": (SUCCESS_DISTANCE, 0.02, 0.0)}])
        return spec

    def apply_goal(self) -> None:
        angle, radius = self.assigned["goal_angle"], self.assigned["goal_radius_squared"].sqrt()
        self.goal = radius * torch.cat([angle.cos(), angle.sin()], -1)

    def seen(self) -> list[Tensor]:
        return [self.qpos, self.qvel]

    def sense(self) -> None:
        self.offset = self.position - self.goal
        self.distance = torch.linalg.vector_norm(self.offset, dim=-1)

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        terms = {"distance": -self.offset.abs().sum(-1).float(), "effort": self.effort(action, 0.1)}
        if self.closing:
            before = torch.linalg.vector_norm(self.position_before - self.goal, dim=-1)
            terms["closing"] = (self.closing * (before - self.distance) / self.control_period).float()
        return terms

    def success(self) -> Tensor:
        return self.distance < SUCCESS_DISTANCE

    def marker(self, simulation: int) -> tuple[np.ndarray, float]:
        return np.array([*self.goal[simulation].tolist(), 0.02]), 0.0
