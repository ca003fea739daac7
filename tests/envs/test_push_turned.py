"""push_turned: the turn is hidden and matters, the mass lies where the task says, the goal is that of the episode."""

import math

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.tasks import Tasks
from envs.families.push_turned import BALLAST, GOAL_HIGH, GOAL_LOW, PushTurned, loaded_inertia
from tests.envs.controllers.push_turned import Controller

SHAPES = ("box", "cylinder", "hexagonal_prism", "wedge")


def tasks(turn: list[float], shift: tuple[float, float] = (0.0, 0.0), shape: str = "box") -> Tasks:
    """Tasks of medium mass and friction."""
    count = len(turn)
    return Tasks(
        {
            "turn": torch.tensor(turn)[:, None],
            "mass_shift": torch.tensor([shift] * count),
            "object_size": torch.tensor([[0.030, 0.036, 0.028]] * count),
            "object_mass": torch.full((count, 1), 0.3),
            "friction": torch.full((count, 1), 0.5),
            "object_shape": torch.full((count, 1), float(SHAPES.index(shape))),
        }
    )


def begun(given: Tasks, seed: int = 0) -> PushTurned:
    env = PushTurned(len(given), seed, threads=1)
    env.set_tasks(given)
    env.reset()
    return env


def test_who_does_not_know_the_turn_fails() -> None:
    env = PushTurned(100, threads=1)
    env.set_tasks(env.distribution.published("test"))
    env.reset()
    controller = Controller(env, believed=torch.zeros(100))
    for _ in range(env.horizon - 1):
        env.step(controller.act())
    assert float(env.step(controller.act()).success.float().mean()) < 0.5


def test_an_action_moves_the_hand_along_the_turned_axis() -> None:
    turn = [0.0, 0.5, math.pi / 2, -2.0]
    env = begun(tasks(turn))
    start = env.grip[:, :2].clone()
    for _ in range(4):
        env.step(torch.tensor([[0.0, 0.5]] * 4))
    moved = env.grip[:, :2] - start
    assert torch.allclose(torch.atan2(moved[:, 1], moved[:, 0]), torch.tensor(turn).double() + math.pi / 2, atol=0.1)


def test_the_observation_is_what_its_table_says() -> None:
    env = PushTurned(3, threads=1, goal_visible=True)
    env.set_tasks(tasks([0.4, -1.0, 3.0], (0.3, -0.2)))
    env.reset()
    seen = env.step(torch.full((3, 2), 0.5)).observation.double()
    place = env.qpos[:, env.object_start : env.object_start + 7]
    goal = env.simulator.field("mocap_pos")[:, 0, :2]
    expected = [env.grip, place[:, :3], place[:, :2] - env.grip[:, :2], place[:, 3:], goal, goal - place[:, :2]]
    turn = torch.tensor([0.4, -1.0, 3.0]).double()[:, None]
    expected += [turn.cos(), turn.sin(), torch.tensor([[0.3, -0.2]] * 3)]
    assert torch.allclose(seen, torch.cat(expected, -1), atol=1e-5)


def test_the_goal_is_drawn_in_each_episode_of_those_that_begin() -> None:
    env = begun(tasks([0.0] * 40))
    first = env.goal.clone()
    assert (first >= torch.tensor(GOAL_LOW)).all() and (first <= torch.tensor(GOAL_HIGH)).all()
    mask = torch.arange(40) < 20
    env.reset(mask)
    same = (env.goal == first).all(-1)
    assert torch.equal(same, ~mask)
    assert env.goal[:, 0].std() > 0.02 and env.goal[:, 1].std() > 0.08
    away = torch.linalg.vector_norm(env.object_position[:, :2].float() - env.goal, dim=-1)
    assert torch.allclose(env.distance, away) and (away >= 0.05).all(), "an episode begins solved"


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.008, 0.0), (-0.005, 0.012)])
def test_the_inertia_is_that_of_a_box_with_a_lump_inside(shift: tuple[float, float]) -> None:
    """Against MuJoCo's own sum over two geoms; the lump, a tiny ball, has next to none of its own."""
    size = np.array([0.03, 0.036, 0.028])
    spec = mujoco.MjSpec()
    holder = spec.worldbody.add_body()
    holder.add_freejoint()
    holder.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=size, mass=1 - BALLAST)
    lump = [shift[0] / BALLAST, shift[1] / BALLAST, 0.0]
    holder.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[3e-4, 0, 0], pos=lump, mass=BALLAST)
    compiled = spec.compile()
    np.testing.assert_allclose(compiled.body_ipos[1], [*shift, 0.0], atol=1e-9)
    square = torch.from_numpy(size)[None] ** 2
    moments, angle = loaded_inertia((square.sum() - square) / 3, torch.tensor([shift]).double())
    half = 0.5 * float(angle)
    np.testing.assert_allclose(
        tensor_of(moments[0].numpy(), np.array([math.cos(half), 0, 0, math.sin(half)])),
        tensor_of(compiled.body_inertia[1], compiled.body_iquat[1]),
        atol=1e-7,
    )


def tensor_of(moments: np.ndarray, quat: np.ndarray) -> np.ndarray:
    """(3, 3), from principal moments (3,) and the quaternion (4,) of their axes."""
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, quat)
    return turn.reshape(3, 3) @ np.diag(moments) @ turn.reshape(3, 3).T


def object_pushed(env: PushTurned) -> Tensor:
    """Where and how the object lies (N, 7) after a straight push."""
    controller = Controller(env)
    for _ in range(25):
        env.step(controller.act())
    return env.qpos[:, env.object_start : env.object_start + 7]


@pytest.mark.parametrize("shape", ["box", "wedge"])
def test_physics_with_a_shifted_mass_equals_a_model_compiled_with_it(shape: str) -> None:
    """Not a cylinder or a prism: their contacts with the table change by leaps with the mass's eighth digit."""
    env = begun(tasks([0.0, 0.0], (0.4, -0.3), shape), seed=2)
    own, spec = env.simulator.model_of(0), env.spec.copy()
    theirs, geom = own.body("object"), spec.geom("object")
    geom.type, geom.size, geom.quat = int(own.geom("object").type[0]), own.geom("object").size, own.geom("object").quat
    if shape == "wedge":
        geom.meshname, geom.quat, geom.size = own.mesh(int(own.geom("object").dataid[0])).name, [1, 0, 0, 0], [0, 0, 0]
    geom.friction = own.geom("object").friction
    body = spec.body("object")
    body.mass, body.inertia, body.ipos, body.iquat = 0.3, theirs.inertia, theirs.ipos, theirs.iquat
    compiled = spec.compile()
    data, controller = mujoco.MjData(compiled), Controller(env)
    for _ in range(30):
        # Each step from the same state: rounding grows in contacts.
        for name in ("qpos", "qvel", "qacc_warmstart", "xfrc_applied"):
            getattr(data, name)[:] = env.simulator.field(name)[0].numpy()
        env.step(controller.act())
        data.ctrl[:] = env.ctrl[0].numpy()
        mujoco.mj_step(compiled, data, nstep=env.substeps)
        np.testing.assert_allclose(env.qpos[0].numpy(), data.qpos, atol=1e-5)
    centre = env.simulator.field("xipos")[0, env.object] - env.simulator.field("xpos")[0, env.object]
    assert float(torch.linalg.vector_norm(centre)) > 0.008


def test_a_shifted_mass_turns_an_object_that_is_pushed() -> None:
    middle, shifted = (object_pushed(begun(tasks([0.0] * 8, shift))) for shift in ((0.0, 0.0), (0.0, 0.4)))
    assert (middle - shifted)[:, 6].abs().mean() > 0.05
