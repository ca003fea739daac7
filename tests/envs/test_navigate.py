"""Navigate: its physics, its lidar and bumper, the layouts of its tasks, and that every task can be solved."""

import math
import re

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.engine_cpu import CpuSimulator
from envs.core.environment import ASSETS, Step
from envs.core.models import physics_model
from envs.core.tasks import Tasks
from envs.families.navigate import (
    GAP,
    GOAL_CLEARANCE,
    HIDDEN,
    OBSTACLES,
    RAYS,
    ROBOT_RADIUS,
    SHAPES,
    SPEED,
    START_X,
    UPRIGHT,
    Navigate,
)
from tests.envs.controllers import navigate as controller

FORWARD, LEFT = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
SHAPE_NAMES = tuple(SHAPES)
KIND = {
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): "ellipsoid",
}


def tasks(count: int = 1, **changes: object) -> Tasks:
    """An empty arena and a robot of middling properties, but for the changes."""
    values = {
        "goal": [1.5, 1.5],
        "obstacles": [0.0, 0.0] * OBSTACLES,
        "obstacle_radius": [0.15] * OBSTACLES,
        "obstacle_count": [0.0],
        "obstacle_shape": [0.0],
        "wheel_friction": [0.8],
        "chassis_mass": [4.0],
        "motor_gain": [1.0, 1.0],
    }
    tensors = {name: torch.as_tensor(changes.get(name, value)) for name, value in values.items()}
    return Tasks({name: value if value.dim() == 2 else value.repeat(count, 1) for name, value in tensors.items()})


def ahead(x: float) -> list[float]:
    """Places of obstacles of which the first stands at (x, 0)."""
    return [x, 0.0] + [1.9, -1.9] * (OBSTACLES - 1)


def made(given: Tasks, heading: float = 0.0) -> Navigate:
    """One simulation per task, the robot in the middle of the west side."""
    env = Navigate(len(given), threads=1)
    env.set_tasks(given)
    put(env, START_X, 0.0, heading)
    return env


def put(env: Navigate, x: float, y: float, heading: float) -> Tensor:
    env.reset()
    env.qpos[:, :2] = torch.tensor([x, y])
    env.qpos[:, 3], env.qpos[:, 6] = math.cos(heading / 2), math.sin(heading / 2)
    env.sense()
    return env.observe()


def drive(env: Navigate, action: Tensor, steps: int) -> list[Step]:
    return [env.step(action.expand(env.num_simulations, 2)) for _ in range(steps)]


def engine(env: Navigate) -> CpuSimulator:
    assert isinstance(env.simulator, CpuSimulator)
    return env.simulator


# The robot


def test_it_stands_still_when_told_to() -> None:
    env = made(tasks(2, chassis_mass=[[2.0], [6.0]]), heading=0.4)
    start = env.qpos.clone()
    drive(env, 0 * FORWARD, 50)
    assert (env.qpos[:, :2] - start[:, :2]).abs().max() < 1e-3
    assert (env.qpos[:, 3:7] - start[:, 3:7]).abs().max() < 5e-3
    assert env.qvel.abs().max() < 1e-4


def test_equal_motors_drive_straight_at_the_commanded_speed_times_their_gain() -> None:
    gains = torch.tensor([[1.0, 1.0], [0.8, 0.8], [1.2, 1.2]])
    env = made(tasks(3, motor_gain=gains))
    observation = drive(env, FORWARD, 20)[-1].observation
    assert torch.allclose(observation[:, 36], SPEED * gains[:, 0], rtol=0.01)
    assert torch.allclose(observation[:, 38:40], SPEED * gains, rtol=0.01)
    assert env.qpos[:, 1].abs().max() < 2e-3
    assert observation[:, 35].abs().max() < 2e-3


def test_unequal_motors_pull_to_the_weaker_one() -> None:
    env = made(tasks(2, motor_gain=[[0.8, 1.2], [1.2, 0.8]]))
    drive(env, FORWARD, 10)
    assert env.qpos[0, 1] > 0.1 and env.qpos[1, 1] < -0.1


def test_a_positive_turn_is_to_the_left_on_the_spot() -> None:
    env = made(tasks())
    observation = drive(env, LEFT, 5)[-1].observation[0]
    assert observation[37] == pytest.approx(2.5, rel=0.05)
    assert observation[35] > 0.5
    assert (env.qpos[0, :2] - torch.tensor([START_X, 0.0])).norm() < 0.02


def test_mass_and_friction_are_felt() -> None:
    env = made(tasks(4, chassis_mass=[[2.0], [6.0], [2.0], [6.0]], wheel_friction=[[1.2], [1.2], [0.1], [0.1]]))
    speed = drive(env, FORWARD, 1)[-1].observation[:, 36]
    assert speed[0] > 1.3 * speed[1]  # the motors pull the same, the heavy one has more to move
    assert speed[2] < 0.5 * speed[0]
    assert speed[2] == pytest.approx(float(speed[3]), rel=0.1)  # on ice what holds it grows as its mass


# Collisions


@pytest.mark.parametrize("what", [*SHAPE_NAMES, "wall"])
def test_ramming_does_not_penetrate_launch_or_tip_it(what: str) -> None:
    shape = float(SHAPE_NAMES.index(what)) if what in SHAPE_NAMES else 0.0
    given = tasks(
        2,
        obstacles=ahead(-1.0),
        obstacle_count=[float(what != "wall")],
        obstacle_shape=[shape],
        motor_gain=[[1.2, 1.2], [1.2, 1.2]],
        chassis_mass=[[2.0], [6.0]],
    )
    env = made(given, heading=math.pi if what == "wall" else 0.0)
    if what == "wall":
        put(env, START_X + 0.7, 0.0, math.pi)
    models = [engine(env).model_of(i) for i in range(2)]
    data = mujoco.MjData(models[0])
    seen = 0
    for _ in range(150):
        env.ctrl.fill_(1.2 * SPEED / 0.05)
        engine(env).step(1)
        assert (env.qpos[:, 2] - 0.05).abs().max() < 0.008
        upright = 1 - 2 * env.qpos[:, 4:6].square().sum(-1)
        assert upright.min() > math.cos(math.radians(4))
        for i, model in enumerate(models):
            data.qpos[:] = env.qpos[i].numpy()
            mujoco.mj_kinematics(model, data)
            mujoco.mj_collision(model, data)
            bumps = [c.dist for c in data.contact[: data.ncon] if model.geom("bumper").id in (c.geom1, c.geom2)]
            seen += len(bumps)
            assert min(bumps, default=0.0) > -0.005
    assert seen > 50


def test_a_touch_between_two_observations_counts_and_ends_all_hope() -> None:
    env = made(tasks(2, obstacles=ahead(-1.0), obstacle_count=[[0.0], [1.0]], goal=[[-1.55, 0.0], [-1.55, 0.0]]))
    put(env, -1.0 - 0.15 - ROBOT_RADIUS - 0.03, 0.0, 0.0)
    env.qvel[:, 0], env.qvel[:, 6:] = 0.8, 16.0
    step = drive(env, -FORWARD, 1)[-1]  # hits the obstacle, and is thrown back by its motors
    assert step.terms["collision"].tolist() == [0.0, -1.0]
    step = drive(env, -0.2 * FORWARD, 4)[-1]
    assert step.terms["collision"].tolist() == [0.0, 0.0]  # and is free again
    assert env.distance.max() < 0.3
    assert step.success.tolist() == [True, False]
    env.reset()
    assert not env.collided.any()


def test_collisions_are_those_that_a_serial_simulation_sees() -> None:
    env = Navigate(8, seed=1, threads=1)
    env.set_tasks(env.distribution.published("ood", 8))
    env.reset()
    models = [engine(env).model_of(i) for i in range(8)]
    datas = [mujoco.MjData(model) for model in models]
    for i, (model, data) in enumerate(zip(models, datas, strict=True)):
        mujoco.mj_setState(model, data, engine(env).batch.state[i], int(mujoco.mjtState.mjSTATE_INTEGRATION))
    total, brief = 0, 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        action = 2 * torch.rand(8, 2, generator=generator) - torch.tensor([0.2, 1.0])
        step = env.step(action)
        for i, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = env.ctrl[i].numpy()
            touched = []
            for _ in range(env.substeps):
                mujoco.mj_step(model, data)
                pairs = data.contact.geom[: data.ncon]
                touched.append(bool((pairs == model.geom("bumper").id).any()))
            assert (step.terms["collision"][i] < 0) == any(touched)
            total, brief = total + any(touched), brief + (any(touched) and not touched[-1])
    assert total > 10 and brief > 0  # or nothing was compared


# Simulations with obstacles of their own


def compiled(env: Navigate, index: int) -> mujoco.MjModel:
    """The model of one simulation, compiled anew from an MJCF that says what its task says."""
    given = {name: value[index].double() for name, value in env.assigned.items()}
    kind, scale, offset = SHAPES[SHAPE_NAMES[int(given["obstacle_shape"])]]
    sizes = given["obstacle_radius"][:, None] * torch.tensor(scale) + torch.tensor(offset)
    groups = [UPRIGHT if height > 0 else HIDDEN for height in env.obstacles[index, :, 2]]
    geoms = [
        f'<geom name="obstacle_{k:02d}" class="obstacle" type="{KIND[kind]}" euler="0 0 {26 * k}" group="{groups[k]}" '
        f'size="{" ".join(map(str, sizes[k].tolist()))}" pos="{" ".join(map(str, env.obstacles[index, k].tolist()))}"/>'
        for k in range(OBSTACLES)
    ]
    xml = (ASSETS / "navigate.xml").read_text()
    xml = re.sub("<replicate.*</replicate>", "\n".join(geoms), xml, flags=re.DOTALL)
    spec = mujoco.MjSpec.from_string(xml)
    chassis = spec.body("robot")
    factor = float(given["chassis_mass"]) / chassis.mass
    chassis.mass, chassis.inertia = chassis.mass * factor, chassis.inertia * factor
    for k, side in enumerate(("left", "right")):
        spec.geom(f"{side}_tyre").friction[0] = float(given["wheel_friction"])
        spec.actuator(f"{side}_motor").gainprm[0] *= float(given["motor_gain"][k])
    return physics_model(spec)


def test_every_simulation_is_what_its_task_compiles_to() -> None:
    env = Navigate(12, threads=1)
    env.set_tasks(env.distribution.published("ood", 12))
    env.reset()
    bumped = 0
    for i in range(12):
        mine, theirs = engine(env).model_of(i), compiled(env, i)
        for field in [n for n in dir(mine) if n.startswith(("geom_", "body_", "dof_", "actuator_"))]:
            one, two = getattr(mine, field), getattr(theirs, field)
            if isinstance(one, np.ndarray) and field not in ("geom_user", "body_user", "actuator_user", "dof_user"):
                np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9, err_msg=field)
        ends = []
        for model in (mine, theirs):
            data = mujoco.MjData(model)
            # Straight at the first obstacle that stands.
            place = env.obstacles[i][env.obstacles[i, :, 2] > 0][0].double().numpy()
            heading = np.arctan2(place[1], place[0] - START_X)
            data.qpos[:2], data.qpos[3], data.qpos[6] = (START_X, 0.0), np.cos(heading / 2), np.sin(heading / 2)
            data.ctrl[:] = 12.0 / env.assigned["motor_gain"][i].double().numpy()
            touched = False
            for _ in range(450):
                mujoco.mj_step(model, data)
                touched |= bool((data.contact.geom[: data.ncon] == model.geom("bumper").id).any())
            ends.append(data.qpos.copy())
            bumped += touched
        np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
    assert bumped >= 20


def test_a_shape_goes_by_its_name() -> None:
    env = Navigate(1, threads=1, tasks_override={"obstacle_shape": ["slab", "box"]})
    env.set_tasks(tasks(obstacle_shape=[0.0]))
    geom = engine(env).model_of(0).geom("obstacle_00")
    assert int(geom.type[0]) == int(mujoco.mjtGeom.mjGEOM_BOX)
    assert geom.size == pytest.approx([0.1425, 0.045, 0.15])


@pytest.mark.parametrize("split", ["train", "test", "ood"])
def test_there_is_a_way_past_every_obstacle(split: str) -> None:
    env = Navigate(100, threads=1)
    env.set_tasks(env.distribution.published(split))
    stands = env.obstacles[..., 2] > 0
    places, radius = env.obstacles[..., :2], env.assigned["obstacle_radius"]
    apart = torch.cdist(places, places) - radius[:, :, None] - radius[:, None]
    both = stands[:, :, None] & stands[:, None] & ~torch.eye(OBSTACLES, dtype=torch.bool)
    assert apart[both].min() > GAP > 3 * ROBOT_RADIUS
    from_goal = (places - env.goal[:, None]).norm(dim=-1) - radius
    assert from_goal[stands].min() > GOAL_CLEARANCE > 2 * ROBOT_RADIUS
    assert (places[..., 0] - radius)[stands].min() > START_X + 2 * ROBOT_RADIUS
    assert stands.sum(-1).float().mean() > {"train": 4.0, "test": 4.0, "ood": 5.0}[split]
    # No geom is larger than its task says.
    for i in range(0, 100, 10):
        model = engine(env).model_of(i)
        for k in range(OBSTACLES):
            size, kind = model.geom(f"obstacle_{k:02d}").size, int(model.geom(f"obstacle_{k:02d}").type[0])
            footprint = np.hypot(*size[:2]) if kind == int(mujoco.mjtGeom.mjGEOM_BOX) else size[0]
            assert footprint <= radius[i, k] + 1e-6


# The lidar


def test_lidar_measures_walls_and_obstacles() -> None:
    env = made(tasks(2, obstacles=ahead(-0.9), obstacle_count=[[1.0], [0.0]]))
    observation = put(env, START_X, 0.3, 0.0)
    assert 2 * observation[:, 16] == pytest.approx(2.4 + START_X, abs=1e-5)  # the west wall, behind
    assert 2 * observation[:, 24] == pytest.approx(2.0, abs=1e-5)  # the south wall is too far
    assert torch.equal(observation[:, 0], torch.ones(2))
    assert 2 * put(env, 0.0, 1.5, 0.0)[:, 8] == pytest.approx(0.9, abs=1e-5)  # the north wall, to its left
    observation = put(env, START_X, 0.0, 0.0)
    assert 2 * observation[:, 0] == pytest.approx([1.0 - 0.15, 2.0], abs=1e-5)
    observation = put(env, START_X, 0.0, math.pi / 2)
    assert 2 * observation[:, 24] == pytest.approx([0.85, 2.0], abs=1e-5)  # now to its right
    assert 2 * observation[:, 8] == pytest.approx([0.5, 0.5], abs=1e-5)
    assert observation.min(0).values[:RAYS].min() > 0.2  # it does not see itself


def test_rays_are_what_mujoco_says_of_each_model() -> None:
    env = Navigate(6, threads=1)
    env.set_tasks(env.distribution.published("ood", 6))
    env.reset()
    tilted = env.direction + torch.tensor([0.0, 0.0, 0.3])
    tilted[:, 0] = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)  # there is nothing above
    for exclude, group in ((env.robot, None), (-1, None), (-1, UPRIGHT)):
        found = env.simulator.rays(env.origin, tilted, exclude, group)
        assert found.shape == (6, RAYS)
        # From inside its own bumper a ray always ends.
        assert torch.isinf(found).any() == (exclude == env.robot or group == UPRIGHT)
        seen = None if group is None else np.arange(mujoco.mjNGROUP) == group
        for i in range(6):
            model = engine(env).model_of(i)
            data = mujoco.MjData(model)
            data.qpos[:] = env.qpos[i].numpy()
            mujoco.mj_kinematics(model, data)
            hit = np.zeros(1, np.int32)
            for ray in range(RAYS):
                start, way = env.origin[i, ray].numpy(), tilted[i, ray].numpy()
                expected = mujoco.mj_ray(model, data, start, way, seen, 1, exclude, hit)
                assert float(found[i, ray]) == (expected if expected >= 0 else math.inf)


# The task


def test_observation_is_what_its_table_says() -> None:
    env = Navigate(4, threads=1, goal_visible=True)
    env.set_tasks(env.distribution.published("train", 4))
    env.reset()
    for action in ([1.0, 0.3], [0.5, -1.0], [0.8, 0.1]):
        observation = drive(env, torch.tensor(action), 4)[-1].observation
    angle = 2 * torch.atan2(env.qpos[:, 6], env.qpos[:, 3])
    forward = env.qvel[:, 0] * angle.cos() + env.qvel[:, 1] * angle.sin()
    expected = [env.qpos[:, 0], env.qpos[:, 1], angle.cos(), angle.sin(), forward, env.qvel[:, 5]]
    assert torch.allclose(observation[:, 32:38], torch.stack(expected, -1).float(), atol=1e-4)
    assert torch.allclose(observation[:, 38:40], 0.05 * env.qvel[:, 6:].float(), atol=1e-6)
    assert torch.equal(observation[:, 40:], env.assigned["goal"])
    assert observation[:, :RAYS].max() <= 1.0


def test_reward_terms() -> None:
    env = made(tasks(goal=[-1.0, 0.0], obstacles=ahead(1.0)))
    before = drive(env, torch.tensor([0.5, -0.5]), 3)[-1].terms["beacon"] / -0.1
    step = drive(env, torch.tensor([0.5, -0.5]), 1)[-1]
    distance = (env.qpos[:, :2].float() - torch.tensor([-1.0, 0.0])).norm(dim=-1)
    assert torch.allclose(step.terms["beacon"], -0.1 * distance)
    assert torch.allclose(step.terms["closing"], (before - distance) / 0.1, atol=1e-5)
    assert step.terms["closing"] > 0.2
    assert torch.allclose(step.terms["arrival"], 1 - torch.tanh(3 * distance))
    assert step.terms["effort"] == pytest.approx(-0.0025)
    assert step.terms["collision"] == step.terms["proximity"] == 0.0
    put(env, -2.4 + ROBOT_RADIUS + 0.06, 0.0, 0.0)  # half of the distance to keep from the wall
    assert drive(env, 0 * FORWARD, 1)[-1].terms["proximity"] == pytest.approx(-0.25, abs=0.01)


def test_arriving_is_paid_until_something_was_touched() -> None:
    env = made(tasks(2, goal=[START_X, 0.0]))
    put(env, START_X, 0.0, 0.0)
    env.qpos[1, 0] = -2.3  # in the west wall
    assert drive(env, 0 * FORWARD, 1)[-1].terms["collision"].tolist() == [0.0, -1.0]
    env.qpos[:, 0] = START_X
    arrival = drive(env, 0 * FORWARD, 2)[-1].terms["arrival"]
    assert arrival[0] > 0.9 and arrival[1] == 0.0
    put(env, START_X, 0.0, 0.0)
    assert bool((drive(env, 0 * FORWARD, 1)[-1].terms["arrival"] > 0.9).all()), "in the next episode"


def test_success_is_within_30_cm() -> None:
    env = made(tasks(2, goal=[[START_X, 0.31], [START_X, 0.29]]))
    assert drive(env, 0 * FORWARD, 1)[-1].success.tolist() == [False, True]


def test_a_robot_that_does_nothing_does_not_solve_navigate() -> None:
    env = Navigate(100, threads=2)
    env.set_tasks(env.distribution.published("test"))
    env.reset()
    assert not drive(env, 0 * FORWARD, env.horizon)[-1].success.any()


@pytest.mark.parametrize("split", ["test", "ood"])
def test_a_controller_that_knows_the_task_solves_navigate(split: str) -> None:
    env = Navigate(100, threads=2)
    env.set_tasks(env.distribution.published(split))
    env.reset()
    for _ in range(env.horizon):
        step = env.step(controller.act(env))
    assert step.success.float().mean() >= 0.95
