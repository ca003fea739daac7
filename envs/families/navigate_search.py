"""Navigate_search: find a dock that is recognised only from near by, and next time drive straight there."""

from __future__ import annotations

from functools import partial

import mujoco
import torch
from torch import Tensor

from envs.core.tasks import Range, TaskDistribution
from envs.families.navigate import GOAL_CLEARANCE, UPRIGHT, Navigate

RECOGNISED = 0.8  # m, and neither an obstacle nor the wall in between
PLACES = 16  # along each axis of the docks' region, to tell how much of it has been searched
DOOR, EAST, HALF_HEIGHT, HALF_WIDTH = -1.3, 2.4, 0.12, 0.05  # m: where the wall between the rooms begins and ends


class NavigateSearch(Navigate):
    """Navigate, where nothing but a camera tells of the goal, a dock, in one of two rooms; horizon 70 (7 s).

    Nothing but what follows differs from `Navigate`: neither the robot and its actions, nor the other task parameters
    and the success. A wall at y = 0 divides the arena, but for its west end (x < -1.3 m), where the robot starts. The
    horizon is enough to drive straight to any dock, or to search hardly more than one of the rooms.

    The camera looks all around, from the lidar's place. It recognises the dock's marker within 80 cm, unless an
    obstacle or the wall stands in between, and says where it is from the robot.

    Observation (D = 43, with `goal_visible` 45; float32):

    | index | meaning                                                               | unit  | source     |
    |-------|-----------------------------------------------------------------------|-------|------------|
    | 0-39  | as in `Navigate`                                                      |       |            |
    | 40-41 | the dock ahead of the robot and to its left; 0 while not recognised   | m     | qpos, task |
    | 42    | 1 while the dock is recognised, else 0                                | 1     | ray casting|
    | 43-44 | goal, only with `goal_visible` (an oracle)                            | m     | task       |

    Reward terms are those of `Navigate` without `beacon`; `closing` = -dm/dt, m the least distance of the episode so
    far; `search` = 30 times the share of the docks' region that comes within 80 cm, on the robot's side of the wall,
    for the first time in the trial, as long as the dock has not been recognised in it. Paid by the distance, one who
    does not know where the dock is stays in between; here one who looks in vain loses nothing. The share newly seen is
    about how likely the dock was found there.
    Where nobody says that a trial begins (`begin_trial`), it lasts until the dock is elsewhere.

    Feedback (sparse, unless set otherwise): 1 while d < 30 cm, less 1 in a control step in which the bumper touches
    anything.

    Task parameters (hidden): those of `Navigate`. Where a `goal` is nearer than 35 cm to the middle of the wall, which
    for this counts as 35 cm longer, the dock stands 35 cm from it, on the same side. The lidar tells a little of the
    dock, as no obstacle stands within 35 cm of it. ood: more obstacles, flat ones, one motor much weaker than the
    other; the docks' region is the same.

    Docks are held out in blocks of 50 x 76 cm, so that no test dock is further than 38 cm from where one may be trained
    on, and those at the wall, moved, hardly more than 3 cm: what is new of a task is which dock it has, not that place.
    """

    name = "navigate_search"
    feedback = "sparse"
    paid_once = True
    horizon, observation_size = 70, Navigate.observation_size + 3
    edition = 2  # the wall, and how near to it docks stand, were chosen on the first two

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = super().build_spec(distribution)
        half = 0.5 * (EAST - DOOR)
        wall = {"type": mujoco.mjtGeom.mjGEOM_BOX, "size": [half, HALF_WIDTH, HALF_HEIGHT]}
        for name, kind in (("wall_between", "wall"), ("barrier_between", "barrier")):  # what is drawn, and what is felt
            spec.worldbody.add_geom(spec.find_default(kind), name=name, pos=[DOOR + half, 0.0, HALF_HEIGHT], **wall)
        disc = {"type": mujoco.mjtGeom.mjGEOM_CYLINDER, "size": [RECOGNISED, 0.002, 0.0], "pos": [0.0, 0.0, 0.005]}
        spec.body("goal").add_geom(spec.find_default("shown"), name="recognised", rgba=[0.15, 0.8, 0.3, 0.15], **disc)
        return spec

    def bind(self) -> None:
        super().bind()
        self.nearest = torch.zeros(self.num_simulations)
        goals = self.distribution.parameters["goal"]
        assert isinstance(goals, Range)
        self.places = torch.cartesian_prod(*map(partial(torch.linspace, steps=PLACES), goals.low, goals.high))
        self.goal = torch.full((self.num_simulations, 2), torch.nan)
        self.begin_trial()

    def begin_trial(self) -> None:
        self.searched, self.near = torch.zeros(2, self.num_simulations, len(self.places), dtype=torch.bool)
        self.found, self.recognised = torch.zeros(2, self.num_simulations, dtype=torch.bool)

    def apply_tasks(self) -> None:
        before = self.goal
        super().apply_tasks()
        moved = (self.goal != before).any(-1)  # others may get a task while an episode runs here
        for memory in (self.searched, self.near, self.found, self.recognised):
            memory[moved] = False
        self.nearest[moved] = torch.inf

    def placed(self, goal: Tensor) -> Tensor:
        x, y = goal.unbind(-1)
        clear = torch.where(y < 0.0, -1.0, 1.0) * y.abs().clamp(min=GOAL_CLEARANCE)
        return torch.stack([x, torch.where(x > DOOR - GOAL_CLEARANCE, clear, y)], -1)

    def control(self, action: Tensor) -> None:
        super().control(action)
        self.nearest_before = self.nearest
        self._remember()

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self._remember()

    def _remember(self) -> None:
        """Of the last state."""
        self.searched |= self.near
        self.found |= self.recognised

    def sense(self) -> None:
        super().sense()
        here = self.qpos[:, :2].float()
        same_room = here[:, 1:] * self.places[:, 1] >= 0.0  # nothing across the wall is near enough to see past its end
        self.near = same_room & (torch.cdist(here, self.places) < RECOGNISED)
        self.nearest = torch.where(self.elapsed == 0, self.distance, torch.minimum(self.nearest, self.distance))
        # The millimetre upwards gives the ray a length on the dock, too.
        towards = torch.nn.functional.pad(self.goal - self.qpos[:, :2], (0, 1), value=1e-3)[:, None]
        nearest = self.simulator.rays(self.origin[:, :1].contiguous(), towards, group=UPRIGHT)[:, 0]
        self.recognised = (self.distance < RECOGNISED) & (nearest > 1.0)  # in lengths of the way to the dock
        # Conjugating the heading turns the world's frame into the robot's.
        way, heading = (torch.view_as_complex(vector.contiguous()) for vector in (towards[:, 0, :2], self.heading))
        self.dock = torch.view_as_real(way * heading.conj()) * self.recognised[:, None]

    def seen(self) -> list[Tensor]:
        return [*super().seen(), self.dock, self.recognised[:, None]]

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        terms = super().reward_terms(action)
        del terms["beacon"]
        fresh = (self.near & ~self.searched).float().mean(-1) * ~self.found
        return terms | {
            "closing": (self.nearest_before - self.nearest) / self.control_period,
            "search": 30.0 * fresh,
        }
