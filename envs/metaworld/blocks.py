"""Meta-World's tasks with a loose object, and reach: rewards and successes from their definitions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from envs.metaworld.kinematics import rigid, rotated, scalar_last
from envs.metaworld.sawyer import OBJECT, SawyerTask, closed
from envs.metaworld.shaping import between_pads, distance, hamacher_product, rect_prism_tolerance, tolerance

RADIUS = 0.05  # m around a target that count as there, for most rewards
HOLE = (0.0, 0.84, 0.02)  # m, in the table


class BlockTask(SawyerTask):
    """A task whose object is a free body, observed with its quaternion in the order x y z w."""

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.qpos[:, OBJECT : OBJECT + 3], scalar_last(self.turned())

    def turned(self) -> Tensor:
        """The object's unit quaternion (N, 4), w x y z."""
        return torch.nn.functional.normalize(self.qpos[:, OBJECT + 3 : OBJECT + 7], dim=-1)

    def rest_height(self) -> Tensor:
        """Height of the settled object, (1,) in m."""
        return self.settled.before[OBJECT + 2 : OBJECT + 3]

    def error(self) -> Tensor:
        return distance(self.position, self.target)

    def in_place(self) -> Tensor:
        """How near the object is to the target, (N,) from 0 to 1."""
        return tolerance(self.missing, 0.0, RADIUS, distance(self.start, self.target))

    def held(self, near: float, height: float = 0.01) -> Tensor:
        """Whether the object is within `near` (m) of the fingertips and lifted by `height` (m), (N,) bool."""
        return (distance(self.position, self.tcp) < near) & (self.opening > 0) & self.lifted(height)


class Reach(BlockTask):
    """Bring the fingertips to a point in the air; the puck does not matter."""

    task, scene, threshold = "reach", "reach_v3", 0.05
    success_criterion = "fingertips within 5 cm of the target"
    clearance = 0.15
    low, high = (-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3)

    def arrange(self, variation: Tensor) -> None:
        self.start, self.target = variation[:, :3], variation[:, 3:]
        self.put_object(self.start)

    def error(self) -> Tensor:
        return distance(self.tcp, self.target)

    def reward(self, action: Tensor) -> Tensor:
        margin = distance(torch.tensor(self.hand_start, dtype=torch.float64), self.target)
        return 10.0 * tolerance(self.missing, 0.0, RADIUS, margin)


class Push(BlockTask):
    """Push a puck over the table to a target."""

    task, scene, threshold = "push", "push_v3", 0.05
    success_criterion = "puck within 5 cm of the target"
    clearance = 0.15
    low, high = (-0.1, 0.6, 0.02, -0.1, 0.8, 0.01), (0.1, 0.7, 0.02, 0.1, 0.9, 0.02)

    def arrange(self, variation: Tensor) -> None:
        height = self.rest_height().expand(len(variation), 1)
        self.start = torch.cat([variation[:, :2], height], -1)
        self.target = torch.cat([variation[:, 3:5], height], -1)
        self.put_object(self.start)

    def reward(self, action: Tensor) -> Tensor:
        grasp = 2.0 * self.grasping(action, radius=0.015, reach=0.05, near=0.005)
        touching = (distance(self.position, self.tcp) < 0.02) & (self.opening > 0)
        reward = grasp + torch.where(touching, 1.0 + grasp + 5.0 * self.in_place(), 0.0)
        return torch.where(self.missing < RADIUS, 10.0, reward)


class PickPlace(BlockTask):
    """Lift a puck to a target in the air."""

    task, scene, threshold = "pick-place", "pick_place_v3", 0.07
    success_criterion = "puck within 7 cm of the target"
    clearance = 0.15
    low, high = Reach.low, Reach.high

    def arrange(self, variation: Tensor) -> None:
        self.start, self.target = variation[:, :3], variation[:, 3:]
        self.put_object(self.start)

    def reward(self, action: Tensor) -> Tensor:
        sides, margins = sides_of(self)
        across = between_pads(sides, 0.015, 0.05, margins)
        in_place = self.in_place()
        reward = hamacher_product(closed(self.caging(across, near=0.005), action, dense=True), in_place)
        reward = reward + torch.where(self.held(near=0.02), 1.0 + 5.0 * in_place, 0.0)
        return torch.where(self.missing < RADIUS, 10.0, reward)


class Sweep(BlockTask):
    """Sweep a cube off the table."""

    task, scene, threshold = "sweep", "sweep_v3", 0.05
    success_criterion = "cube within 5 cm of the target"
    low, high = (-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)
    near, slack = 0.005, 0.01

    def arrange(self, variation: Tensor) -> None:
        self.start = torch.cat([variation[:, :2], torch.full_like(variation[:, :1], 0.02)], -1)
        self.target = torch.tensor([0.5, 0.65, 0.01], dtype=torch.float64).repeat(len(variation), 1)
        self.target[:, 1] = variation[:, 1]
        self.put_object(self.start)

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.qpos[:, OBJECT : OBJECT + 3], self.turned()

    def reward(self, action: Tensor) -> Tensor:
        sides, margins = sides_of(self)
        caged = self.caging(between_pads(sides, 0.02, 0.05, margins), self.near)
        gripped = torch.where(caged > 0.95, between_pads(sides, 0.02, 0.02 + self.slack, margins), 0.0)
        grasp = (caged + gripped) / 2.0
        reward = 2.0 * grasp + 6.0 * hamacher_product(grasp, self.in_place())
        return torch.where(self.missing < RADIUS, 10.0, reward)


class SweepInto(Sweep):
    """Sweep a cube into a hole in the table."""

    task, scene, threshold = "sweep-into", "table_with_hole", 0.05
    success_criterion = "cube within 5 cm of the hole's centre, seen from above"
    low = (-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199)
    high = (0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201)
    near, slack = 0.01, 0.005
    locate = BlockTask.locate

    @classmethod
    def too_near(cls, variation: np.ndarray) -> bool:
        return bool(np.linalg.norm(variation[:2] - HOLE[:2]) < 0.15)

    def arrange(self, variation: Tensor) -> None:
        self.start = torch.cat([variation[:, :2], self.rest_height().expand(len(variation), 1)], -1)
        self.target = torch.tensor(HOLE, dtype=torch.float64).repeat(len(variation), 1)
        self.put_object(self.start)

    def error(self) -> Tensor:
        return distance(self.position[:, :2], self.target[:, :2])

    def in_place(self) -> Tensor:
        below = torch.cat([self.target[:, :2], self.position[:, 2:]], -1)
        return tolerance(self.missing, 0.0, RADIUS, distance(self.start, below))


class ShelfPlace(BlockTask):
    """Put a cube on the shelf's second board."""

    task, scene, threshold, fixture = "shelf-place", "shelf_placing", 0.07, "shelf"
    success_criterion = "cube within 7 cm of the target on the shelf"
    clearance = 0.1
    low, high = (-0.1, 0.5, 0.019, -0.1, 0.8, 0.299), (0.1, 0.6, 0.021, 0.1, 0.9, 0.301)

    def standing(self, variation: Tensor) -> Tensor:
        return variation[:, 3:] - torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)

    def arrange(self, variation: Tensor) -> None:
        self.start = torch.cat([variation[:, :2], self.rest_height().expand(len(variation), 1)], -1)
        self.target = variation[:, 3:]
        self.put_object(self.start)

    def reward(self, action: Tensor) -> Tensor:
        in_place = self.in_place()
        grasp = self.grasping(action, radius=0.02, reach=0.05, near=0.01, dense=False)
        reward = hamacher_product(grasp, in_place)
        x, y, z = self.position.unbind(-1)
        left, front, _ = (self.target - torch.tensor([0.15, 3 * RADIUS, 0.0], dtype=torch.float64)).unbind(-1)
        # Below the board it counts less, the more so the further in; behind the target it does not count.
        below = (z > 0.0) & (z < 0.24) & (x > left) & (x < self.target[:, 0] + 0.15)
        inside = below & (y > front) & (y < self.target[:, 1])
        depth = ((y - front) / (3 * RADIUS)).clamp(0.0, 1.0)
        loss = hamacher_product(depth, ((0.24 - z) / 0.24).clamp(0.0, 1.0))
        in_place = torch.where(inside, (in_place - loss).clamp(0.0, 1.0), in_place)
        in_place = torch.where(below & (y > self.target[:, 1]), 0.0, in_place)
        reward = reward + torch.where(self.held(near=0.025), 1.0 + 5.0 * in_place, 0.0)
        return torch.where(self.missing < RADIUS, 10.0, reward)


class Basketball(BlockTask):
    """Drop a ball into a hoop."""

    task, scene, threshold, fixture = "basketball", "basketball", 0.08, "basket_goal"
    success_criterion = "ball within 8 cm of a point 30 cm high above the hoop, heights counting twice"
    clearance = 0.15
    low, high = (-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0), (0.1, 0.7, 0.0301, 0.1, 0.9 + 1e-7, 0.0)

    def arrange(self, variation: Tensor) -> None:
        self.start = torch.cat([variation[:, :2], torch.full_like(variation[:, :1], 0.03)], -1)
        self.target = variation[:, 3:] + torch.tensor([0.0, -0.083, 0.25], dtype=torch.float64)
        self.put_object(self.start)

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.qpos[:, OBJECT : OBJECT + 3], self.turned()

    def above_hoop(self, point: Tensor) -> Tensor:
        """Distance (N,) from points (N, 3) to where the ball should be, heights counting twice."""
        goal = torch.cat([self.target[:, :2], torch.full_like(self.target[:, :1], 0.3)], -1)
        scale = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
        return distance(point * scale, goal * scale)

    def error(self) -> Tensor:
        return self.above_hoop(self.position)

    def reward(self, action: Tensor) -> Tensor:
        in_place = tolerance(self.missing, 0.0, self.threshold, self.above_hoop(self.start))
        held = self.held(near=0.035)
        grasp = torch.where(held, 1.0, self.grasping(action, radius=0.025, reach=0.06, near=0.005))
        reward = hamacher_product(grasp, in_place) + torch.where(held, 1.0 + 5.0 * in_place, 0.0)
        return torch.where(self.missing < self.threshold, 10.0, reward)


class PegInsertSide(BlockTask):
    """Lift a peg and push it sideways into the hole of a box."""

    task, scene, threshold, fixture = "peg-insert-side", "peg_insertion_side", 0.07, "box"
    success_criterion = "the peg's head within 7 cm of the hole, y and z counting twice"
    clearance = 0.1
    low, high = (0.0, 0.5, 0.02, -0.35, 0.4, -0.001), (0.2, 0.7, 0.02, -0.25, 0.7, 0.001)

    def bind(self) -> None:
        self.grasp_at, self.head_at = (
            torch.from_numpy(self.model.site(name).pos.copy()) for name in ("pegGrasp", "pegHead")
        )
        box = self.model.body("box")
        pose = rigid(box.pos, box.quat)
        corners = [
            self.model.site(f"{corner}_corner_collision_box_{index}").pos
            for index in (1, 2)
            for corner in ("bottom_right", "top_left")
        ]
        self.corners = torch.stack([torch.from_numpy(pose[:3, :3] @ corner + pose[:3, 3]) for corner in corners])

    def arrange(self, variation: Tensor) -> None:
        self.start = variation[:, :3]
        self.target = variation[:, 3:] + torch.tensor([0.03, 0.0, 0.13], dtype=torch.float64)
        self.put_object(self.start)
        peg = self.settled.before[OBJECT : OBJECT + 7]
        self.head_start = peg[:3] + rotated(peg[3:], self.head_at)

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.on_peg(self.grasp_at), scalar_last(self.turned())

    def on_peg(self, point: Tensor) -> Tensor:
        """Where a point (3,) in the peg's frame is, (N, 3) in m."""
        return self.qpos[:, OBJECT : OBJECT + 3] + rotated(self.turned(), point)

    def to_hole(self, head: Tensor) -> Tensor:
        """Distance (N,) from the peg's head (N, 3) to the hole, y and z counting twice."""
        return distance(head * SCALE, self.target * SCALE)

    def error(self) -> Tensor:
        self.head = self.on_peg(self.head_at)
        return self.to_hole(self.head)

    def reward(self, action: Tensor) -> Tensor:
        in_place = tolerance(self.missing, 0.0, self.threshold, self.to_hole(self.head_start))
        zero1, one1, zero2, one2 = (self.corners + self.shift[:, None]).unbind(1)
        # Two boxes before the entrance, in which the head must not be.
        free = [rect_prism_tolerance(self.head, zero, one) for zero, one in ((zero2, one2), (zero1, one1))]
        in_place = hamacher_product(in_place, hamacher_product(*free))
        held = self.held(near=0.08)
        grasp = torch.where(held, 1.0, self.grasping(action, radius=0.0075, reach=0.03, near=0.005))
        reward = hamacher_product(grasp, in_place) + torch.where(held, 1.0 + 5.0 * in_place, 0.0)
        return torch.where(self.missing <= self.threshold, 10.0, reward)


SCALE = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)  # of distances to the peg's hole


def sides_of(task: SawyerTask) -> tuple[Tensor, Tensor]:
    """How far the left pad is beside the object, and the object beside the right one, (N, 2) in m, with margins.

    The margins are measured from the pads as they are now. The package means those at the beginning of the episode, but
    keeps a view of the engine's memory.
    """
    sides = (task.pads - task.position[:, 1:2]) * torch.tensor([1.0, -1.0], dtype=torch.float64)
    return sides, (sides.abs() - 0.05).abs()
