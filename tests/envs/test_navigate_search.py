"""Navigate_search: the wall, when and where the dock is seen, what is felt, and that searching takes episodes."""

import math

import pytest
import torch
from torch import Tensor

from envs.core.models import PictureModel
from envs.core.tasks import Tasks
from envs.families.navigate import MAX_RANGE, OBSTACLES, RAYS, ROBOT_RADIUS, Navigate
from envs.families.navigate_search import DOOR, RECOGNISED, NavigateSearch
from tests.envs.controllers.navigate_search import NORTH, SOUTH, Sweep, act
from tests.envs.test_navigate import FORWARD, drive, put, tasks

DOCK, FLAG = slice(RAYS + 8, RAYS + 10), RAYS + 10
Y = 1.2  # m, the middle of the north room


def ahead(x: float) -> list[float]:
    """Places of obstacles of which the first stands at (x, Y)."""
    return [x, Y] + [1.9, -1.9] * (OBSTACLES - 1)


def seen(x: float, y: float, heading: float, count: int = 1, **changes: object) -> Tensor:
    """The last three numbers (count, 3) of the observation of a robot at a place, in tasks with these changes."""
    env = NavigateSearch(count, threads=1)
    env.set_tasks(tasks(count, **changes))
    observation = put(env, x, y, heading)
    assert observation.shape == (count, FLAG + 1)
    return observation[:, DOCK.start :]


def published(split: str = "test") -> NavigateSearch:
    env = NavigateSearch(100, threads=1)
    env.set_tasks(env.distribution.published(split))
    return env


@pytest.mark.parametrize(
    ("heading", "expected"),
    [(0.0, [0.4, 0.3]), (math.pi / 2, [0.3, -0.4]), (math.pi, [-0.4, -0.3]), (-math.pi / 2, [-0.3, 0.4])],
)
def test_the_dock_is_seen_in_the_frame_of_the_robot(heading: float, expected: list[float]) -> None:
    assert torch.allclose(seen(0.5, 0.5, heading, goal=[0.9, 0.8]), torch.tensor([*expected, 1.0]), atol=1e-6)


def test_the_dock_is_recognised_from_near_by() -> None:
    angle = torch.linspace(0.0, 2 * math.pi, 8)
    way = torch.stack([angle.cos(), angle.sin()], -1)
    near, far = (torch.tensor([0.0, Y]) + (RECOGNISED + more) * way for more in (-0.01, 0.01))
    assert seen(0.0, Y, 0.3, 8, goal=near)[:, 2].tolist() == [1.0] * 8
    assert torch.equal(seen(0.0, Y, 0.3, 8, goal=far), torch.zeros(8, 3))


def test_an_obstacle_hides_what_is_behind_it_alone() -> None:
    goal = [[0.78, Y], [0.78, Y], [-0.78, Y], [0.4, Y + 0.6]]
    given = {"goal": goal, "obstacles": ahead(0.25), "obstacle_count": [[1.0], [0.0], [1.0], [1.0]]}
    assert seen(0.0, Y, 0.0, 4, **given)[:, 2].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert torch.equal(seen(0.0, Y, 0.0, 4, **given)[0], torch.zeros(3))
    beyond = seen(0.0, Y, 0.0, goal=[0.4, Y], obstacles=ahead(0.95), obstacle_count=[1.0])
    assert beyond.tolist() == [pytest.approx([0.4, 0.0, 1.0])]


def test_a_wall_behind_the_dock_does_not_hide_it() -> None:
    assert seen(1.9, 1.6, 0.0, goal=[1.9, 1.9])[0].tolist() == pytest.approx([0.0, 0.3, 1.0], abs=1e-6)


def test_a_robot_on_the_dock_sees_it_where_it_is() -> None:
    assert seen(0.5, 0.5, 1.0, goal=[0.5, 0.5])[0].tolist() == [0.0, 0.0, 1.0]


def test_all_else_is_as_in_navigate() -> None:
    plain, search = Navigate(20, threads=1), NavigateSearch(20, threads=1, goal_visible=True)
    given = plain.distribution.published("train", 20)
    search.set_tasks(given)
    plain.set_tasks(Tasks({**given.values, "goal": search.goal}))
    assert torch.equal(plain.obstacles, search.obstacles)
    goal = torch.tensor([[0.5, Y], [1.7, -Y]]).repeat_interleave(10, 0)
    ahead = [1.2, Y] + [-1.2, -2.0] * (OBSTACLES - 1)
    given = tasks(
        20, goal=goal, obstacles=ahead, obstacle_count=[1.0], chassis_mass=torch.linspace(2.0, 6.0, 20)[:, None]
    )
    for env in (plain, search):
        env.set_tasks(given)
        put(env, 0.0, Y, 0.0)  # out of sight of the wall between the rooms
    arrived = []
    for action in 0.6 * torch.rand(30, 20, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.3, -0.3]):
        one, two = plain.step(action), search.step(action)
        assert torch.equal(one.observation[:, RAYS:], two.observation[:, RAYS : RAYS + 8])
        assert torch.equal(two.observation[:, FLAG + 1 :], search.goal)
        for term in ("arrival", "collision", "proximity", "effort"):
            assert torch.equal(one.terms[term], two.terms[term])
        assert two.terms.keys() == one.terms.keys() - {"beacon"} | {"search"} and torch.equal(one.success, two.success)
        assert torch.equal(two.observation[:, FLAG] == 1, search.recognised)
        arrived.append(torch.stack([one.success, search.recognised]))
    seen = torch.stack(arrived)
    assert seen.any(0)[:, :10].all() and not seen.any(0)[:, 10:].any() and not seen[-1, 0].all()
    assert search.collided.any()


def test_a_dock_stands_clear_of_the_wall_on_its_side() -> None:
    goal = [[0.5, 0.1], [0.5, -0.1], [0.5, 0.0], [0.5, 1.0], [DOOR - 0.3, -0.1], [DOOR - 0.4, -0.1]]
    env = NavigateSearch(6, threads=1)
    given = tasks(6, goal=goal, obstacles=[0.5, 0.3] + [1.9, -1.9] * (OBSTACLES - 1), obstacle_count=[1.0])
    env.set_tasks(given)
    expected = torch.tensor([0.35, -0.35, 0.35, 1.0, -0.35, -0.1])
    assert torch.equal(env.goal, torch.stack([given["goal"][:, 0], expected], -1))
    assert torch.equal(env.realised(given)["goal"], env.goal), "so it is shown"
    env.reset()
    assert torch.equal(env.simulator.field("mocap_pos")[:, 0, :2].float(), env.goal), "and it is drawn there"
    assert (env.obstacles[:, 0, 2] > 0).tolist() == [False, True, False, True, True, True], "no obstacle near it"


def test_a_wall_divides_the_rooms_but_for_the_door() -> None:
    env = NavigateSearch(4, threads=1)
    env.set_tasks(tasks(4, goal=[[0.5, -0.35], [0.5, 0.35], [DOOR - 0.2, -0.35], [0.5, -0.35]]))
    put(env, 0.5, 0.3, -math.pi / 2)
    env.qpos[2, 0] = DOOR - 0.2
    env.qpos[3, 1] = -0.1 - ROBOT_RADIUS
    env.sense()
    observation = env.observe()
    assert observation[:, FLAG].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert observation[:2, 0].tolist() == pytest.approx([0.25 / MAX_RANGE] * 2, abs=1e-4)
    assert observation[2, 0] == 1.0
    south = env.places[:, 1] < 0.0
    assert not env.near[:2, south].any() and not env.near[3, ~south].any() and env.near[3, south].any()
    last = drive(env, FORWARD, 6)[-1]
    assert env.collided.tolist() == [True, True, False, False] and last.terms["collision"][0] == -1.0
    assert (env.qpos[:2, 1] > 0.1).all() and env.qpos[2, 1] < 0.1


def test_coming_nearer_than_ever_in_the_episode_is_paid() -> None:
    env = NavigateSearch(2, threads=1)
    env.set_tasks(tasks(2, goal=[1.5, Y]))
    put(env, 0.0, Y, 0.0)
    begun = env.distance.clone()
    there = drive(env, FORWARD, 10)
    assert all((step.terms["closing"] > 0.0).all() for step in there[2:])
    nearest = env.distance.clone()
    back = drive(env, -FORWARD, 10)  # it still rolls on at first
    assert (env.distance > nearest + 0.2).all() and (back[-1].terms["closing"] == 0.0).all()
    again = drive(env, FORWARD, 17)
    paid = 0.1 * torch.stack([step.terms["closing"] for step in (*there, *back, *again)]).sum(0)
    assert torch.allclose(paid, begun - env.distance, atol=1e-5) and (env.distance < nearest - 0.2).all(), "once"
    put(env, -0.5, Y, 0.0)
    assert (drive(env, FORWARD, 5)[-1].terms["closing"] > 0.0).all(), "every episode begins anew"
    env.change_tasks(tasks(2, goal=[[1.5, Y], [1.8, Y]]))
    assert (drive(env, FORWARD, 2)[-1].terms["closing"] > 0.0).all(), "and whoever gets another dock"


def test_what_is_searched_for_the_first_time_in_a_trial_is_paid() -> None:
    env = NavigateSearch(2, threads=1)
    env.set_tasks(tasks(2, goal=[[1.9, -1.9], [0.9, Y]]))
    put(env, 0.0, Y, 0.0)
    grid = torch.cartesian_prod(torch.linspace(-0.6, 1.9, 16), torch.linspace(-1.9, 1.9, 16))
    north = grid[:, 1] > 0.0  # what the wall does not hide
    seen = north & (torch.cdist(env.qpos[:1, :2].float(), grid)[0] < 0.8)
    paid, unknown = torch.zeros(2), env.recognised.logical_not()
    assert unknown.all()
    for step in (env.step(FORWARD.expand(2, 2)) for _ in range(20)):
        near = north & (torch.cdist(env.qpos[:, :2].float(), grid) < 0.8)
        expected = 30.0 * (near[0] & ~seen).float().mean()
        assert torch.allclose(step.terms["search"], expected * unknown, atol=1e-6), "of the same way in both"
        seen, unknown = seen | near[0], unknown & ~env.recognised
        paid += step.terms["search"]
    assert paid[0] > 3.0 and 0.0 < paid[1] < 0.5 * paid[0] and unknown.tolist() == [True, False]

    def again() -> Tensor:
        put(env, 0.0, Y, 0.0)
        return torch.stack([step.terms["search"] for step in drive(env, FORWARD, 20)]).sum(0)

    assert torch.equal(again(), torch.zeros(2)), "the next episode of the trial"
    env.begin_trial()
    assert again()[0] > 3.0
    env.set_tasks(tasks(2, goal=[[1.9, -1.8], [0.9, Y]]))
    paid = again()
    assert paid[0] > 3.0 and paid[1] == 0.0, "where the dock is elsewhere, and there alone"


def test_what_is_felt_is_arrival_less_collision() -> None:
    env = NavigateSearch(4, threads=1)
    env.set_tasks(tasks(4, goal=[[0.0, Y + 0.31], [0.0, Y + 0.29], [0.0, Y], [-2.1, Y]]))
    put(env, 0.0, Y, 0.0)
    env.qpos[2:, 0] = -2.3  # in the west wall
    assert drive(env, 0 * FORWARD, 1)[-1].feedback.tolist() == [0.0, 1.0, -1.0, 0.0]


def test_the_range_of_recognition_is_only_drawn() -> None:
    env = NavigateSearch(1, threads=1)
    assert float(PictureModel(env.spec).model.geom("recognised").size[0]) == RECOGNISED
    assert env.model.ngeom == Navigate(1, threads=1).model.ngeom + 1, "the wall"


@pytest.mark.parametrize(("split", "at_least"), [("test", 0.95), ("ood", 0.9)])
def test_a_controller_that_knows_the_task_solves_navigate_search(split: str, at_least: float) -> None:
    env = published(split)
    env.reset()
    for _ in range(env.horizon):
        step = env.step(act(env, env.goal))
    assert step.success.float().mean() >= at_least


def test_one_episode_is_too_short_to_search_and_a_memory_of_two_finds_most() -> None:
    env = published()
    sweep, found = Sweep(env), []
    for waypoints in (NORTH, SOUTH, NORTH):
        env.reset()
        sweep.begin(waypoints)
        for _ in range(env.horizon):
            step = env.step(sweep.act())
        found.append(float(step.success.float().mean()))
    assert 0.2 < found[0] < 0.5
    assert found[2] >= 0.7
