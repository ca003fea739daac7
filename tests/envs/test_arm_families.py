"""Grasp and push: sound contacts, objects that equal compiled ones, and tasks that can be solved."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.environment import Environment
from envs.core.tasks import Categories, Tasks
from envs.families import shapes
from envs.families.arm import ArmEnvironment
from envs.families.grasp import HEIGHT, Grasp
from envs.families.grasp_uncalibrated import GraspUncalibrated
from envs.families.push import Push
from envs.families.push_turned import PushTurned
from tests.envs.controllers import grasp as grasp_controller
from tests.envs.controllers import grasp_uncalibrated, push_turned
from tests.envs.controllers import push as push_controller

CONTROLLERS = {
    Grasp: grasp_controller.Controller,
    Push: push_controller.Controller,
    GraspUncalibrated: grasp_uncalibrated.Controller,
    PushTurned: push_turned.Controller,
}
LEAST = {
    (GraspUncalibrated, "ood"): 0.60,
    (GraspUncalibrated, "test"): 0.90,
    (PushTurned, "test"): 0.90,
    (PushTurned, "ood"): 0.85,
}  # slippery round shapes slip, some topple; the heaviest would take more than the hand has to be lifted in time


def solved(kind: type[Environment], split: str) -> Tensor:
    """(100,) bool: the published tasks that the scripted controller solves."""
    env = kind(100, seed=0)  # type: ignore[call-arg]
    env.set_tasks(env.distribution.published(split))
    env.reset()
    controller = CONTROLLERS[kind](env)
    for _ in range(env.horizon - 1):
        env.step(controller.act())
    return env.step(controller.act()).success


def grasp_tasks(shape_names: list[str], size: tuple[float, float, float] = (0.02, 0.02, 0.025)) -> Tasks:
    """One task for each shape, of medium mass and friction."""
    count = len(shape_names)
    return Tasks(
        {
            "object_size": torch.tensor([size] * count),
            "object_mass": torch.full((count, 1), 0.2),
            "friction": torch.full((count, 1), 0.9),
            "object_shape": torch.tensor([[float(names().index(name))] for name in shape_names]),
        }
    )


def names() -> tuple[str, ...]:
    shape = Grasp(1, threads=1).distribution.parameters["object_shape"]
    assert isinstance(shape, Categories)
    return shape.names


@pytest.mark.parametrize("split", ["test", "ood"])
@pytest.mark.parametrize("kind", CONTROLLERS)
def test_who_knows_the_task_solves_it(kind: type[Environment], split: str) -> None:
    assert float(solved(kind, split).float().mean()) >= LEAST.get((kind, split), 0.95)


def test_a_firm_grasp_holds_for_ten_seconds_without_drift() -> None:
    env = Grasp(len(shapes.KINDS), seed=3, threads=1)
    env.set_tasks(grasp_tasks(list(names())))
    env.reset()
    controller = grasp_controller.Controller(env)
    deepest = 0.0
    for _ in range(60):
        env.step(controller.act())
        deepest = min(deepest, deepest_contact(env))
    assert (env.object_position[:, 2] - HEIGHT).abs().max() < 0.02
    assert deepest > -0.005, "objects are pushed into each other"
    still = torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(len(shapes.KINDS), 1)
    for _ in range(20):  # the hand comes to rest
        env.step(still)
    before = (env.object_position - env.grip).clone()
    for _ in range(200):
        env.step(still)
    assert ((env.object_position - env.grip) - before).abs().max() < 0.002


def deepest_contact(env: ArmEnvironment) -> float:
    """The most negative distance (m) of any contact of any simulation, from the states as they are."""
    deepest = 0.0
    for index in range(env.num_simulations):
        model = env.simulator.model_of(index)
        data = mujoco.MjData(model)
        data.qpos[:] = env.qpos[index].numpy()
        mujoco.mj_forward(model, data)
        deepest = min([deepest, *data.contact.dist.tolist()])
    return deepest


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_an_object_left_alone_stays_where_it_is(kind: type[ArmEnvironment]) -> None:
    env = kind(64, seed=1)  # type: ignore[call-arg]
    env.set_tasks(env.distribution.published("ood", 64))
    env.reset()
    start = env.object_position.clone()
    still = torch.zeros(64, env.action_size)
    if isinstance(env, Grasp):
        still[:, 3] = -1.0
    for _ in range(40):
        env.step(still)
    assert (env.object_position - start).abs().max() < 0.004
    assert env.object_velocity[:, :3].abs().max() < 0.01
    assert env.object_velocity[:, 3:].abs().max() < 0.2  # what is heavy on one side rocks for a while


@pytest.mark.parametrize("shape", shapes.KINDS)
def test_an_object_s_inertia_is_that_of_its_geom(shape: str) -> None:
    """Against MuJoCo's own integration over the geom, at density 1."""
    env = Grasp(1, threads=1)
    env.set_tasks(grasp_tasks([shape]))
    model = env.simulator.model_of(0)
    geom, body = model.geom("object"), model.body("object")
    spec = mujoco.MjSpec()
    holder = spec.worldbody.add_body()
    holder.add_freejoint()
    if shape in shapes.MESHES:
        mesh = model.mesh(int(geom.dataid[0]))
        vertices = model.mesh_vert[mesh.vertadr[0] : mesh.vertadr[0] + mesh.vertnum[0]].astype(float)
        spec.add_mesh(name="own", uservert=vertices.flatten().tolist())
        added = holder.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="own", density=1000)
    else:
        added = holder.add_geom(type=int(geom.type[0]), size=geom.size, density=1000)
    added.quat = geom.quat
    compiled = spec.compile()
    ours = np.sort(body.inertia / body.mass)
    np.testing.assert_allclose(ours, np.sort(compiled.body_inertia[1] / compiled.body_mass[1]), rtol=1e-4)
    # The principal axes are the body's own: a rotated tensor would have other diagonal entries.
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, compiled.body_iquat[1])
    turn = turn.reshape(3, 3)
    tensor = turn @ np.diag(compiled.body_inertia[1]) @ turn.T / compiled.body_mass[1]
    np.testing.assert_allclose(tensor, np.diag(body.inertia / body.mass), atol=2e-4 * tensor.max())


@pytest.mark.parametrize("shape", shapes.KINDS)
def test_physics_with_a_shape_equals_a_model_compiled_with_it(shape: str) -> None:
    env = Grasp(2, seed=2, threads=1)
    env.set_tasks(grasp_tasks([shape, "box"], (0.018, 0.024, 0.028)))
    env.reset()
    own = env.simulator.model_of(0)
    spec = env.spec.copy()
    geom, body = spec.geom("object"), spec.body("object")
    geom.type, geom.size, geom.quat = int(own.geom("object").type[0]), own.geom("object").size, own.geom("object").quat
    if shape in shapes.MESHES:
        # The compiler adds the mesh's own turn, which the field holds already.
        geom.meshname, geom.quat, geom.size = own.mesh(int(own.geom("object").dataid[0])).name, [1, 0, 0, 0], [0, 0, 0]
    geom.friction = own.geom("object").friction
    body.mass, body.inertia = float(own.body("object").mass[0]), own.body("object").inertia
    compiled = spec.compile()
    for field in ("geom_size", "geom_quat", "geom_rbound", "geom_aabb"):
        ours, theirs = getattr(own, field)[own.geom("object").id], getattr(compiled, field)[compiled.geom("object").id]
        np.testing.assert_allclose(ours, theirs, atol=1e-9, err_msg=field)
    data = mujoco.MjData(compiled)
    for name in ("qpos", "qvel", "ctrl", "xfrc_applied", "mocap_pos"):
        getattr(data, name)[:] = env.simulator.field(name)[0].numpy()
    controller = grasp_controller.Controller(env)
    for _ in range(30):
        env.step(controller.act())
        data.ctrl[:] = env.ctrl[0].numpy()
        mujoco.mj_step(compiled, data, nstep=env.substeps)
        np.testing.assert_allclose(env.qpos[0].numpy(), data.qpos, atol=1e-6)


def test_the_hand_goes_where_it_is_told_and_keeps_pointing_down() -> None:
    env = Grasp(16, seed=4, threads=1)
    env.set_tasks(env.distribution.published("train", 16))
    env.reset()
    action = torch.zeros(16, 4)
    action[:, 3] = -1.0
    action[:, :3] = (2 * torch.rand(16, 3, generator=torch.Generator().manual_seed(0)) - 1) * torch.tensor([1, 1, 0.2])
    start = env.grip.clone()
    for _ in range(3):
        env.step(action)
    for _ in range(10):
        env.step(action * torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert (env.target - start - 0.09 * action[:, :3]).abs().max() < 0.02
    assert (env.grip - env.target).abs().max() < 0.003
    assert (env.grip_quat[:, 1].abs() > 0.999).all()


def test_the_jacobian_is_what_mujoco_says() -> None:
    env = Push(3, seed=2, threads=1)
    env.set_tasks(env.distribution.published("train", 3))
    env.reset()  # after it everything derived is of the same instant
    found, expected = env.jacobian(), np.zeros((2, 3, env.model.nv))
    for i in range(3):
        data = mujoco.MjData(env.model)
        data.qpos[:] = env.qpos[i].numpy()
        mujoco.mj_forward(env.model, data)
        mujoco.mj_jac(env.model, data, *expected, env.grip[i].numpy(), env.model.body("hand").id)
        np.testing.assert_allclose(found[i].numpy(), expected[..., :7].reshape(6, 7), atol=1e-12)


def test_the_oracle_sees_the_object() -> None:
    hidden, visible = Grasp(4, threads=1), Grasp(4, threads=1, object_visible=True)
    for env in (hidden, visible):
        env.set_tasks(env.distribution.published("ood", 4))
    first, second = hidden.reset(), visible.reset()
    assert torch.equal(first, second[:, : hidden.observation_size])
    assert torch.equal(second[:, -2:-1], visible.assigned["object_mass"])
    assert torch.equal(second[:, 23:30].argmax(-1).float(), visible.assigned["object_shape"][:, 0])


def test_touch_means_the_object_and_not_the_table() -> None:
    env = Grasp(1, threads=1)
    env.set_tasks(grasp_tasks(["sphere"]))
    env.reset()
    env.bounds[0][2] = -0.02  # lower than the agent may go: into the table
    down = torch.tensor([[0.3, -1.0, -1.0, 1.0]])
    for _ in range(25):
        env.step(down)
    assert float(env.grip[0, 2]) < 0.02, "the closed fingers press on the table"
    assert not env.touching.any()


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_an_oracle_is_told_the_shape_whatever_the_range_of_shapes(kind: str) -> None:
    env = Grasp(2, threads=1, object_visible=True, tasks_override={"object_shape": [kind]})
    env.set_tasks(env.distribution.published("train", 2))
    assert env.hidden()[:, : len(shapes.KINDS)].argmax(-1).tolist() == [shapes.KINDS.index(kind)] * 2
