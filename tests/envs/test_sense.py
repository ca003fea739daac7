"""What a state says is computed once, by `sense`; what reads it afterwards changes nothing, in whichever order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from envs import registry
from envs.core.environment import Environment, MujocoEnvironment
from envs.core.tasks import Tasks
from envs.families.navigate import Navigate
from envs.families.reach import Reach
from tests.envs.families import MUJOCO_NAMES, oracle

COUNT = 6
STEPS = 12


def made(name: str, **options: object) -> Environment:
    env = registry.make(name, COUNT, seed=4, threads=1, **options)
    env.set_tasks(env.distribution.published("train", COUNT))
    return env


def actions(env: Environment, steps: int = STEPS) -> Tensor:
    shape = (steps, env.num_simulations, env.action_size)
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(3)) - 1


def remembered(value: object) -> Any:
    """A copy of all numbers that an environment holds, in attributes and in what these contain."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: remembered(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [remembered(entry) for entry in value]
    return value


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one is two or one == two


def reader(env: MujocoEnvironment, name: str, action: Tensor) -> Callable[[], object]:
    return (lambda: env.reward_terms(action)) if name == "reward_terms" else getattr(env, name)


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_observing_rewarding_and_judging_only_read(name: str, visible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    env = made(name, **(oracle(name) if visible else {}))
    assert isinstance(env, MujocoEnvironment)
    held: dict[str, Any] = {}  # what the environment holds as soon as it has sensed
    sense = env.sense
    monkeypatch.setattr(env, "sense", lambda: (sense(), held.update(remembered(vars(env)))))
    env.reset()
    for index, action in enumerate(actions(env)):
        step = env.step(action)
        held |= {"begun": True, "_first": None}
        found = {"observe": step.observation, "reward_terms": step.terms, "success": step.success}
        if index == STEPS // 2:
            found["observe"] = env.reset(torch.arange(COUNT) < 2)
            del found["reward_terms"], found["success"]  # these belonged to the state before
        for again in ("step", *reversed(found), *found):
            assert again == "step" or same(reader(env, again, action)(), found[again]), again
            after = remembered(vars(env))
            changed = [key for key in held.keys() | after.keys() if not same(held.get(key), after.get(key))]
            assert not changed, f"{again} changes {changed}"


class Calls(Reach):
    """Reach, which notes what is called of it."""

    noted: list[str]

    def __getattribute__(self, name: str) -> Any:
        if name in ("control", "sense", "reward_terms", "success", "observe", "initial_state", "on_reset"):
            self.noted.append(name)
        return super().__getattribute__(name)


def test_the_order_of_a_step_and_of_a_reset() -> None:
    """An environment whose `reward_terms` computes what `success` and `observe` read works, if it does not share it."""
    Calls.noted = []
    env = Calls(COUNT, threads=1)
    env.set_tasks(env.distribution.published("train", COUNT))
    reset = ["initial_state", "on_reset", "sense", "observe"]
    step = ["control", "sense", "reward_terms", "success", "observe"]

    def calls(run: Callable[[], object]) -> list[str]:
        Calls.noted.clear()
        run()
        return list(Calls.noted)

    action = torch.zeros(COUNT, 7)
    assert calls(env.reset) == reset
    assert calls(lambda: env.step(action)) == step
    assert calls(lambda: env.reset(torch.arange(COUNT) < 2)) == reset
    action[1] = torch.nan
    assert calls(lambda: env.step(action)) == step + reset


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_a_reset_of_some_does_not_touch_the_others(name: str) -> None:
    """Nor what they have counted, however often they are sensed at the same instant."""
    alone, beside = made(name), made(name)
    assert isinstance(alone, MujocoEnvironment) and isinstance(beside, MujocoEnvironment)
    alone.reset()
    beside.reset()
    kept = torch.arange(COUNT) >= 2
    for action in actions(alone):
        expected, step = alone.step(action), beside.step(action)
        assert torch.equal(expected.reward[kept], step.reward[kept])
        if not name.startswith("grasp"):  # which draws the noise of its sensors
            assert torch.equal(expected.observation[kept], step.observation[kept])
        held = remembered(vars(beside))
        observation = beside.reset(~kept)
        after = remembered(vars(beside))
        for key, value in held.items():
            if isinstance(value, Tensor) and value.shape[:1] == (COUNT,) and not key.startswith("noisy"):
                assert torch.equal(value[kept], after[key][kept]), key
        assert name.startswith("grasp") or torch.equal(observation[kept], step.observation[kept])


def test_steps_inside_are_counted_by_the_clock() -> None:
    env = Reach(2, threads=1)

    def tasks(goal: Tensor) -> Tasks:
        return Tasks({"goal": goal, "payload_mass": torch.full((2, 1), 0.5), "damping_scale": torch.ones(2, 1)})

    env.set_tasks(tasks(torch.tensor([[0.5, 0.0, 0.4]] * 2)))
    env.set_tasks(tasks(env.reset()[:, 21:24]))
    env.reset()
    seen = []
    for _ in range(6):
        seen.append(env.step(torch.zeros(2, 7)).success.tolist())
        env.reset(torch.tensor([False, True]))
    assert seen == [[False, False]] * 4 + [[True, False]] * 2


def test_a_collision_is_remembered_until_the_reset_of_that_simulation() -> None:
    env = Navigate(2, threads=1)
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    env.qpos[:, 0] = -2.4  # into the west wall
    assert env.step(torch.zeros(2, 2)).terms["collision"].tolist() == [-1.0, -1.0]
    env.qpos[:, 0] = -1.9  # and free again
    assert env.step(torch.zeros(2, 2)).terms["collision"].tolist() == [0.0, 0.0]
    env.reset(torch.tensor([True, False]))
    assert env.collided.tolist() == [False, True]


def test_the_lidar_is_cast_once_for_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made("navigate")
    assert isinstance(env, Navigate)
    casts, rays = [], env.simulator.rays
    monkeypatch.setattr(env.simulator, "rays", lambda *given, **named: casts.append(1) or rays(*given, **named))
    env.reset()
    for action in actions(env):
        env.step(action)
    env.reset(torch.arange(COUNT) < 2)
    assert len(casts) == 1 + STEPS + 1
