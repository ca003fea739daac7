"""The running robots: Gymnasium's own physics, the papers' rewards, our success criteria."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.tasks import Range, Tasks
from envs.errors import TaskError
from envs.families.ant import AntDir, AntGoal
from envs.families.cheetah import Cheetah, CheetahDir, CheetahVel
from envs.families.locomotion import GYMNASIUM_ASSETS, LocomotionEnvironment

DT = 0.05  # s, a control step


def given(kind: Callable[..., Any], count: int, **values: float | list[float]) -> Any:
    """An environment whose tasks have the given values, one for all or one for each, and the compiled masses."""
    env = kind(count, seed=3, threads=1)
    columns = {"mass_scale": 1.0, **values}
    env.set_tasks(Tasks({key: torch.tensor(v).float().reshape(-1, 1).expand(count, 1) for key, v in columns.items()}))
    env.reset()
    return env


def actions(env: LocomotionEnvironment, steps: int) -> Tensor:
    shape = (steps, env.num_simulations, env.action_size)
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 1


def papers_terms(
    kind: type[LocomotionEnvironment], before: np.ndarray, after: np.ndarray, goal: np.ndarray, action: np.ndarray
) -> list[float]:
    """The reward terms of one step, as the papers' code has them, from qpos before and after it."""
    velocity, effort = (after - before)[:2] / DT, float(np.square(action).sum())
    if kind is CheetahDir:
        return [float(velocity[0] * goal[0]), -0.05 * effort]
    if kind is CheetahVel:
        return [float(-abs(velocity[0] - goal[0])), -0.05 * effort]
    if kind is AntDir:
        return [float(velocity @ goal), -0.5 * effort, float(0.2 <= after[2] <= 1.0)]
    return [float(-np.abs(after[:2] - goal).sum()), -0.1 * effort]  # and in ours the one of `closing`


CHEETAH_DIR = (CheetahDir, {"direction": [0.0, 1.0]}, "half_cheetah.xml")
CHEETAH_VEL = (CheetahVel, {"goal": [0.5, 1.5]}, "half_cheetah.xml")
ANT_DIR = (AntDir, {"heading": [0.3, 2.5]}, "ant.xml")
ANT_GOAL = (AntGoal, {"goal_angle": [0.3, 2.5], "goal_radius_squared": 4.0}, "ant.xml")


@pytest.mark.parametrize(("kind", "task", "file"), [CHEETAH_DIR, CHEETAH_VEL, ANT_DIR, ANT_GOAL])
def test_physics_is_that_of_gymnasium_s_file(
    kind: type[LocomotionEnvironment], task: dict[str, Any], file: str
) -> None:
    """With the observations and the rewards that follow from it, written down once more from the papers."""
    env = given(kind, 2, **task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MuJoCo's, about an old attribute of the cheetah
        model = mujoco.MjModel.from_xml_path(str(GYMNASIUM_ASSETS / file))
    datas = [mujoco.MjData(model) for _ in range(2)]
    for i, data in enumerate(datas):
        data.qpos[:], data.qvel[:] = env.qpos[i].numpy(), env.qvel[i].numpy()
    for action in actions(env, 40):
        step = env.step(action)
        for i, data in enumerate(datas):
            before = data.qpos.copy()
            data.ctrl[:] = action[i].numpy()
            mujoco.mj_step(model, data, nstep=5)
            np.testing.assert_allclose(env.qpos[i].numpy(), data.qpos, atol=1e-8)
            np.testing.assert_allclose(env.qvel[i].numpy(), data.qvel, atol=1e-7)
            place = {AntDir: 2, AntGoal: 0}.get(kind, 1)
            seen = [*data.qpos[place:], *data.qvel]
            if issubclass(kind, Cheetah):
                seen += [data.qpos[0], 0.0, data.qpos[1] + 0.7]
            np.testing.assert_allclose(step.observation[i].numpy(), seen, atol=1e-5)
            expected = papers_terms(kind, before, data.qpos, env.goal[i].numpy(), action[i].numpy())
            ours = [term[i].item() for name, term in step.terms.items() if name != "closing"]
            assert ours == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("kind", "task"), [CHEETAH_DIR[:2], ANT_DIR[:2]])
def test_episodes_begin_as_gymnasium_s_do(kind: type[LocomotionEnvironment], task: dict[str, Any]) -> None:
    env = given(kind, 2, **task)
    starts = []
    for _ in range(300):
        env.reset()
        starts.append((env.qpos - env.rest, env.qvel.clone()))
    position, velocity = (torch.cat(parts) for parts in zip(*starts, strict=True))
    assert position.abs().max() <= 0.1
    # The deviation of uniform numbers in [-0.1, 0.1], and a normal deviation of 0.1.
    assert position.std() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert velocity.std() == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(("kind", "price"), [(CheetahDir, 0.05), (CheetahVel, 0.05), (AntDir, 0.5), (AntGoal, 0.1)])
def test_the_price_of_torque(kind: type[Any], price: float) -> None:
    env = kind(2, threads=1)
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    step = env.step(3.0 * torch.ones(2, env.action_size))
    assert torch.allclose(step.terms["effort"], torch.tensor(-price * env.action_size))


def test_bodies_are_scaled() -> None:
    env = CheetahDir(3, threads=1)
    env.set_tasks(Tasks({"direction": torch.zeros(3, 1), "mass_scale": torch.tensor([[0.5], [1.0], [2.0]])}))
    for i, scale in enumerate((0.5, 1.0, 2.0)):
        model = env.simulator.model_of(i)
        assert model.body_mass.sum() == pytest.approx(14.0 * scale)
        np.testing.assert_allclose(model.body_inertia, scale * env.model.body_inertia)


def test_an_overridden_direction_is_the_one_that_is_named() -> None:
    env = CheetahDir(4, threads=1, tasks_override={"direction": "backward"})
    env.set_tasks(env.distribution.published("train", 4))
    assert (env.goal == -1.0).all()
    both = CheetahDir(100, threads=1)
    both.set_tasks(both.distribution.published("test"))
    assert set(both.goal.flatten().tolist()) == {-1.0, 1.0}


def test_cheetah_dir_succeeds_ten_metres_away_in_its_direction() -> None:
    env = given(CheetahDir, 6, direction=[0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    env.qpos[:, 0] = torch.tensor([9.5, 10.5, -10.5, -9.5, -10.5, 10.5])
    assert env.step(torch.zeros(6, 6)).success.tolist() == [False, True, False, False, True, False]


def test_cheetah_vel_succeeds_by_the_mean_speed_of_fifty_steps() -> None:
    env = given(CheetahVel, 4, goal=[0.0, 0.3, 0.0, 0.3])
    way: list[list[float]] = [[x] for x in env.x.tolist()]
    seen = set()
    mask = torch.tensor([False, True, False, True])
    for index, action in enumerate(actions(env, 160)):
        if index == 70:
            env.reset(mask)
            way = [[env.x[i].item()] if mask[i] else way[i] for i in range(4)]
        env.qvel[:2, 0] = 0.8 * np.sin(index / 12)  # a run whose speed changes
        success = env.step(action).success.tolist()
        for i, places in enumerate(way):
            places.append(env.x[i].item())
            speed = (places[-1] - places[-51]) / (50 * DT) if len(places) > 50 else float("inf")
            assert success[i] == (abs(speed - env.goal[i].item()) < 0.1)
            seen.add((i, success[i]))
    assert {(0, True), (0, False), (1, False), (2, True)} <= seen


def test_ant_dir_succeeds_five_metres_along_its_direction() -> None:
    env = given(AntDir, 4, heading=[0.0, 0.0, np.pi / 2, np.pi / 2])
    env.qpos[:, :2] = torch.tensor([[5.3, 9.0], [4.7, 9.0], [9.0, 4.7], [-9.0, 5.3]])
    assert env.step(torch.zeros(4, 8)).success.tolist() == [True, False, False, True]


def test_ant_survives_between_two_heights_and_its_episode_goes_on() -> None:
    env = given(AntDir, 3, heading=0.0)
    env.qpos[:, 2] = torch.tensor([0.7, 1.6, 0.1])
    env.qvel.zero_()
    step = env.step(torch.zeros(3, 8))
    assert step.terms["survive"][:2].tolist() == [1.0, 0.0]
    assert not step.terminated.any()


def test_ant_goal_distance_and_success() -> None:
    env = given(AntGoal, 3, goal_angle=np.pi / 2, goal_radius_squared=4.0)
    assert torch.allclose(env.goal, torch.tensor([0.0, 2.0]), atol=1e-6)
    env.qpos[:, :2] = torch.tensor([[0.0, 2.3], [0.4, 2.4], [1.0, 0.0]])
    env.qvel.zero_()
    step = env.step(torch.zeros(3, 8))
    assert step.success.tolist() == [True, False, False]
    expected = -(env.position.float() - env.goal).abs().sum(-1)
    assert torch.allclose(step.terms["distance"], expected)
    assert step.terms["distance"][2].item() == pytest.approx(-3.0, abs=0.1)


def test_ant_goal_rewards_the_speed_towards_the_goal() -> None:
    """Which sums up to the way by which the torso has come nearer."""
    env = given(AntGoal, 4, goal_angle=[0.0, 1.0, 2.0, 3.0], goal_radius_squared=4.0)
    plain = given(partial(AntGoal, closing=0.0), 4, goal_angle=[0.0, 1.0, 2.0, 3.0], goal_radius_squared=4.0)
    start, total = env.position.clone(), torch.zeros(4)
    for action in actions(env, 30):
        step, published = env.step(action), plain.step(action)
        total += step.terms["closing"]
        assert set(published.terms) == {"distance", "effort"}
        assert torch.allclose(step.reward - step.terms["closing"], published.reward, atol=1e-4)
    far, near = (torch.linalg.vector_norm(place - env.goal, dim=-1) for place in (start, env.position))
    assert torch.allclose(total, (10.0 * (far - near) / DT).float(), atol=1e-3)
    assert (far - near).abs().min() > 0.01
    env = given(partial(AntGoal, closing=3.0), 1, goal_angle=0.0, goal_radius_squared=4.0)
    env.qvel[:, 0] = 2.0
    assert env.step(torch.zeros(1, 8)).terms["closing"].item() == pytest.approx(3 * 2.0, rel=0.3)


@pytest.mark.parametrize("closing", [-1.0, float("nan"), float("inf")])
def test_the_weight_of_the_speed_is_a_finite_number(closing: float) -> None:
    with pytest.raises(TaskError, match=r"^closing must be a finite number of at least 0, got "):
        AntGoal(1, closing=closing)


def test_ant_goals_are_uniform_on_a_disk() -> None:
    env = AntGoal(4000, threads=1)
    env.set_tasks(env.distribution.sample(4000))
    squared = env.goal.square().sum(-1)
    assert squared.max() <= 9.0 + 1e-4
    # As many in each of three rings of one area, and in each quarter.
    rings = torch.histc(squared, 3, 0.0, 9.0)
    quarters = torch.bincount((env.goal[:, 0] > 0).long() + 2 * (env.goal[:, 1] > 0).long())
    assert torch.allclose(rings, torch.full((3,), 4000 / 3), rtol=0.1)
    assert torch.allclose(quarters.float(), torch.full((4,), 1000.0), rtol=0.1)
    beyond = env.distribution.parameters["goal_radius_squared"]
    assert isinstance(beyond, Range) and beyond.ood == (((9.0,), (16.0,)),)


def test_pictures_show_the_task() -> None:
    ways = given(CheetahDir, 2, direction=[0.0, 1.0])
    ways.qpos[1] = ways.qpos[0]
    np.testing.assert_allclose(ways.render_state(0)["mocap_quat"], [[1, 0, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(ways.render_state(1)["mocap_quat"], [[0, 0, 0, 1]], atol=1e-9)
    forward, back = (ways.drawer(i, 64, 48)(ways.render_state(i)) for i in range(2))
    assert np.any(forward != back)
    pace = given(CheetahVel, 1, goal=1.5)
    for action in actions(pace, 20):
        pace.step(action)
    np.testing.assert_allclose(pace.render_state(0)["mocap_pos"], [[1.5, 0, 0]], atol=1e-6)
    ahead = given(AntDir, 1, heading=np.pi / 2)
    place = ahead.render_state(0)["mocap_pos"][0, :2] - ahead.position[0].numpy()
    np.testing.assert_allclose(place, [0.0, 1.4], atol=1e-6)
    goal = given(AntGoal, 1, goal_angle=0.0, goal_radius_squared=4.0)
    np.testing.assert_allclose(goal.render_state(0)["mocap_pos"][0, :2], [2.0, 0.0], atol=1e-6)


def test_the_marker_is_nothing_to_the_physics() -> None:
    env = CheetahDir(1, threads=1)
    assert env.model.body("marker").mass == 0
    assert not any(env.model.geom(i).name.startswith("marker") for i in range(env.model.ngeom))
