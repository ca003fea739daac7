"""ML10: several of Meta-World's tasks side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.adapters.gymnasium import VectorTaskEnv
from envs.core.environment import Part
from envs.core.tasks import Tasks
from envs.errors import TaskError
from envs.metaworld.benchmarks import metaworld
from envs.metaworld.mixed import MixedTasks
from envs.metaworld.sawyer import SawyerTask
from tests.envs.metaworld_tasks import actions, needs_package


@needs_package
def test_tasks_side_by_side_are_what_each_is_alone() -> None:
    mixed = metaworld(6, benchmark="ML10", threads=1)
    assert isinstance(mixed, MixedTasks)
    drawn = mixed.distribution.published("train", 3)
    order = torch.tensor([2, 0, 1, 0, 2, 1])  # not task after task
    tasks = drawn.select(order)
    mixed.set_tasks(tasks)
    observation, acted = mixed.reset(), actions(3, 6)
    steps = [mixed.step(action) for action in acted]
    for kind, name in enumerate(("reach", "push", "pick-place")):
        rows = order == kind
        env = metaworld(2, task=name, threads=1)
        env.set_tasks(Tasks({key: value[rows] for key, value in tasks.values.items() if key != "task"}))
        assert torch.equal(env.reset(), observation[rows])
        for action, together in zip(acted, steps, strict=True):
            alone = env.step(action[rows])
            assert torch.equal(alone.observation, together.observation[rows])
            assert torch.equal(alone.reward, together.reward[rows])
            assert torch.equal(alone.success, together.success[rows])
    assert mixed.privileged().shape == (6, mixed.privileged_size)


@needs_package
def test_who_gets_another_task_begins_anew_and_the_others_go_on() -> None:
    """The same episodes, to rounding, as where nothing is moved between batches."""
    moved, left = (metaworld(4, benchmark="ML10", threads=1) for _ in range(2))
    listed, acted = moved.distribution.published("train", 3), actions(12, 4)
    tasks = [listed.select(torch.tensor(rows)) for rows in ([0, 1, 1, 0], [0, 1, 2, 0], [2, 1, 2, 0])]
    begun, anew = torch.tensor([True] * 4), torch.tensor([False, False, True, False])
    for env in (moved, left):
        env.set_tasks(tasks[0])
        env.reset(begun)
        last = [env.step(action).observation for action in acted[:5]][-1]
    moved.set_tasks(tasks[1])
    assert torch.allclose(moved.reset(anew)[~anew], last[~anew], atol=1e-5)
    for action in acted[5:]:
        ours, theirs = moved.step(action), left.step(action)
        for name in ("observation", "reward", "success", "feedback"):
            assert torch.allclose(getattr(ours, name)[~anew].double(), getattr(theirs, name)[~anew].double(), atol=1e-5)
    fresh = metaworld(1, benchmark="ML10", threads=1)
    fresh.set_tasks(tasks[1].select(torch.tensor([2])))
    fresh.reset()
    last = [fresh.step(action[2:3]) for action in acted[5:]][-1]
    assert torch.allclose(last.observation[0], ours.observation[2], atol=1e-5)
    moved.set_tasks(tasks[2])
    with pytest.raises(TaskError, match=r"^metaworld: simulation 0 has another task than before"):
        moved.reset(anew)
    moved.reset(~anew)


@needs_package
def test_before_anything_runs_all_have_to_be_reset() -> None:
    mixed = metaworld(2, benchmark="ML10", threads=1)
    mixed.set_tasks(mixed.distribution.published("train", 2))
    with pytest.raises(TaskError, match=r"simulation 1 has another task than before"):
        mixed.reset(torch.tensor([True, False]))


@needs_package
def test_a_vector_environment_gives_each_of_its_tasks_in_its_own_time() -> None:
    """Autoreset begins an episode in some simulations, with another of ML10's tasks."""
    env = VectorTaskEnv("metaworld", 3, benchmark="ML10", horizon=3)
    env.set_task(None)
    env.reset(seed=0)
    env.step(actions(1, 3)[0].numpy())
    env.reset(options={"reset_mask": np.array([True, False, False])})
    ended = []
    for action in actions(9, 3):
        observation, _, _, truncated, _ = env.step(action.numpy())
        assert np.isfinite(observation).all()
        ended.append(truncated.tolist())
    assert ended[:3] == [[False] * 3, [False, True, True], [True, False, False]]
    env.close()


@needs_package
def test_batches_of_a_task_are_made_once_and_only_the_last_few_are_kept() -> None:
    mixed = metaworld(8, benchmark="ML10", threads=1)
    drawn = mixed.distribution.published("train", 2)

    def batch(count: int) -> SawyerTask:
        mixed.set_tasks(drawn.select(torch.tensor([0] * count + [1] * (8 - count))))
        return mixed.members[0].env

    batches = {count: batch(count) for count in (1, 2, 3)}
    assert batch(1) is batches[1]
    batch(4)  # the second is the one that was not used for longest
    assert batch(1) is batches[1]
    assert batch(3) is batches[3]
    assert batch(2) is not batches[2]
    assert len(mixed._made) == 6


@needs_package
def test_a_mixed_environment_tells_what_is_missing() -> None:
    env = metaworld(2, benchmark="ML10", threads=1)
    with pytest.raises(TaskError, match="call set_tasks before reset"):
        env.reset()
    env.set_tasks(env.distribution.published("test", 2))
    with pytest.raises(TaskError, match="call set_tasks and reset before step"):
        env.step(torch.zeros(2, 4))
    env.reset()
    state = env.render_state(1)
    assert state["qpos"].shape[-1] == 10  # door-close: the arm, the gripper and a hinge


@needs_package
def test_a_failure_of_tasks_side_by_side_is_that_of_the_simulation_that_failed() -> None:
    mixed = metaworld(6, benchmark="ML10", threads=1)
    assert isinstance(mixed, MixedTasks)
    mixed.part = Part(12, 24)  # of a whole, in which others come first
    mixed.set_tasks(mixed.distribution.published("train", 3).select(torch.tensor([2, 0, 1, 0, 2, 1])))
    mixed.reset()
    assert mixed.last_failure is None
    reach, _, pick_place = mixed.members
    for broken, numbers in ((reach, [1, 3]), (pick_place, [0, 4])):
        assert broken.rows.tolist() == numbers
        broken.env.simulator.field("qvel")[1, 0] = float("nan")
        assert mixed.step(torch.zeros(6, 4)).failed.nonzero()[:, 0].tolist() == numbers[1:]
        assert mixed.tasks is not None
        told = f"simulation {12 + numbers[1]}, task {12 + numbers[1]} {mixed.tasks.describe(numbers[1])}"
        assert mixed.last_failure == f"metaworld: physics failed in {told}"
    action = torch.zeros(6, 4)
    for number in (4, 1):  # then both fail, and the first of them is named
        action[number] = float("nan")
        mixed.step(action)
        told = f"simulation {12 + number}, {mixed.task_of(number)}"
        assert mixed.last_failure == f"metaworld: the action is not finite in {told}"
