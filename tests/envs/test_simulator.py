"""The CPU engine against serial MuJoCo, bit for bit; model fields, partial resets, broken physics."""

import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.engine_cpu import CpuSimulator
from envs.core.environment import ASSETS, MujocoEnvironment
from envs.core.models import physics_model
from envs.core.tasks import Tasks
from envs.errors import ModelError
from envs.families.reach import PAYLOAD_RADIUS, Reach
from envs.registry import make
from tests.envs.families import MUJOCO_NAMES

ROOT = Path(__file__).parents[2]
COUNT = 6
INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)
# What mj_setConst derives from masses, inertias and damping.
DERIVED = (
    "body_subtreemass",
    "dof_invweight0",
    "body_invweight0",
    "actuator_acc0",
    "dof_M0",
    "body_inertia",
    "body_mass",
)


def made(name: str, threads: int = 1, count: int = COUNT) -> MujocoEnvironment:
    """An environment with a task of its own in each simulation, reset."""
    env = make(name, count, seed=3, threads=threads)
    assert isinstance(env, MujocoEnvironment)
    env.set_tasks(env.distribution.published("train", count))
    env.reset()
    return env


def actions(env: MujocoEnvironment, steps: int) -> Tensor:
    shape = (steps, env.num_simulations, env.action_size)
    return 2.4 * torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 1.2


def engine(env: MujocoEnvironment) -> CpuSimulator:
    assert isinstance(env.simulator, CpuSimulator)
    return env.simulator


def snapshot(env: MujocoEnvironment) -> np.ndarray:
    """Every simulation's whole state and its sensors (N, ...)."""
    return np.concatenate([engine(env).batch.state, env.simulator.field("sensordata").numpy()], -1)


def with_payload(mass: float) -> mujoco.MjModel:
    """The reach model compiled with another payload, a homogeneous sphere."""
    spec = mujoco.MjSpec.from_file(str(ASSETS / "reach.xml"))
    payload = spec.body("payload")
    payload.mass = mass
    payload.inertia = np.full(3, 0.4 * mass * PAYLOAD_RADIUS**2)
    return physics_model(spec)


def reach_tasks(masses: list[float], damping: float = 1.0) -> Tasks:
    count = len(masses)
    goal = torch.tensor([[0.5, 0.0, 0.3]]).repeat(count, 1)
    return Tasks(
        {"goal": goal, "payload_mass": torch.tensor(masses)[:, None], "damping_scale": torch.full((count, 1), damping)}
    )


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_batched_equals_serial_bit_for_bit(name: str) -> None:
    env = made(name)
    simulator = engine(env)
    models = [simulator.model_of(i) for i in range(COUNT)]
    datas = [mujoco.MjData(model) for model in models]
    for model, data, state in zip(models, datas, simulator.batch.state.copy(), strict=True):
        mujoco.mj_setState(model, data, state, INTEGRATION)
    for action in actions(env, 30):
        env.step(action)
        for i, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = simulator.field("ctrl")[i].numpy()
            model.actuator_forcerange[:] = simulator.model_of(i).actuator_forcerange  # some command these too
            mujoco.mj_step(model, data, nstep=env.substeps)
            for field in ("qpos", "qvel", "sensordata"):
                np.testing.assert_array_equal(simulator.field(field)[i].numpy(), getattr(data, field))
    final = simulator.field("qpos").numpy()
    assert len(np.unique(final, axis=0)) == COUNT


def test_the_task_s_mass_and_damping_are_felt() -> None:
    """Guards the comparison above against simulations that are all alike."""
    ends = []
    for masses, damping in (([0.1, 1.4], 1.0), ([0.1, 1.4], 2.0)):
        env = Reach(2, seed=3, threads=1)
        env.set_tasks(reach_tasks(masses, damping))
        env.reset()
        env.simulator.field("qpos")[1] = env.simulator.field("qpos")[0]
        env.simulator.field("ctrl")[1] = env.simulator.field("ctrl")[0]
        for _ in range(5):
            env.step(torch.ones(2, 7))
        ends.append(env.simulator.field("qpos").numpy().copy())
    assert np.abs(ends[0][0] - ends[0][1]).max() > 1e-4
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    one, two = made(name, threads=1), made(name, threads=2)
    assert (engine(one).batch.nthread, engine(two).batch.nthread) == (1, 2)
    for action in actions(one, 30):
        first, second = one.step(action), two.step(action)
        assert torch.equal(first.observation, second.observation)
        assert torch.equal(first.reward, second.reward)
        np.testing.assert_array_equal(snapshot(one), snapshot(two))


@pytest.mark.parametrize("name", MUJOCO_NAMES)
@pytest.mark.parametrize("new_tasks", [False, True], ids=["same tasks", "new tasks"])
def test_a_partial_reset_leaves_the_others_bit_identical(name: str, new_tasks: bool) -> None:
    plain, partial = made(name), made(name)
    for env in (plain, partial):  # the observation after a reset may draw noise, which the other's next one would not
        env.noise = lambda *size, dim=0: torch.zeros(*size)  # type: ignore[method-assign]
    mask = torch.tensor([False, True, False, False, True, False])
    for step, action in enumerate(actions(plain, 25)):
        if step == 10:
            before = snapshot(partial)
            if new_tasks:
                fresh = partial.distribution.published("test", COUNT)
                values = {k: torch.where(mask[:, None], fresh[k], v) for k, v in partial.assigned.items()}
                partial.set_tasks(Tasks(values))
            observation = partial.reset(mask)
            np.testing.assert_array_equal(snapshot(partial)[~mask], before[~mask])
            assert (snapshot(partial)[mask] != before[mask]).any(-1).all()
            assert torch.isfinite(observation).all()
            assert partial.elapsed.tolist() == [10 * (not m) for m in mask]
        one, two = plain.step(action), partial.step(action)
        assert torch.equal(one.observation[~mask], two.observation[~mask])
        assert torch.equal(one.reward[~mask], two.reward[~mask])
        assert torch.equal(one.success[~mask], two.success[~mask])
        np.testing.assert_array_equal(snapshot(plain)[~mask], snapshot(partial)[~mask])


def test_an_empty_mask_resets_nothing() -> None:
    env = made("reach")
    env.step(actions(env, 1)[0])
    before = snapshot(env)
    env.reset(torch.zeros(COUNT, dtype=torch.bool))
    np.testing.assert_array_equal(snapshot(env), before)


def test_reset_restores_every_state() -> None:
    """A reset simulation has no memory: warm starts, time and velocities are as in a fresh one."""
    used, fresh = made("reach"), made("reach")
    for action in actions(used, 5):
        used.step(action)
    for env in (used, fresh):
        env.generator.manual_seed(8)
        env.reset()
    np.testing.assert_array_equal(snapshot(used), snapshot(fresh))


def test_inertia_and_derived_constants_follow_the_mass() -> None:
    masses = [0.05, 0.4, 1.5, 3.0]
    env = Reach(4, threads=1)
    env.set_tasks(reach_tasks(masses))
    for i, mass in enumerate(masses):
        expected, found = with_payload(mass), env.simulator.model_of(i)
        for field in DERIVED:
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=2e-7, err_msg=field)
        payload = found.body("payload").id
        np.testing.assert_allclose(found.body_inertia[payload], 0.4 * mass * PAYLOAD_RADIUS**2, rtol=1e-6)
    light, heavy = env.simulator.model_of(0), env.simulator.model_of(3)
    assert heavy.body_subtreemass[0] - light.body_subtreemass[0] == pytest.approx(2.95, rel=1e-6)
    assert np.all(heavy.dof_invweight0 < light.dof_invweight0)


def test_physics_with_a_payload_equals_a_model_compiled_with_it() -> None:
    """Gravity, compensated on the arm alone, moves it as `Reach` does with the payload's weight as the only force."""
    # 0.5 and 1.25 are exact in float32, in which tasks are stored.
    masses = [0.5, 1.25]
    env = Reach(2, seed=1, threads=1)
    env.set_tasks(reach_tasks(masses))
    env.reset()
    models = [with_payload(mass) for mass in masses]
    datas = [mujoco.MjData(model) for model in models]
    for i, (model, data) in enumerate(zip(models, datas, strict=True)):
        mujoco.mj_setState(model, data, engine(env).batch.state[i].copy(), INTEGRATION)
        data.xfrc_applied[:] = 0.0
    for action in actions(env, 20):
        env.step(action)
        for i, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = env.simulator.field("ctrl")[i].numpy()
            mujoco.mj_step(model, data, nstep=env.substeps)
            np.testing.assert_allclose(env.simulator.field("qpos")[i].numpy(), data.qpos, rtol=0, atol=1e-10)


def test_tasks_are_applied_to_the_defaults_and_never_accumulate() -> None:
    env = Reach(1, threads=1)
    default = env.model.dof_damping.copy()
    for scale in (2.0, 2.0, 0.5):
        env.set_tasks(reach_tasks([0.5], damping=scale))
        np.testing.assert_array_equal(env.simulator.model_of(0).dof_damping, scale * default)
    np.testing.assert_array_equal(env.model.dof_damping, default)


def test_a_field_that_is_not_named_goes_back_to_its_default() -> None:
    model = with_payload(0.1)
    simulator = CpuSimulator(model, 2, 1)
    simulator.set_model_fields({"dof_damping": torch.full((2, 7), 9.0, dtype=torch.float64)})
    simulator.set_model_fields({"body_mass": torch.ones(2, model.nbody, dtype=torch.float64)})
    assert (simulator.model_of(1).body_mass == 1.0).all()
    np.testing.assert_array_equal(simulator.model_of(1).dof_damping, model.dof_damping)
    simulator.set_model_fields({})
    np.testing.assert_array_equal(simulator.model_of(1).body_mass, model.body_mass)


def test_limits_are_live_and_go_back_to_their_defaults() -> None:
    model = with_payload(0.1)
    simulator = CpuSimulator(model, 2, 1)
    limits = simulator.limits("actuator_forcerange")
    limits[1] = 3.0
    assert (simulator.model_of(1).actuator_forcerange == 3.0).all()
    np.testing.assert_array_equal(simulator.model_of(0).actuator_forcerange, model.actuator_forcerange)
    simulator.set_model_fields({})
    np.testing.assert_array_equal(limits[1].numpy(), model.actuator_forcerange)
    with pytest.raises(ModelError, match="'force_limits' is not a model field"):
        simulator.limits("force_limits")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"body_weight": torch.ones(2, 3)}, "'body_weight' is not a model field"),
        ({"dof_damping": torch.ones(2, 3)}, r"shape \(2, 7\), got \(2, 3\)"),
        ({"dof_damping": torch.tensor([[1.0] * 7, [float("nan")] * 7])}, "of simulation 1 is not finite"),
    ],
)
def test_a_wrong_model_field_is_refused(values: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        CpuSimulator(with_payload(0.1), 2, 1).set_model_fields(values)


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False])])
def test_an_initial_state_of_another_shape_is_refused(mask: Tensor | None) -> None:
    with pytest.raises(ModelError, match=r"the initial 'qpos' has the shape \(2, 1\), expected \(2, 7\)"):
        CpuSimulator(with_payload(0.1), 2, 1).reset(mask, {"qpos": torch.zeros(2, 1, dtype=torch.float64)})


def test_an_unknown_state_field_is_refused() -> None:
    with pytest.raises(ModelError, match="'position' is not a field of a simulation"):
        CpuSimulator(with_payload(0.1), 2, 1).field("position")


@pytest.mark.parametrize(
    ("field", "value"),
    [("qpos", float("nan")), ("qpos", 1e12), ("qvel", float("nan")), ("qvel", 1e12), ("ctrl", float("nan"))],
)
def test_the_engine_reports_an_unstable_simulation_and_leaves_it_as_it_is(field: str, value: float) -> None:
    env = made("reach")
    env.simulator.field(field)[2, 3] = value
    assert env.simulator.step(1).tolist() == [i == 2 for i in range(COUNT)]
    # MuJoCo's own reset would have put every joint at 0, and gone on from there.
    assert not torch.allclose(env.simulator.field("qpos")[2], torch.zeros(7, dtype=torch.float64), atol=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
@pytest.mark.parametrize("field", ["qpos", "qvel"])
def test_a_broken_simulation_is_named_and_reset_alone(
    field: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, broken = made("reach"), made("reach")
    mask = torch.arange(COUNT) == 3
    for step, action in enumerate(actions(plain, 15)):
        if step == 5:
            broken.simulator.field(field)[3, 2] = value
        one, two = plain.step(action), broken.step(action)
        assert not one.failed.any()
        assert torch.equal(two.failed, mask & (step == 5))
        assert torch.equal(two.terminated, two.failed)
        assert torch.equal(one.observation[~mask], two.observation[~mask])
        assert torch.equal(one.reward[~mask], two.reward[~mask])
        np.testing.assert_array_equal(snapshot(plain)[~mask], snapshot(broken)[~mask])
        assert torch.isfinite(two.observation).all() and torch.isfinite(two.reward).all()
        assert all(torch.isfinite(term).all() for term in two.terms.values())
        if step == 5:
            assert two.reward[3] == 0.0 and not two.success[3]
            assert torch.equal(two.observation[3, 7:14], torch.zeros(7))  # at rest: begun anew
            assert two.observation[3, :7] == pytest.approx(broken.model.key("home").qpos, abs=0.15)
    assert broken.tasks is not None
    assert broken.elapsed.tolist() == [15, 15, 15, 9, 15, 15]
    assert broken.last_failure == f"reach: physics failed in simulation 3, task 3 {broken.tasks.describe(3)}"
    assert plain.last_failure is None
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_an_action_that_is_not_finite_is_reported_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    env = made("reach")
    action = actions(env, 1)[0]
    action[2, 4] = float("nan")
    step = env.step(action)
    assert step.failed.tolist() == [i == 2 for i in range(COUNT)]
    assert torch.isfinite(step.observation).all() and torch.isfinite(step.reward).all()
    assert not env.step(actions(env, 1)[0]).failed.any()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_reward_that_is_not_finite_counts_as_a_failure() -> None:
    env = made("reach")
    assert isinstance(env, Reach)
    env.goal = env.goal.clone()
    env.goal[1, 2] = float("nan")
    step = env.step(torch.zeros(COUNT, 7))
    assert step.failed.tolist() == [i == 1 for i in range(COUNT)]
    assert step.reward[1] == 0.0 and torch.isfinite(step.reward).all()


def test_the_failing_task_is_named_where_tasks_are_shared() -> None:
    env = Reach(6, threads=1)
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    env.simulator.field("qvel")[3, 0] = float("nan")
    env.step(torch.zeros(6, 7))
    assert env.last_failure is not None and "simulation 3, task 1 " in env.last_failure


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_leaves_its_parents_threads_alone() -> None:
    """Whatever of the parent is unreachable when it begins."""
    code = """
import gc, os, signal, mujoco
from envs.core.engine_cpu import CpuSimulator
gc.disable()
simulator = CpuSimulator(mujoco.MjModel.from_xml_string("<mujoco/>"), 4, 2)
simulator.step(1)
simulator.itself = simulator
del simulator
child = os.fork()
if not child:
    gc.collect()
    os._exit(0)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.alarm(20)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
