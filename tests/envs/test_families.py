"""Every registered family at the extremes of its tasks: what no single task or short episode would show."""

import mujoco
import numpy as np
import pytest
import torch

from envs import registry
from envs.core.environment import Environment, MujocoEnvironment
from envs.core.tasks import Categories, Range, TaskDistribution
from tests.envs.families import MUJOCO_NAMES, extreme_tasks

STEPS = 1000
# What mj_setConst derives.
DERIVED = ("body_subtreemass", "dof_invweight0", "body_invweight0", "actuator_acc0", "dof_M0")


def at_the_extremes(name: str) -> Environment:
    tasks = extreme_tasks(registry.make(name, 1).distribution)
    env = registry.make(name, len(tasks), seed=0)
    env.set_tasks(tasks)
    return env


def mujoco_at_the_extremes(name: str) -> tuple[MujocoEnvironment, list[mujoco.MjModel]]:
    env = at_the_extremes(name)
    assert isinstance(env, MujocoEnvironment)
    return env, [env.simulator.model_of(index) for index in range(env.num_simulations)]


def test_extreme_tasks_reach_every_corner_and_category() -> None:
    corners = Range((0.0, 1.0), (2.0, 3.0), ood=[((2.0, 1.0), (4.0, 3.0))])
    parameters = {"goal": corners, "mass": Range(1.0, 2.0, ood=[(2.0, 5.0)]), "shape": Categories(("box",), ("ring",))}
    for most, count in ((100, 6 * 3 * 2), (10, 10), (2, 6)):
        tasks = extreme_tasks(TaskDistribution(dict(parameters)), most)
        assert len(tasks) == count
        assert {tuple(row) for row in tasks["goal"].tolist()} == {(x, y) for x in (0, 2, 4) for y in (1, 3)}
        assert set(tasks["mass"].flatten().tolist()) == {1.0, 2.0, 5.0}
        assert set(tasks["shape"].flatten().tolist()) == {0.0, 1.0}
    wide = extreme_tasks(TaskDistribution({"map": Range([0.0] * 40, [1.0] * 40)}))["map"]  # 2^40 corners
    assert len(wide) == 8 and {0.0, 40.0} <= set(wide.sum(-1).tolist()) and set(wide.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", registry.names())
def test_extreme_tasks_stay_finite_for_a_thousand_steps(name: str) -> None:
    """Under random actions, of which every second episode's are the greatest there are."""
    env = at_the_extremes(name)
    generator = torch.Generator().manual_seed(0)
    env.reset()
    for index in range(STEPS):
        if index % env.horizon == 0:
            env.reset()
        action = 2 * torch.rand(env.num_simulations, env.action_size, generator=generator) - 1
        step = env.step(action.sign() if index // env.horizon % 2 else action)
        culprits = [env.task_of(int(i)) for i in step.failed.nonzero()[:, 0]]
        assert not culprits, f"step {index}: {culprits}"
        assert torch.isfinite(step.observation).all() and torch.isfinite(step.reward).all()
        if step.terminated.any():
            env.reset(step.terminated)


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_every_simulation_s_bodies_could_exist(name: str) -> None:
    """What moves has a mass, and principal moments of inertia that some distribution of mass has."""
    env, models = mujoco_at_the_extremes(name)
    for model in models:
        mass, inertia = model.body_mass, model.body_inertia
        assert np.all(mass >= 0) and np.all(inertia >= 0)
        assert np.all(inertia.max(-1) <= (inertia.sum(-1) - inertia.max(-1)) * (1 + 1e-9))
        together = np.bincount(model.body_weldid, mass, model.nbody)  # bodies that move as one
        moving = np.unique(model.body_weldid[model.body_weldid > 0])
        moving = moving[model.body_mocapid[moving] < 0]
        assert np.all(together[moving] > 0)


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_inertia_changes_with_the_mass(name: str) -> None:
    env, models = mujoco_at_the_extremes(name)
    for model in models:
        for body in np.flatnonzero(model.body_mass != env.model.body_mass):
            assert np.any(model.body_inertia[body] != env.model.body_inertia[body]), model.body(body).name


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_derived_constants_are_those_of_each_simulation_s_own_model(name: str) -> None:
    _, models = mujoco_at_the_extremes(name)
    for model in models:
        found = {field: getattr(model, field).copy() for field in DERIVED}
        mujoco.mj_setConst(model, mujoco.MjData(model))
        for field in DERIVED:
            np.testing.assert_allclose(found[field], getattr(model, field), rtol=1e-9, err_msg=field)
