"""Meta-World's tasks with doors, drawers, buttons, windows and levers: rewards and successes from their definitions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from envs.core.models import PictureModel
from envs.metaworld.kinematics import Chain, quaternion_of, rigid, scalar_last
from envs.metaworld.sawyer import OBJECT, SawyerTask
from envs.metaworld.shaping import distance, grip, hamacher_product, tolerance

JOINT = OBJECT  # of the fixture, in qpos
# How MuJoCo 3.3.0 turns the mesh of the lever's knob, w x y z. It is nearly round, and today's engine finds other axes.
KNOB = (0.662500038723, 0.662500038723, -0.247171395376, 0.247171395376)


class FixtureTask(SawyerTask):
    """A task with a joint to move; its fixture stands at `placement`."""

    moving: str  # the body that the joint moves

    def bind(self) -> None:
        self.chain = Chain(self.model, self.moving)

    def put_joint(self, value: float) -> None:
        """Begin with the fixture's joint at rest at a value in m or rad."""
        self.qpos_start[:, JOINT] = value
        self.qvel_start[:, JOINT] = 0.0

    def at(self, point: Tensor, qpos: Tensor | None = None) -> Tensor:
        """Where a point (3,) of the moving body is, (N, 3) in m, with joint positions (1 or N, nq); None: now."""
        pose = self.chain(self.qpos if qpos is None else qpos)
        return pose[:, :3, :3] @ point + pose[:, :3, 3] + self.shift

    def turned(self, inside: Tensor) -> Tensor:
        """The quaternion (N, 4), x y z w, of what is turned by a matrix (3, 3) in the moving body."""
        return scalar_last(quaternion_of(self.chain(self.qpos)[:, :3, :3] @ inside))

    def to_body(self, vector: tuple[float, float, float]) -> Tensor:
        """A position (N, 3) in m, given from the fixture."""
        return self.placement + torch.tensor(vector, dtype=torch.float64)

    def arrange(self, variation: Tensor) -> None:
        self.placement = self.start = variation


class Door(FixtureTask):
    """A safe's door on a hinge, with a handle; its quaternion is in the order x y z w."""

    scene, fixture, moving = "door_pull", "door", "door_link"
    low, high = (0.0, 0.85, 0.15), (0.1, 0.95, 0.15)

    def bind(self) -> None:
        super().bind()
        handle = PictureModel(self.spec).model.geom("handle")  # it is only drawn, so the physics has it not
        pose = torch.from_numpy(rigid(handle.pos, handle.quat))
        self.handle_at, self.handle_turn = pose[:3, 3], pose[:3, :3]

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.at(self.handle_at), self.turned(self.handle_turn)


class DoorOpen(Door):
    """Pull a door open."""

    task, threshold = "door-open", 0.08
    success_criterion = "handle within 8 cm of the open position along x"

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.target = self.to_body((-0.3, -0.45, 0.0))
        self.put_joint(0.0)

    def error(self) -> Tensor:
        return (self.position[:, 0] - self.target[:, 0]).abs()

    def reward(self, action: Tensor) -> Tensor:
        door = self.position - torch.tensor([0.05, 0.0, 0.0], dtype=torch.float64)
        # The hand comes from above: the floor under it is a funnel around the handle.
        beyond = distance(self.hand[:, :2], door[:, :2]) - 0.12
        floor = torch.where(beyond > 0, 0.04 * beyond.clamp(min=1e-12).log() + 0.4, 0.0)
        above = torch.where(
            self.hand[:, 2] >= floor, 1.0, tolerance(floor - self.hand[:, 2], 0.0, 0.01, margin=floor / 2.0)
        )
        beside = door + torch.tensor([0.05, 0.03, -0.01], dtype=torch.float64)
        ready = hamacher_product(above, tolerance(distance(self.hand, beside), 0.0, 0.06, margin=0.5))
        angle = self.qpos[:, JOINT]
        wide = tolerance(math.pi / 2 + math.pi / 6 + angle, 0.0, 0.5, margin=math.pi / 3)
        opened = 0.2 * (angle < -math.pi / 90).double() + 0.8 * wide
        effort = (action[:, 3].double() + 1.0) / 2.0
        reward = 2.0 * hamacher_product(ready, effort) + 8.0 * opened
        return torch.where(self.missing <= self.threshold, 10.0, reward)


class DoorClose(Door):
    """Push an open door closed."""

    task, threshold, hand_start = "door-close", 0.08, (-0.5, 0.6, 0.2)
    success_criterion = "handle within 8 cm of the closed position"

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.target = self.to_body((0.2, -0.2, 0.0))
        self.put_joint(-1.5708)

    def error(self) -> Tensor:
        return distance(self.position, self.target)

    def reward(self, action: Tensor) -> Tensor:
        in_place = tolerance(self.missing, 0.0, 0.05, distance(self.start, self.target), gaussian=True)
        margin = distance(torch.tensor(self.hand_start, dtype=torch.float64), self.position) + 0.1
        hand = tolerance(distance(self.tcp, self.target), 0.0, 0.0125, margin, gaussian=True)
        return torch.where(self.missing < 0.05, 10.0, 3.0 * hand + 6.0 * in_place)


class DrawerOpen(FixtureTask):
    """Pull a drawer open by its handle."""

    task, threshold = "drawer-open", 0.03
    scene, fixture, moving = "drawer", "drawer", "drawer_link"
    success_criterion = "handle within 3 cm of the open position"
    low, high = (-0.1, 0.9, 0.0), (0.1, 0.9, 0.0)
    length = 0.2  # m to pull

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.target = self.to_body((0.0, -0.16 - self.length, 0.09))

    def locate(self) -> tuple[Tensor, Tensor]:
        upright = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).repeat(self.num_simulations, 1)
        return self.at(torch.tensor([0.0, -0.16, 0.0], dtype=torch.float64)), upright

    def error(self) -> Tensor:
        return distance(self.position, self.target)

    def reward(self, action: Tensor) -> Tensor:
        opened = tolerance(self.missing, 0.0, 0.02, margin=self.length)
        scale = torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64)
        handle = self.target + torch.tensor([0.0, self.length, 0.0], dtype=torch.float64)
        margin = distance(handle * scale, self.settled.tcp * scale)
        caged = tolerance(distance(self.position * scale, self.hand * scale), 0.0, 0.01, margin)
        return 5.0 * (caged + opened)


class DrawerClose(FixtureTask):
    """Push an open drawer closed."""

    task, threshold = "drawer-close", 0.065
    scene, fixture, moving = "drawer", "drawer", "drawer_link"
    success_criterion = "handle within 6.5 cm of the closed position"
    low, high = DrawerOpen.low, DrawerOpen.high
    length = 0.15  # m that it stands open

    def bind(self) -> None:
        super().bind()
        self.handle_at = torch.tensor([0.0, -0.16, 0.05], dtype=torch.float64)

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.target = self.to_body((0.0, -0.16, 0.09))
        self.qpos_start[:, JOINT] = -self.length
        self.start = self.at(self.handle_at, self.qpos_start)

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.at(self.handle_at), torch.zeros(self.num_simulations, 4, dtype=torch.float64)

    def error(self) -> Tensor:
        return distance(self.position, self.target)

    def reward(self, action: Tensor) -> Tensor:
        margin = (distance(self.start, self.target) - 0.05).abs()
        in_place = tolerance(self.missing, 0.0, 0.05, margin)
        margin = (distance(self.start, self.settled.tcp) - 0.005).abs()
        reach = tolerance(distance(self.position, self.tcp), 0.0, 0.005, margin, gaussian=True)
        reward = hamacher_product(hamacher_product(reach, grip(action)), in_place)
        return 10.0 * torch.where(self.missing <= self.threshold, 1.0, reward)


class ButtonPressTopdown(FixtureTask):
    """Press a button from above."""

    task, threshold, hand_start = "button-press-topdown", 0.024, (0.0, 0.4, 0.2)
    scene, fixture, moving = "button_press_topdown", "box", "button"
    success_criterion = "button within 2.4 cm of the pressed height"
    low, high = (-0.1, 0.8, 0.115), (0.1, 0.9, 0.115)

    def bind(self) -> None:
        super().bind()
        box = self.model.body("box")
        self.box_turn = torch.from_numpy(box.quat.copy())
        turn = rigid(box.pos, box.quat)[:3, :3]
        self.hole, self.top = (torch.from_numpy(turn @ self.model.site(name).pos) for name in ("hole", "buttonStart"))
        self.travel = float((self.hole - self.top)[2].abs())

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.target = variation + self.hole

    def locate(self) -> tuple[Tensor, Tensor]:
        above = torch.tensor([0.0, 0.0, 0.193], dtype=torch.float64)
        return self.at(torch.zeros(3, dtype=torch.float64)) + above, self.box_turn.repeat(self.num_simulations, 1)

    def error(self) -> Tensor:
        return (self.target[:, 2] - self.position[:, 2]).abs()

    def reward(self, action: Tensor) -> Tensor:
        apart = distance(self.position, self.tcp)
        near = tolerance(apart, 0.0, 0.01, distance(self.position, self.settled.tcp))
        pressed = tolerance(self.missing, 0.0, 0.005, margin=self.travel)
        return 5.0 * hamacher_product(1.0 - self.opening, near) + torch.where(apart <= 0.03, 5.0 * pressed, 0.0)


class WindowOpen(FixtureTask):
    """Slide a window open by its handle."""

    task, threshold, hand_start = "window-open", 0.05, (0.0, 0.4, 0.2)
    scene, fixture, moving = "window_horizontal", "window", "windowb_a"
    success_criterion = "handle within 5 cm of the open position along x"
    low, high = (-0.1, 0.7, 0.16), (0.1, 0.9, 0.16)

    def bind(self) -> None:
        super().bind()
        self.handle_at = torch.from_numpy(self.model.site("handleOpenStart").pos.copy())

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.target = self.to_body((0.2, 0.0, 0.0))
        self.handle_start = self.at(self.handle_at, self.settled.before[None])
        self.qpos_start[:, JOINT] = 0.0

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.at(self.handle_at), torch.zeros(self.num_simulations, 4, dtype=torch.float64)

    def error(self) -> Tensor:
        return (self.position[:, 0] - self.target[:, 0]).abs()

    def reward(self, action: Tensor) -> Tensor:
        margin = ((self.start[:, 0] - self.target[:, 0]).abs() - 0.05).abs()
        in_place = tolerance(self.missing, 0.0, 0.05, margin)
        margin = (distance(self.handle_start, self.settled.tcp) - 0.02).abs()
        reach = tolerance(distance(self.position, self.tcp), 0.0, 0.02, margin)
        return 10.0 * hamacher_product(reach, in_place)


class LeverPull(FixtureTask):
    """Pull a lever up until it is upright."""

    task, threshold, hand_start = "lever-pull", math.pi / 24, (0.0, 0.4, 0.2)
    hand_low = (-0.5, 0.4, -0.15)
    scene, fixture, moving = "lever_pull", "lever", "lever_link1"
    success_criterion = "lever within 7.5 degrees of upright"
    low, high = (-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)
    length = 0.2  # m

    def bind(self) -> None:
        super().bind()
        self.end_at = torch.from_numpy(self.model.site("leverStart").pos.copy())
        self.knob_turn = torch.from_numpy(rigid(np.zeros(3), np.array(KNOB))[:3, :3])

    def arrange(self, variation: Tensor) -> None:
        super().arrange(variation)
        self.lever_start = self.to_body((0.12, -self.length, 0.25))
        self.target = self.to_body((0.12, 0.0, 0.25 + self.length))

    def locate(self) -> tuple[Tensor, Tensor]:
        return self.at(self.end_at), self.turned(self.knob_turn)

    def error(self) -> Tensor:
        return (-self.qpos[:, JOINT] - math.pi / 2).abs()

    def reward(self, action: Tensor) -> Tensor:
        # The arm's shoulder below the lever, not the fingers; y counts less.
        scale = torch.tensor([4.0, 1.0, 4.0], dtype=torch.float64)
        offset = torch.tensor([0.0, 0.055, 0.07], dtype=torch.float64)
        margin = distance((self.settled.tcp + offset) * scale, self.lever_start * scale)
        ready = tolerance(distance((self.hand + offset) * scale, self.position * scale), 0.0, 0.02, margin)
        in_place = tolerance(distance(self.position, self.target), 0.0, 0.04, distance(self.lever_start, self.target))
        return 10.0 * hamacher_product(ready, in_place)
