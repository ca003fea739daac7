"""The Sawyer arm of Meta-World, whose hand follows a mocap body, and what its tasks share."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.core.environment import MujocoEnvironment
from envs.core.models import physics_model
from envs.core.tasks import TaskDistribution
from envs.metaworld.kinematics import Chain
from envs.metaworld.package import load_scene
from envs.metaworld.shaping import between_pads, distance, grip, hamacher_product, tolerance

Vector = tuple[float, float, float]

STEP = 0.01  # m that action 1 moves the mocap body in a control step
HIGH = (0.5, 1.0, 0.5)  # m, where the mocap body may be
REACH_LOW, REACH_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)  # m, what an observed hand is clipped to
OPEN = 0.1  # m between the claws that counts as fully open
DOWN = (1.0, 0.0, 1.0, 0.0)  # the mocap body's quaternion, which the engine normalises
SETTLING = 250  # physics steps before an episode, the gripper open
OBJECT = 9  # in qpos and qvel: after seven joints of the arm and two of the gripper


class Settled(NamedTuple):
    """The scene after the hand has come to where it starts."""

    qpos: Tensor  # (nq,)
    qvel: Tensor  # (nv,)
    tcp: Tensor  # (3,) m, between the fingertips, one physics step before
    before: Tensor  # (nq,) qpos one physics step before: what the package measures then is of that instant


class SawyerTask(MujocoEnvironment):
    """One task of Meta-World; horizon 500 at 80 Hz (0.0025 s x 5), which no success ends.

    Observation (D = 39, float32):

    | index | meaning                                                                     | unit |
    |-------|-----------------------------------------------------------------------------|------|
    | 0-2   | hand                                                                        | m    |
    | 3     | gripper opening, 1 is 10 cm between the claws                               | 1    |
    | 4-6   | object                                                                      | m    |
    | 7-10  | its quaternion; which order, and of what, differs from task to task         | 1    |
    | 11-17 | 0, room for a second object                                                 | 1    |
    | 18-35 | the same one control step before; after a reset, now                    | as above |
    | 36-38 | 0; with `goal_visible` the target                                           | m    |

    Action (A = 4): displacement of the mocap body that the hand is welded to, 1 is 1 cm; gripper, 1 closes it.

    Reward terms: `reward`, Meta-World's second version, 0 to 10; and where it is asked for `near`, which is `bonus`
    times 1 - tanh(error / threshold): the former is flat where success begins. With `feedback=reward` or `log_reward`
    a policy is fed the former alone. Success: `error()` is at most `threshold` now.

    Task parameters (hidden): `placement` (3, m), where the object or the fixture starts, and, of tasks whose target is
    drawn as well, `goal` (3, m): the package's `rand_vec`.

    Everything is of the present state, as the package calls `mj_forward` after a step. A task states as class
    attributes its scene, where its hand starts, what its variations are drawn from, and the body that they move.

    Raises:
        PackageError: if the package metaworld is not installed, or is of another version.
    """

    name = "metaworld"
    task: ClassVar[str]
    scene: ClassVar[str]
    hand_start: ClassVar[Vector] = (0.0, 0.6, 0.2)
    hand_low: ClassVar[Vector] = (-0.5, 0.4, 0.05)
    low: ClassVar[tuple[float, ...]]
    high: ClassVar[tuple[float, ...]]
    fixture: ClassVar[str | None] = None
    clearance: ClassVar[float] = 0.0  # m from the object to its goal, seen from above, below which it is drawn again
    threshold: ClassVar[float]
    horizon, observation_size, action_size, substeps = 500, 39, 4, 5
    highest_reward = 10.0

    def __init__(
        self,
        num_simulations: int,
        distribution: TaskDistribution,
        seed: int = 0,
        threads: int = 0,
        horizon: int | None = None,
        goal_visible: bool = False,
        bonus: float = 0.0,
    ) -> None:
        super().__init__(load_scene(self.scene), num_simulations, distribution, seed, threads)
        self.horizon = self.horizon if horizon is None else horizon
        self.goal_visible, self.bonus = goal_visible, bonus
        self.mocap = self.simulator.field("mocap_pos")
        self.bounds = torch.tensor([self.hand_low, HIGH], dtype=torch.float64)
        self.seen_bounds = torch.tensor([REACH_LOW, REACH_HIGH], dtype=torch.float64)
        self.gripper = Gripper(self.model)
        self.settled = settle(self.scene, self.hand_start)
        self.present = self.before = torch.zeros(num_simulations, 18, dtype=torch.float64)
        self.bind()

    def bind(self) -> None:
        """Take the constants of the scene that the task works with; called once."""

    @abstractmethod
    def arrange(self, variation: Tensor) -> None:
        """Begin the task at variations (N, 3 or 6) in m, the package's `rand_vec`.

        It sets `target` and `start` (the object's beginning, for rewards), both (N, 3) in m, and changes what the task
        places in `qpos_start` and `qvel_start`, copies of the settled state for each simulation. The fixture, if there
        is one, already stands where the variation says.
        """

    @abstractmethod
    def locate(self) -> tuple[Tensor, Tensor]:
        """The object's position (N, 3) in m and its quaternion (N, 4) as the task observes it."""

    @abstractmethod
    def error(self) -> Tensor:
        """How far the task is from its success, (N,) in m or rad."""

    @abstractmethod
    def reward(self, action: Tensor) -> Tensor:
        """The reward (N,) of the present state after actions (N, 4)."""

    def apply_tasks(self) -> None:
        variation = torch.cat([self.assigned[name] for name in self.distribution.parameters], -1).double()
        count = self.num_simulations
        self.shift = torch.zeros(count, 3, dtype=torch.float64)
        if self.fixture is not None:
            # No constant of the model depends on where a fixture stands.
            body = self.model.body(self.fixture).id
            place = self.standing(variation)
            self.shift = place - torch.from_numpy(self.model.body_pos[body].copy())
            self.simulator.limits("body_pos")[:, body] = place
        self.qpos_start = self.settled.qpos.repeat(count, 1)
        self.qvel_start = self.settled.qvel.repeat(count, 1)
        self.arrange(variation)

    @classmethod
    def too_near(cls, variation: np.ndarray) -> bool:
        """Whether a drawn variation (3 or 6,) is not taken."""
        return cls.clearance > 0 and bool(np.linalg.norm(variation[:2] - variation[3:5]) < cls.clearance)

    def standing(self, variation: Tensor) -> Tensor:
        """Where the fixture stands, (N, 3) in m."""
        return variation[:, -3:]

    def put_object(self, position: Tensor) -> None:
        """Begin with the object at rest at positions (N, 3) in m, turned as it has settled."""
        self.qpos_start[:, OBJECT : OBJECT + 3] = position
        self.qvel_start[:, OBJECT : OBJECT + 6] = 0.0

    def initial_state(self) -> dict[str, Tensor]:
        count = self.num_simulations
        return {
            "qpos": self.qpos_start,
            "qvel": self.qvel_start,
            "ctrl": torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(count, 1),
            "mocap_pos": torch.tensor(self.hand_start, dtype=torch.float64).repeat(count, 1, 1),
            "mocap_quat": torch.tensor(DOWN, dtype=torch.float64).repeat(count, 1, 1),
        }

    def episodes(self) -> dict[str, Tensor]:
        """The running episodes (N, ...) by name, for `go_on` of another batch of the same task."""
        return self.simulator.state() | {"elapsed": self.elapsed.clone(), "before": self.before}

    def go_on(self, mask: Tensor, episodes: Mapping[str, Tensor]) -> Tensor:
        """Go on with `episodes` (N, ...) in the masked simulations (N,); the observation (N, D) of all."""
        state = dict(episodes)
        elapsed, before = state.pop("elapsed"), state.pop("before")
        self.simulator.reset(mask, state)
        self.elapsed = torch.where(mask, elapsed, self.elapsed)
        self.before = torch.where(mask[:, None], before, self.before)
        self.sense()
        return self.observe()

    def control(self, action: Tensor) -> None:
        self.before = self.present
        moved = self.mocap[:, 0] + STEP * action[:, :3].double()
        torch.clamp(moved, *self.bounds, out=self.mocap[:, 0])
        self.ctrl[:, 0], self.ctrl[:, 1] = action[:, 3], -action[:, 3]

    def sense(self) -> None:
        hand, self.tcp, self.pads, self.opening = self.gripper(self.qpos)
        self.hand = torch.clamp(hand, *self.seen_bounds)
        self.position, quaternion = self.locate()
        empty = torch.zeros(self.num_simulations, 7, dtype=torch.float64)
        self.present = torch.cat([self.hand, self.opening[:, None], self.position, quaternion, empty], -1)
        self.missing = self.error()

    def observe(self) -> Tensor:
        before = torch.where(self.elapsed[:, None] == 0, self.present, self.before)
        goal = self.target if self.goal_visible else torch.zeros_like(self.target)
        return torch.cat([self.present, before, goal], -1).float()

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        self.published = self.reward(action).float()
        if not self.bonus:
            return {"reward": self.published}
        near = 1.0 - torch.tanh(self.missing / self.threshold)
        return {"reward": self.published, "near": self.bonus * near.float()}

    def felt(self, reward: Tensor, signal: Callable[[], Tensor]) -> Tensor:
        return super().felt(self.published, signal)

    @property
    def fed_the_reward(self) -> bool:
        return super().fed_the_reward and not self.bonus

    def success(self) -> Tensor:
        return self.missing <= self.threshold

    @property
    def privileged_size(self) -> int:
        return 6

    def privileged(self) -> Tensor:
        """What a critic may see: the target, and where the object started (N, 6)."""
        return torch.cat([self.target, self.start], -1).float()

    def lifted(self, height: float) -> Tensor:
        """Whether the object is more than `height` (m) above its beginning, (N,) bool."""
        return self.position[:, 2] - height > self.start[:, 2]

    def caging(self, across: Tensor, near: float) -> Tensor:
        """Whether the object is in the hand, (N,): between the pads (`across`, along y), and at the tips along x, z.

        Args:
            near: m along x and z that count as there.
        """
        plane = torch.tensor([0, 2])
        margin = distance(self.start[:, plane], self.settled.tcp[plane]) - near
        apart = distance(self.tcp[:, plane], self.position[:, plane])
        return hamacher_product(across, tolerance(apart, 0.0, near, margin))

    def grasping(self, action: Tensor, radius: float, reach: float, near: float, dense: bool = True) -> Tensor:
        """Meta-World's caging reward (N,): the object in the hand, and then the gripper closed.

        Args:
            radius: m of the object.
            reach: m from a pad to the object that count as caged.
            near: see `caging`.
            dense: half of it for caging alone.
        """
        apart = (self.pads - self.position[:, 1:2]).abs()
        margins = ((self.pads - self.start[:, 1:2]).abs() - reach).abs()
        return closed(self.caging(between_pads(apart, radius, reach, margins), near), action, dense)

    def drawn_model(self, simulation: int) -> mujoco.MjModel:
        model = super().drawn_model(simulation)
        if int(model.site("goal").bodyid[0]) == 0:  # where it belongs to a body, it moves with that
            model.site("goal").pos = self.target[simulation].numpy()
        return model


def closed(caging: Tensor, action: Tensor, dense: bool) -> Tensor:
    """The caging reward (N,) from whether something is caged, and how firmly the gripper closes around it."""
    grasp = hamacher_product(caging, torch.where(caging > 0.97, grip(action), 0.0))
    return (grasp + caging) / 2 if dense else grasp


class Gripper:
    """The hand and the gripper's parts, from joint positions."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.hand = Chain(model, "hand")
        claws = [Chain(model, f"{side}claw", root="hand") for side in ("left", "right")]
        self.addresses = torch.cat([claw.addresses for claw in claws])
        # In each claw: its origin, the pad, the fingertip.
        parts = [
            [np.zeros(3), model.body(f"{side}pad").pos, model.site(f"{side}EndEffector").pos]
            for side in ("left", "right")
        ]
        points = torch.from_numpy(np.concatenate([np.array(parts), np.ones((2, 3, 1))], -1)).mT
        ways = [claw.alone(each) for claw, each in zip(claws, points, strict=True)]
        self.fixed, self.moving = (torch.stack(each) for each in zip(*ways, strict=True))  # (2, 4, 3)

    def __call__(self, qpos: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hand (N, 3), middle of the fingertips (N, 3), y of left and right pad (N, 2), in m; opening (N,)."""
        hand = self.hand(qpos)
        in_hand = self.fixed + qpos[:, self.addresses, None, None] * self.moving
        points = hand[:, None] @ in_hand  # (N, 2, 4, 3): left and right; coordinates; parts
        claw, pad, tip = points[..., :3, :].unbind(-1)
        opening = distance(claw[:, 0], claw[:, 1]) / OPEN
        return hand[:, :3, 3], tip.mean(1), pad[..., 1], opening.clamp(0.0, 1.0)


@functools.cache
def settle(scene: str, hand_start: Vector) -> Settled:
    """Let the hand come to where an episode starts.

    Variations move fixtures, which the hand does not touch then, so it is the same for all of them.
    """
    model = physics_model(load_scene(scene))
    data = mujoco.MjData(model)
    data.mocap_pos[:], data.mocap_quat[:], data.ctrl[:] = hand_start, DOWN, (-1.0, 1.0)
    mujoco.mj_step(model, data, SETTLING - 1)
    before = torch.from_numpy(data.qpos.copy())
    mujoco.mj_step(model, data)
    _, tcp, _, _ = Gripper(model)(before[None])
    return Settled(torch.from_numpy(data.qpos.copy()), torch.from_numpy(data.qvel.copy()), tcp[0], before)
