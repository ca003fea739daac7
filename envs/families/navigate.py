"""Navigate: drive a two-wheeled robot among obstacles to a goal that is felt only through a beacon in the reward."""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor

from envs.core.environment import ASSETS
from envs.core.models import load_spec
from envs.core.tasks import Categories, Range, TaskDistribution, Tasks
from envs.families.family import MujocoFamily

OBSTACLES = 16  # geoms in the model
GAP = 0.5  # m, free between any two obstacles
GOAL_CLEARANCE = 0.35  # m, free between the goal and any obstacle
ROBOT_RADIUS, WHEEL_RADIUS, TRACK = 0.16, 0.05, 0.24  # m, as in the MJCF
SPEED, TURN = 0.8, 2.5  # m/s and rad/s at action 1
RAYS, MAX_RANGE, LIDAR_HEIGHT = 32, 2.0, 0.165  # the height of the lidar is above the wheels, m
START_X, PARKED = -1.9, -3.0  # m: the robot's x; the height of obstacles that do not stand
WZXY = torch.tensor([3, 6, 4, 5])  # columns of qpos: the robot's orientation
UPRIGHT, HIDDEN = 3, 5  # geom groups: what the lidar sees, and obstacles that do not stand
SUCCESS_DISTANCE = 0.3  # m
DIAGONAL = 6.8  # m, of the arena: the largest distance in it
KEEP_CLEAR = 0.12  # m between bumper and obstacle
GOALS = Range((-0.6, -1.9), (1.9, 1.9), unit="m", within=(-2.4, 2.4), semantic=True)

# Geom type, and its size as radius * first + second; all of it lies within the radius. The first two are trained on.
SHAPES = {
    "cylinder": (int(mujoco.mjtGeom.mjGEOM_CYLINDER), (1.0, 0.0, 0.0), (0.0, 0.15, 0.0)),
    "box": (int(mujoco.mjtGeom.mjGEOM_BOX), (0.7, 0.7, 0.0), (0.0, 0.0, 0.15)),
    "ellipsoid": (int(mujoco.mjtGeom.mjGEOM_ELLIPSOID), (1.0, 0.5, 0.0), (0.0, 0.0, 0.4)),
    "slab": (int(mujoco.mjtGeom.mjGEOM_BOX), (0.95, 0.3, 0.0), (0.0, 0.0, 0.15)),
}


class Navigate(MujocoFamily):
    """A differential-drive robot with a planar lidar drives to a hidden goal at 10 Hz; horizon 100 (10 s).

    The arena is 4.8 m square with walls; the robot starts at its west side, within 30 cm of the middle, heading
    east within 0.5 rad.

    Observation (D = 40, with `goal_visible` 42; float32):

    | index | meaning                                                               | unit  | source     |
    |-------|-----------------------------------------------------------------------|-------|------------|
    | 0-31  | lidar ranges counterclockwise from straight ahead, at most 1          | 2 m   | ray casting|
    | 32-33 | position                                                              | m     | qpos       |
    | 34-35 | cosine and sine of the heading                                        | 1     | qpos       |
    | 36    | forward speed                                                         | m/s   | qvel       |
    | 37    | turning speed                                                         | rad/s | qvel       |
    | 38-39 | rim speeds of the left and right wheel                                | m/s   | qvel       |
    | 40-41 | goal, only with `goal_visible` (an oracle)                            | m     | task       |

    The position is the true one, since slip would carry wheel odometry away. The beacon depends on the position: a
    robot that does not know where it is cannot learn from the beacon where the goal is.

    Action (A = 2): forward speed, 1 is 0.8 m/s; turning speed, 1 is 2.5 rad/s to the left. Each wheel's servo is
    commanded the rim speed that follows, and gives `motor_gain` times that.

    Reward terms, with d from robot to goal in m and c from bumper to the nearest lidar echo in m:
    `beacon` = -0.1 d, `closing` = -dd/dt in m/s (summed over an episode, ten times the way gained), `arrival` =
    1 - tanh(3 d) until the bumper has touched anything, as the episode cannot succeed after that, `collision` = -1 in
    a control step in which it touches anything, `proximity` = -0.5 max(0, 1 - c / 0.12), `effort` = -0.005 |action|^2.

    Success: d < 30 cm, and the bumper has touched nothing since the episode began.

    Task parameters (hidden): `goal` (2, m); `obstacles` (2 for each of 16, m), positions in order: the first
    `obstacle_count` (rounded) are tried, and those omitted that come within 35 cm of the goal or within 50 cm of an
    earlier obstacle (from hull to hull), so that there is a way past every obstacle; `obstacle_radius` (16, m);
    `obstacle_shape`; `wheel_friction`; `chassis_mass` (kg); `motor_gain` (left, right). ood: more obstacles, flat ones
    (elliptic pillars, slabs), one motor much weaker than the other. Goals are held out in blocks of 50 x 76 cm.
    """

    name = "navigate"
    success_criterion = "within 30 cm of the goal at the end of the episode, without any collision during it"
    horizon, observation_size, action_size, hidden_size = 100, RAYS + 8, 2, 2
    parameters = {
        "goal": GOALS,
        "obstacles": Range((-1.2, -2.0) * OBSTACLES, (2.0, 2.0) * OBSTACLES, unit="m", within=(-2.4, 2.4)),
        "obstacle_radius": Range((0.1,) * OBSTACLES, (0.2,) * OBSTACLES, unit="m", within=(0.01, 1.0)),
        "obstacle_count": Range(4, 10, ood=[(13, OBSTACLES)], within=(0, OBSTACLES)),
        "obstacle_shape": Categories(("cylinder", "box"), ood=("ellipsoid", "slab")),
        "wheel_friction": Range(0.5, 1.2, within=(0.0, 5.0)),
        "chassis_mass": Range(2.0, 6.0, unit="kg", within=(0.1, 100.0)),
        "motor_gain": Range(
            (0.8, 0.8), (1.2, 1.2), ood=[((0.6, 1.0), (0.8, 1.2)), ((1.0, 0.6), (1.2, 0.8))], within=(-5.0, 5.0)
        ),
    }

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        return load_spec(ASSETS / "navigate.xml")

    def bind(self) -> None:
        start, samples = int(self.model.sensor_historyadr[0]), int(self.model.sensor_history[0, 0])
        # A sensor's history: two numbers of housekeeping, the samples' times, the samples.
        self.bumps = self.simulator.field("history")[:, start + 2 + samples : start + 2 + 2 * samples]
        self.robot = self.model.body("robot").id
        bearing = 2 * math.pi / RAYS * torch.arange(RAYS, dtype=torch.float64)
        cosine, sine, none = bearing.cos(), bearing.sin(), torch.zeros_like(bearing)
        ones, height = torch.ones_like(bearing), torch.full_like(bearing, LIDAR_HEIGHT)
        turns, shifts = ((cosine, sine, none), (-sine, cosine, none)), ((ones, none, none), (none, ones, none))
        # (heading, position) -> all rays of a robot, as one product each.
        self.turned, self.shifted = (
            torch.stack([torch.stack(axes, -1) for axes in each]).flatten(1) for each in (turns, shifts)
        )
        self.raised = torch.stack([none, none, height], -1).flatten()
        self.origin, self.direction = torch.zeros(2, self.num_simulations, RAYS, 3, dtype=torch.float64)
        forward, turn = SPEED / WHEEL_RADIUS, 0.5 * TRACK * TURN / WHEEL_RADIUS
        self.mixer = torch.tensor([[forward, forward], [-turn, turn]], dtype=torch.float64)  # actions to wheel speeds
        self.collided = torch.zeros(self.num_simulations, dtype=torch.bool)

    def apply_tasks(self) -> None:
        model, task = self.model, self.assigned
        self.goal = self.placed(task["goal"])
        geom = ("geom_type", "geom_size", "geom_pos", "geom_group", "geom_friction")
        fields = {name: self.repeated(name) for name in (*geom, "body_mass", "body_inertia", "actuator_gainprm")}
        known = self.distribution.parameters["obstacle_shape"]
        assert isinstance(known, Categories)
        shape = task["obstacle_shape"][:, 0].long()
        kinds, scales, offsets = (torch.tensor([SHAPES[name][i] for name in known.names])[shape] for i in range(3))
        radius, positions = task["obstacle_radius"], task["obstacles"].unflatten(1, (OBSTACLES, 2))
        used = standing(self.goal, positions, radius, task["obstacle_count"].round())
        self.obstacles = torch.cat([positions, torch.where(used, 0.15, PARKED)[..., None]], -1)
        geoms = [model.geom(f"obstacle_{i:02d}").id for i in range(OBSTACLES)]
        fields["geom_type"][:, geoms] = kinds.int()[:, None]
        fields["geom_size"][:, geoms] = (radius[..., None] * scales[:, None] + offsets[:, None]).double()
        fields["geom_pos"][:, geoms] = self.obstacles.double()
        fields["geom_group"][:, geoms] = torch.where(used, UPRIGHT, HIDDEN).int()
        tyres = [model.geom(f"{side}_tyre").id for side in ("left", "right")]
        fields["geom_friction"][:, tyres, 0] = task["wheel_friction"].double()
        factor = task["chassis_mass"].double() / model.body_mass[self.robot]
        fields["body_mass"][:, self.robot] *= factor[:, 0]
        fields["body_inertia"][:, self.robot] *= factor
        fields["actuator_gainprm"][..., 0] *= task["motor_gain"]
        self.simulator.set_model_fields(fields)

    def placed(self, goal: Tensor) -> Tensor:
        """Where the goals (N, 2) stand that tasks ask for; here, there."""
        return goal

    def realised(self, tasks: Tasks) -> Tasks:
        count = tasks["obstacle_count"].round()
        return Tasks({**tasks.values, "goal": self.placed(tasks["goal"]), "obstacle_count": count})

    def initial_state(self) -> dict[str, Tensor]:
        qpos = self.repeated("qpos0")
        y, heading = self.noise(2, self.num_simulations, dim=1).clamp(-2.0, 2.0).double().unbind()
        qpos[:, 0], qpos[:, 1] = START_X, 0.15 * y
        qpos[:, 3], qpos[:, 6] = (0.125 * heading).cos(), (0.125 * heading).sin()
        return {"qpos": qpos, "mocap_pos": torch.nn.functional.pad(self.goal, (0, 1))[:, None].double()}

    def on_reset(self, mask: Tensor) -> None:
        self.collided[mask] = False

    def control(self, action: Tensor) -> None:
        self.distance_before = self.distance
        torch.mm(action.double(), self.mixer, out=self.ctrl)

    def sense(self) -> None:
        # Of the turned x axis the part over the ground is (w + iz)^2 + (x + iy)^2.
        pairs = torch.view_as_complex(self.qpos.index_select(1, WZXY).unflatten(-1, (2, 2)))
        heading = pairs.square().sum(-1, keepdim=True).sgn()
        self.heading = torch.view_as_real(heading)[:, 0]
        torch.mm(self.heading, self.turned, out=self.direction.view(-1, 3 * RAYS))
        torch.addmm(self.raised, self.qpos[:, :2], self.shifted, out=self.origin.view(-1, 3 * RAYS))
        self.ranges = self.simulator.rays(self.origin, self.direction, group=UPRIGHT)
        # A robot that unstable contacts have thrown out of the arena must not drown the rewards of all others.
        self.distance = torch.linalg.vector_norm(self.qpos[:, :2].float() - self.goal, dim=-1).clamp(max=DIAGONAL)
        self.bumped = self.bumps.amax(-1) > 0
        self.collided |= self.bumped

    def seen(self) -> list[Tensor]:
        forward = (self.qvel[:, :2] * self.heading).sum(-1, keepdim=True)
        ranges = self.ranges.clamp(max=MAX_RANGE) / MAX_RANGE
        speeds = [forward, self.qvel[:, 5:6], WHEEL_RADIUS * self.qvel[:, 6:8]]
        return [ranges, self.qpos[:, :2], self.heading, *speeds]

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        clearance = self.ranges.amin(-1).float() - ROBOT_RADIUS
        return {
            "beacon": -0.1 * self.distance,
            "closing": (self.distance_before - self.distance) / self.control_period,
            "arrival": (1.0 - torch.tanh(3.0 * self.distance)) * ~self.collided,
            "collision": -1.0 * self.bumped,
            "proximity": -0.5 * (1.0 - clearance / KEEP_CLEAR).clamp(0.0, 1.0),
            "effort": -0.005 * action.square().sum(-1),
        }

    def success(self) -> Tensor:
        return (self.distance < SUCCESS_DISTANCE) & ~self.collided

    def signal(self) -> Tensor:
        return (self.distance < SUCCESS_DISTANCE).float() - self.bumped.float()


def standing(goal: Tensor, positions: Tensor, radius: Tensor, count: Tensor) -> Tensor:
    """Which of the obstacles (N, K) stand, given goals (N, 2), positions (N, K, 2), radii (N, K) and numbers (N, 1)."""
    used = torch.arange(positions.shape[1]) < count
    used &= torch.linalg.vector_norm(positions - goal[:, None], dim=-1) - radius > GOAL_CLEARANCE
    apart = torch.cdist(positions, positions) - radius[:, :, None] - radius[:, None] > GAP
    for k in range(1, positions.shape[1]):
        used[:, k] &= (apart[:, k, :k] | ~used[:, :k]).all(-1)
    return used
