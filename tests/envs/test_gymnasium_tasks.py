"""Gymnasium environments with tasks as batched task environments: spaces, tasks, ends of episodes, mistakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from envs import registry
from envs.adapters.gymnasium_tasks import STRIDE, GymnasiumTasks, NumberedTasks
from envs.core.tasks import SPLITS, Tasks
from envs.errors import ContractError, EnvsError, TaskError, UnknownEnvironmentError


class Point(gymnasium.Env[Any, Any]):
    """A point that moves by its action, x from -2 to 2 and y from 0 to 1; it ends within 0.5 of its goal."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None, noise: float = 0.1) -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = Box(np.array([-2.0, 0.0]), np.array([2.0, 1.0]), dtype=np.float64)
        self.render_mode, self.noise = render_mode, noise
        self.goal = np.full(2, 100.0)

    def sample_tasks(self, n: int) -> list[Any]:
        return [{"goal": self.np_random.uniform(5, 10, 2)} for _ in range(n)]

    def set_task(self, task: Any) -> None:
        self.goal = task["goal"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.noise * self.np_random.standard_normal(2)
        return self.position.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position = self.position + action
        distance = float(np.linalg.norm(self.position - self.goal))
        return self.position.copy(), -distance, distance < 0.5, False, {"success": distance < 0.5}

    def render(self) -> Any:
        return np.full((30, 40, 3), 200, np.uint8)


def made(count: int = 4, make: Callable[..., Any] = Point, **options: Any) -> GymnasiumTasks:
    settings: dict[str, Any] = {"horizon": 8} | options
    return GymnasiumTasks(make, "test:Point", count, **settings)


def with_goals(env: GymnasiumTasks, goals: list[tuple[float, float]]) -> None:
    """The first test tasks, with goals of the test's own choice."""
    distribution = env.distribution
    assert isinstance(distribution, NumberedTasks)
    tasks = distribution.published("test", len(goals))
    distribution._blocks["test", 0] = [{"goal": np.array(goal)} for goal in goals]
    env.set_tasks(tasks)


def test_shapes_types_and_names() -> None:
    env = made()
    assert (env.name, env.horizon, env.observation_size, env.action_size) == ("Point", 8, 2, 2)
    assert env.control_period == pytest.approx(0.1)
    env.set_tasks(env.distribution.published("train", 2))
    first = env.reset()
    assert first.shape == (4, 2) and first.dtype == torch.float32
    step = env.step(torch.zeros(4, 2))
    assert step.observation.shape == (4, 2) and step.observation.dtype == torch.float32
    assert step.reward.dtype == torch.float32 and torch.equal(step.reward, step.terms["reward"])
    for flag in (step.success, step.terminated, step.failed):
        assert flag.shape == (4,) and flag.dtype == torch.bool and not flag.any()


def test_actions_are_clipped_and_scaled_to_the_box() -> None:
    env = made(noise=0.0)
    with_goals(env, [(100.0, 0.0)] * 4)
    env.reset()
    step = env.step(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-9.0, 9.0]]))
    assert torch.allclose(step.observation, torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 0.5], [-2.0, 1.0]]))


def test_each_simulation_has_its_task_from_its_next_reset_on() -> None:
    env = made(noise=0.0)
    with_goals(env, [(3.0, 0.5), (6.0, 0.5)])
    env.reset()
    still = torch.tensor([[0.0, 0.0]]).repeat(4, 1)
    assert torch.allclose(env.step(still).reward, torch.tensor([-3.0, -3.0, -6.0, -6.0]))
    env.set_tasks(env.distribution.published("test", 1))
    env.reset(torch.tensor([False, False, False, True]))
    assert torch.allclose(env.step(still).reward, torch.tensor([-3.04, -3.04, -6.02, -3.0]), atol=0.01)


def test_an_episode_that_ends_early_rests_until_its_reset() -> None:
    env = made(2, noise=0.0)
    with_goals(env, [(2.0, 0.5), (100.0, 0.5)])
    env.reset()
    right = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    step = env.step(right)
    assert step.terminated.tolist() == step.success.tolist() == [True, False]
    again = env.step(right)
    assert again.terminated.tolist() == [True, False] and again.reward[0] == 0.0
    assert torch.equal(again.observation[0], step.observation[0]) and again.observation[1, 0] == 4.0
    env.reset(torch.tensor([True, False]))
    step = env.step(right)
    assert step.observation[:, 0].tolist() == [2.0, 6.0] and step.success.tolist() == [True, False]


def test_a_truncation_at_the_horizon_is_no_end_before_it() -> None:
    limited = made(1, lambda **options: gymnasium.wrappers.TimeLimit(Point(**options), 3), horizon=4)
    for horizon, expected in ((4, [False, False, True, True]), (3, [False, False, False])):
        limited.horizon = horizon
        limited.set_tasks(limited.distribution.published("train", 1))
        limited.reset()
        assert [bool(limited.step(torch.zeros(1, 2)).terminated) for _ in expected] == expected


def test_the_seed_decides_everything() -> None:
    one, two, other = made(), made(), made(seed=1)
    for env in (one, two, other):
        env.set_tasks(env.distribution.sample(2))
    assert torch.equal(one.assigned["task"], two.assigned["task"])
    first = one.reset()
    assert torch.equal(first, two.reset()) and not torch.equal(first, other.reset())
    assert not torch.equal(first, one.reset())


def test_tasks_are_the_same_everywhere_and_differ_between_splits() -> None:
    one, two = made().distribution, made(train_tasks=3).distribution
    assert isinstance(one, NumberedTasks) and isinstance(two, NumberedTasks)
    for number in (0, 150, STRIDE, STRIDE + 250):
        assert np.array_equal(one.task(number)["goal"], two.task(number)["goal"])
    goals = {tuple(one.task(number)["goal"]) for number in (*range(150), *range(STRIDE, STRIDE + 150))}
    assert len(goals) == 300
    assert torch.equal(one.published("test", 120)["task"][:5], one.published("test", 5)["task"])
    assert set(two.sample(100)["task"][:, 0].tolist()) == {0.0, 1.0, 2.0}
    assert one.split_of(one.published("test", 2)) == ["test"] * 2 and one.split_of(one.sample(2)) == ["train"] * 2
    held_out = [{tuple(one.task(int(i))["goal"]) for i in one.published(s, 150)["task"]} for s in SPLITS if s != "ood"]
    assert len(set.union(*held_out)) == 450


def test_the_numbers_of_tasks_are_exact() -> None:
    for split in ("test", "validation"):
        numbers = made().distribution.published(split, STRIDE)["task"][:, 0]
        assert len(numbers.unique()) == STRIDE
        assert made().distribution.split_of(Tasks({"task": numbers[[0, -1], None]})) == [split] * 2


def test_older_generators_are_seeded_and_left_alone() -> None:
    class Older(Point):
        def sample_tasks(self, n: int) -> list[Any]:
            return [{"goal": np.random.uniform(5, 10, 2)} for _ in range(n)]

    np.random.seed(3)
    expected = np.random.uniform()
    np.random.seed(3)
    one = made(1, Older).distribution
    assert np.random.uniform() == expected
    two = made(1, Older).distribution
    assert isinstance(one, NumberedTasks) and isinstance(two, NumberedTasks)
    assert np.array_equal(one.task(7)["goal"], two.task(7)["goal"])


def test_an_environment_may_divide_its_splits_itself() -> None:
    class Divided(Point):
        def sample_tasks(self, n: int, split: str = "train") -> list[Any]:
            return [split] * n

        def set_task(self, task: Any) -> None:
            self.goal = np.full(2, {"train": 1.0, "test": 2.0, "ood": 3.0, "validation": 4.0}[task])

    env = made(2, Divided)
    distribution = env.distribution
    assert isinstance(distribution, NumberedTasks)
    for split in SPLITS:
        assert distribution.task(int(distribution.published(split, 1)["task"])) == split
        env.set_tasks(distribution.published(split, 2))
    with pytest.raises(TaskError, match=r"test:Point: has no split 'ood', which needs a sample_tasks\(n, split=...\)"):
        made().distribution.published("ood", 1)


def test_processes_do_as_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_async.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    one, two = (registry.make("own_async:Point", 2, horizon=8, vectorization=kind) for kind in ("sync", "async"))
    assert isinstance(one, GymnasiumTasks) and isinstance(two, GymnasiumTasks)
    try:
        for env in (one, two):
            env.set_tasks(env.distribution.published("test", 2))
        assert torch.equal(one.reset(), two.reset())
        for action in torch.rand(4, 2, 2):
            a, b = one.step(action), two.step(action)
            assert torch.equal(a.observation, b.observation) and torch.equal(a.reward, b.reward)
    finally:
        two.vector.close()


def test_observations_are_flattened() -> None:
    class Nested(Point):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = Dict({"place": Box(-1e3, 1e3, (2,)), "grid": Box(0, 9, (2, 2))})

        def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
            place, info = super().reset(**arguments)
            return {"place": place, "grid": np.arange(4.0).reshape(2, 2)}, info

    env = made(1, Nested)
    env.set_tasks(env.distribution.published("train", 1))
    observation = env.reset()
    assert env.observation_size == 6 and observation[0, :4].tolist() == [0.0, 1.0, 2.0, 3.0]


class Poison(Point):
    """Its reward is no number once x is beyond 5, or at once."""

    def __init__(self, at_once: bool = False) -> None:
        super().__init__(noise=0.0)
        self.at_once = at_once

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = super().step(action)
        poisoned = self.at_once or self.position[0] > 5
        return observation, np.nan if poisoned else reward, terminated, truncated, {}


def test_a_reward_that_is_not_finite_is_counted_and_reset_alone() -> None:
    env = made(2, Poison)
    with_goals(env, [(50.0, 0.0)])
    env.reset()
    actions = torch.tensor([[1.0, -1.0], [0.0, -1.0]])
    steps = [env.step(actions) for _ in range(3)]
    assert [step.failed.tolist() for step in steps] == [[False, False]] * 2 + [[True, False]]
    assert steps[2].reward[0] == 0 and steps[2].observation.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert steps[2].terminated.tolist() == [True, False]
    assert env.last_failure == f"Point: the reward is not finite in simulation 0, {env.task_of(0)}"
    assert not any(step.success.any() for step in steps)  # its info does not tell


def test_a_reward_that_is_never_finite_is_an_error() -> None:
    env = made(2, Poison, at_once=True)
    env.set_tasks(env.distribution.published("train", 1))
    env.reset()
    with pytest.raises(ContractError, match="^Point: the reward is not finite in all 2 simulations at the first step$"):
        env.step(torch.zeros(2, 2))


def test_pictures_come_from_the_environment() -> None:
    env = made(1)
    env.set_tasks(env.distribution.published("train", 1))
    env.reset()
    picture = env.drawer(0, 64, 32)(env.render_state(0))
    assert picture.shape == (32, 64, 3) and picture[16, 32].tolist() == [200] * 3
    with pytest.raises(EnvsError, match="^Point: is drawn only if it is alone"):
        made(2).render_state(0)
    blind = made(1, type("Blind", (Point,), {"metadata": {"render_modes": []}}))
    with pytest.raises(EnvsError, match="^Point: has no render mode 'rgb_array'"):
        blind.render_state(0)


def test_a_registered_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("own/Point-v0", lambda **options: Point(**options), max_episode_steps=7)
    env = registry.make("gymnasium:own/Point-v0", 2)
    assert (env.name, env.horizon) == ("Point-v0", 7)
    ours = registry.make("gymnasium:envs:metarl/Point2d-v0", 2, horizon=5)
    ours.set_tasks(ours.distribution.published("test", 2))
    assert torch.equal(ours.reset(), torch.zeros(2, 2))
    with pytest.raises(UnknownEnvironmentError, match="^gymnasium:own/Pont-v0: .*Did you mean: `Point`"):
        registry.make("gymnasium:own/Pont-v0", 2)


def broken(**changes: Any) -> Callable[..., Any]:
    """`Point` with other attributes."""

    def make(**options: Any) -> Any:
        env = Point(**options)
        for name, value in changes.items():
            setattr(env, name, value)
        return env

    return make


@pytest.mark.parametrize(
    ("make", "options", "line"),
    [
        (broken(set_task=None), {}, "test:Point: lacks set_task: a task environment has sample_tasks"),
        (broken(sample_tasks=None), {}, "test:Point: lacks sample_tasks: a task environment has"),
        (broken(observation_space=None), {}, "test:Point: must set observation_space to a gymnasium.spaces.Box"),
        (broken(action_space=Discrete(3)), {}, r"test:Point: needs actions in a Box, has Discrete\(3\)"),
        (broken(action_space=Box(-np.inf, 1.0, (2,))), {}, "test:Point: needs actions with finite bounds"),
        (broken(observation_space=Box(-9, 9, (3,))), {}, r"test:Point: .* has shape \(2,\), its space says \(3,\)"),
        (
            broken(observation_space=gymnasium.spaces.Sequence(Box(0, 1, (1,)))),
            {},
            "test:Point: needs observations that can be flattened",
        ),
        (broken(sample_tasks=lambda n: [1]), {}, r"test:Point: sample_tasks\(100\) returned 1 tasks"),
        (lambda: 3, {}, "test:Point: returned a int, which is neither"),
        (Point, {"horizon": None}, "test:Point: does not say how long an episode is: give env.horizon="),
        (Point, {"vectorization": "threads"}, "vectorization=threads: must be one of sync, async"),
        (Point, {"train_tasks": 0}, "train_tasks=0: must be an integer from 1 to"),
        (Point, {"tasks_override": {"goal": [0, 1]}}, "test:Point: .* no range of goal to set"),
    ],
)
def test_a_mistake_is_one_line(make: Callable[..., Any], options: dict[str, Any], line: str) -> None:
    with pytest.raises(EnvsError, match=f"^{line}") as caught:
        made(2, make, **options)
    assert "\n" not in str(caught.value)


def test_tasks_of_another_kind_are_refused() -> None:
    env = made(2)
    with pytest.raises(TaskError, match="set_tasks before reset"):
        env.reset()
    with pytest.raises(TaskError, match="lack the parameters task"):
        env.set_tasks(Tasks({"goal": torch.zeros(1, 2)}))
