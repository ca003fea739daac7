"""Cheetah: run forwards or backwards, or at a speed; which one is felt only through the reward."""

from __future__ import annotations

import math
from abc import abstractmethod

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.core.tasks import Categories, Range, TaskDistribution
from envs.families.locomotion import MASS_SCALE, LocomotionEnvironment, add_camera, add_marker, arrow, gymnasium_spec

SUCCESS_WAY = 10.0  # m
SUCCESS_SPEED = 0.1  # m/s; goals held out are up to 0.2 from the middle of theirs, which a single speed would reach
WINDOW = 50  # control steps, 2.5 s: several strides
SIGNS = {"forward": 1.0, "backward": -1.0}


class Cheetah(LocomotionEnvironment):
    """Gymnasium's planar half cheetah.

    Observation (D = 20; float32), as in MAML's and PEARL's code:

    | index | meaning                                          | unit       | source                         |
    |-------|--------------------------------------------------|------------|--------------------------------|
    | 0     | height of the torso above its rest               | m          | qpos, rootz                    |
    | 1     | pitch of the torso                               | rad        | qpos, rooty                    |
    | 2-7   | joints: back thigh, shin, foot; front the same   | rad        | qpos                           |
    | 8-10  | velocity of the torso: x, z, pitch               | m/s, rad/s | qvel                           |
    | 11-16 | joint velocities                                 | rad/s      | qvel                           |
    | 17-19 | the torso's position in the world; y is 0        | m          | qpos, rootx and rootz          |

    Action (A = 6): torques as parts of each motor's greatest (120, 90, 60, 120, 60, 30 Nm).
    """

    root = 1
    observation_size, action_size, hidden_size = 20, 6, 1

    @abstractmethod
    def markings(self) -> list[dict[str, object]]:
        """The geoms of the marker."""

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = gymnasium_spec("half_cheetah.xml")
        _scale_densities(spec, spec.compiler.settotalmass)
        add_camera(spec, "torso", (0.0, -3.8, 0.7), (0.0, 1.0, -0.15))
        add_marker(spec, self.markings())
        return spec

    def bind(self) -> None:
        super().bind()
        self.height = float(self.model.body("torso").pos[2])
        self.x = self.qpos[:, 0]
        self.y = torch.zeros(self.num_simulations, 1, dtype=torch.float64)

    def seen(self) -> list[Tensor]:
        return [self.qpos[:, 1:], self.qvel, self.position, self.y, self.qpos[:, 1:2] + self.height]

    def effort(self, action: Tensor) -> Tensor:
        """The papers' price of torque, (N,)."""
        return -0.05 * action.square().sum(-1)


class CheetahDir(Cheetah):
    """A cheetah runs forwards or backwards and is not told which; horizon 200 (10 s). Spaces: see `Cheetah`.

    The observation (D = 20, with `goal_visible` 21):

    | index | meaning                                          | unit       | source                         |
    |-------|--------------------------------------------------|------------|--------------------------------|
    | 0-19  | as in `Cheetah`                                  |            |                                |
    | 20    | 1 for forward, -1 for backward, with `goal_visible` | 1          | task: an oracle                |

    Reward terms: `run` = the torso's mean velocity along x over the control step times the direction, m/s;
    `effort` = -0.05 |action|^2.

    Success (ours; the papers quote returns): the torso is 10 m or more from the origin in the task's direction.

    Task parameters (hidden): `direction` (forward, backward), `mass_scale` (multiplies all masses and inertias).
    ood: lighter and heavier bodies.

    Source: arXiv 1703.03400, section 5.3, with rllab/envs/mujoco/half_cheetah_env_rand_direc.py of cbfinn/maml_rl;
    arXiv 1903.08254, section 6.1, with rlkit/envs/half_cheetah_dir.py of katerakelly/oyster. Deviations: (1)
    `mass_scale` is ours: of only two tasks none can be held out. (2) Gymnasium's model, as in PEARL; MAML has rllab's.
    (3) The velocity is the torso's, averaged over the control step, as in PEARL; MAML takes the centre of mass's at its
    end. The last three observations are the torso's position, as in PEARL; MAML's are the centre of mass's. (4) The
    action in `effort` is clipped to [-1, 1], as in MAML. (5) A control step is 50 ms, as in PEARL. In MAML's code it is
    one of 10 ms, and 200 of them are 2 s: returns there are not comparable with those of our 10 s.
    """

    name = "cheetah_dir"
    success_criterion = "torso at least 10 m from the start, in the task's direction, at the end of the episode"
    parameters = {"direction": Categories(tuple(SIGNS)), "mass_scale": MASS_SCALE}

    def markings(self) -> list[dict[str, object]]:
        return arrow()

    def apply_goal(self) -> None:
        # An override renumbers the categories.
        signs = torch.tensor([SIGNS[name] for name in self.distribution.parameters["direction"].names])
        self.goal = signs[self.assigned["direction"].long()]

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {"run": (self.velocity() * self.goal)[:, 0], "effort": self.effort(action)}

    def success(self) -> Tensor:
        return self.x * self.goal[:, 0] >= SUCCESS_WAY

    def marker(self, simulation: int) -> tuple[np.ndarray, float]:
        above = np.array([self.x[simulation].item(), 0.0, 1.35])
        return above, 0.0 if self.goal[simulation] > 0 else math.pi


class CheetahVel(Cheetah):
    """A cheetah runs at a speed that it is not told; horizon 200 (10 s). Spaces: see `Cheetah`.

    The observation (D = 20, with `goal_visible` 21):

    | index | meaning                                          | unit       | source                         |
    |-------|--------------------------------------------------|------------|--------------------------------|
    | 0-19  | as in `Cheetah`                                  |            |                                |
    | 20    | the goal, with `goal_visible`                    | m/s        | task: an oracle                |

    Reward terms: `speed` = -|v - goal| (v: the torso's mean velocity along x over the control step, m/s);
    `effort` = -0.05 |action|^2.

    Success (ours; the papers quote returns): the mean of v over the last 50 control steps (2.5 s) is within 0.1 m/s of
    the goal; never before the 50th step. A single speed succeeds on half of the held-out goals at most.

    Task parameters (hidden): `goal` (m/s), `mass_scale` (multiplies all masses and inertias). Held out of training are
    goals of 0.4 to 0.8 m/s for test and of 1.2 to 1.6 m/s for validation. ood: goals of 2 to 3 m/s, lighter and heavier
    bodies. Pictures have a post that runs at the goal's speed.

    Source: arXiv 1703.03400, section 5.3 (goals uniform in [0, 2]), with rllab/envs/mujoco/half_cheetah_env_rand.py of
    cbfinn/maml_rl; arXiv 1903.08254, section 6.1, with rlkit/envs/half_cheetah_vel.py of katerakelly/oyster.
    Deviations: (1) `mass_scale` is ours, as in `CheetahDir`; `env.tasks.mass_scale=1.0` gives the published tasks. (2)
    Goals are in [0, 2], as MAML's paper says; PEARL's code draws from [0, 3]. (3) Model, velocity, observation,
    clipping and control step as in `CheetahDir`.
    """

    name = "cheetah_vel"
    success_criterion = "mean speed within 0.1 m/s of the goal over the last 50 control steps of the episode"
    parameters = {
        "goal": Range(0.0, 2.0, ood=[(2.0, 3.0)], unit="m/s", within=(-10.0, 10.0), semantic=True),
        "mass_scale": MASS_SCALE,
    }

    def markings(self) -> list[dict[str, object]]:
        capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
        return [{"type": capsule, "size": (0.03, 0.0, 0.0), "fromto": (0, 0.5, 0, 0, 0.5, 1.3)}]

    def bind(self) -> None:
        super().bind()
        self.trail = torch.zeros(self.num_simulations, WINDOW, dtype=torch.float64)

    def apply_goal(self) -> None:
        self.goal = self.assigned["goal"]

    def on_reset(self, mask: Tensor) -> None:
        self.trail[mask] = self.position[mask]

    def control(self, action: Tensor) -> None:
        super().control(action)
        self.trail.scatter_(1, (self.elapsed % WINDOW)[:, None], self.position)

    def sense(self) -> None:
        way = self.position - self.trail.gather(1, (self.elapsed % WINDOW)[:, None])  # since WINDOW steps ago
        self.mean_speed = way[:, 0] / (WINDOW * self.control_period)

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {"speed": -(self.velocity() - self.goal).abs()[:, 0], "effort": self.effort(action)}

    def success(self) -> Tensor:
        return ((self.mean_speed - self.goal[:, 0]).abs() < SUCCESS_SPEED) & (self.elapsed >= WINDOW)

    def marker(self, simulation: int) -> tuple[np.ndarray, float]:
        way = self.goal[simulation, 0].item() * self.elapsed[simulation].item() * self.control_period
        return np.array([way, 0.0, 0.0]), 0.0


def _scale_densities(spec: mujoco.MjSpec, mass: float) -> None:
    """Give the model its total mass by its geoms' density: MuJoCo 4 still obeys `settotalmass`, but warns."""
    spec.compiler.settotalmass = -1.0
    factor = mass / spec.compile().body_mass.sum()
    for geom in spec.geoms:
        geom.density *= factor
