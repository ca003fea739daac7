"""The families in which the arm of reach has to find something out: a goal in a shelf, or what its drives are like."""

import pytest
import torch
from torch import Tensor

from envs.core.tasks import Tasks
from envs.families.reach import DELTA
from envs.families.reach_search import ReachSearch
from envs.families.reach_squared import ReachSquared
from envs.families.reach_worn import GOAL_HIGH, GOAL_LOW, ReachWorn
from tests.envs.controllers.reach import knows, reacts

COUNT = 100


def worn(gain: float, bias: float, stuck: int = 0) -> Tasks:
    """One task in which all drives are alike."""
    values = {"drive_gain": torch.full((1, 7), gain), "drive_bias": torch.full((1, 7), bias)}
    return Tasks({**values, "stuck_joint": torch.tensor([[float(stuck)]])})


@pytest.mark.parametrize("split", ["test", "ood"])
def test_every_goal_of_the_shelf_is_soon_reached_and_felt_nowhere_else(split: str) -> None:
    env = ReachSearch(COUNT, threads=1)
    env.set_tasks(env.distribution.published(split, COUNT))
    env.reset()
    assert env.signal().float().mean() < 0.05, "goals are felt at home"
    for _ in range(15):
        step = env.step(reacts(env, 0.3))
        assert torch.equal(step.feedback == 1, (env.grip.float() - env.assigned["goal"]).norm(dim=-1) < 0.06)
    assert step.success.all()


def test_the_squared_reward_is_steeper_further_from_the_goal() -> None:
    env = ReachSquared(COUNT, threads=1)
    env.set_tasks(env.distribution.published("test", COUNT))
    env.reset()
    for _ in range(env.horizon):
        step = env.step(reacts(env, 0.3))
        distance = (env.grip.float() - env.assigned["goal"]).norm(dim=-1)
        torch.testing.assert_close(step.terms["distance"], -10.0 * distance**2)
        torch.testing.assert_close(step.reward, sum(step.terms.values()))
    assert step.success.all() and torch.equal(step.feedback, step.reward)


@pytest.mark.parametrize(("split", "least"), [("test", 0.97), ("ood", 0.8)])
def test_worn_drives_reach_the_goal_for_one_who_knows_them(split: str, least: float) -> None:
    env = ReachWorn(COUNT, threads=1)
    env.set_tasks(env.distribution.published(split, COUNT))
    env.reset()
    for _ in range(env.horizon):
        step = env.step(knows(env))
    assert step.success.float().mean() >= least


def test_worn_drives_do_not_reach_the_goal_for_one_who_only_reacts() -> None:
    env = ReachWorn(COUNT, threads=1)
    env.set_tasks(env.distribution.published("test", COUNT))
    found = []
    for stiffness in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.2):
        env.reset()
        for _ in range(env.horizon):
            step = env.step(reacts(env, stiffness))
        found.append(float(step.success.float().mean()))
    assert max(found) <= 0.35 and found[0] < max(found) > found[-1], found


def test_a_command_arrives_two_steps_late_weakened_and_shifted_and_not_at_a_stuck_joint() -> None:
    env = ReachWorn(1, threads=1)
    env.set_tasks(worn(0.5, 0.2, stuck=1))
    assert env.stuck.nonzero().tolist() == [[0, 2]]  # joint3
    moved = moves(env, [1.0, 0.0, -0.5, 0.0])
    for found, action in zip(moved, (0.0, 0.0, 1.0, 0.0), strict=True):
        expected = torch.full((7,), 0.5 * (action + 0.2) * DELTA).double()
        expected[2] = 0.0
        assert torch.allclose(found, expected, atol=1e-8)
    again = moves(env, [0.0])  # what was on its way does not outlive the episode
    assert torch.allclose(again[0], moved[0], atol=1e-8)


def moves(env: ReachWorn, actions: list[float]) -> list[Tensor]:
    """How far each of the first simulation's joint targets (7,) went in each step of an episode, in rad."""
    env.reset()
    targets = [env.ctrl[0].clone()]
    for action in actions:
        env.step(torch.full((1, 7), action))
        targets.append(env.ctrl[0].clone())
    return [after - before for before, after in zip(targets, targets[1:], strict=False)]


def test_goals_are_drawn_anew_in_every_episode_and_only_where_one_begins() -> None:
    env = ReachWorn(2, threads=1)
    env.set_tasks(worn(1.0, 0.0))
    first = env.reset()[:, 10:]
    second = env.reset(torch.tensor([True, False]))[:, 10:]
    assert not torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    many = torch.cat([env.reset()[:, 10:] for _ in range(200)])
    assert (many >= torch.tensor(GOAL_LOW)).all() and (many <= torch.tensor(GOAL_HIGH)).all()
    assert (many.amin(0) - torch.tensor(GOAL_LOW)).max() < 0.02 > (torch.tensor(GOAL_HIGH) - many.amax(0)).max()


def test_the_first_observation_does_not_tell_what_the_drives_are_like() -> None:
    env = ReachWorn(1, threads=1)
    seen = []
    for tasks in (worn(1.0, 0.0), worn(0.4, 0.6, stuck=2)):
        env.generator.manual_seed(0)
        env.set_tasks(tasks)
        seen.append(env.reset())
    assert torch.equal(*seen)
    assert torch.equal(env.privileged()[0], torch.tensor([0.4] * 7 + [0.6] * 7 + [0.0] * 4 + [1.0, 0.0, 0.0]))
