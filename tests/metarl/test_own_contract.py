"""What an environment of a user's own returns is checked once, and what is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from envs import registry
from envs.core.environment import Environment
from envs.errors import ContractError, TaskError
from tests.metarl.own import POINT, cart

Write = Callable[[str], str]
OBSERVE = "return torch.cat([self.qpos, self.qvel], -1).float()"
BUFFER = """self.buffer = getattr(self, "buffer", torch.zeros(self.num_simulations, 2))
        self.buffer.copy_(torch.cat([self.qpos, self.qvel], -1))
        return self.buffer"""

PLAIN = """
import torch

from envs.environment import Environment, Step
from envs.tasks import Range, TaskDistribution


class Plain(Environment):
    name, success_criterion = "plain", "never"
    horizon, observation_size, action_size, control_period = 5, 3, 1, 0.1

    def __init__(self, num_simulations, seed=0, threads=0, tasks_override=None):
        super().__init__(num_simulations, TaskDistribution({"goal": Range(0, 1)}).override(tasks_override or {}), seed)

    def apply_tasks(self): pass
    def reset(self, mask=None):
        self.place = torch.zeros(self.num_simulations, 3)
        return self.place.clone()

    def step(self, action):
        self.place += action
        none = torch.zeros(self.num_simulations, dtype=torch.bool)
        return Step(self.place.clone(), self.place[:, 0], {"x": self.place[:, 0]}, none, none, none, self.place[:, 0])

    def render_state(self, simulation): return {}
    def drawer(self, simulation, width, height): raise NotImplementedError
"""


def made(place: str, **options: object) -> Environment:
    env = registry.make(place, 4, threads=1, **options)
    env.set_tasks(env.distribution.published("train", 2))
    return env


def step_line(env: Environment) -> str:
    """The one line with which the first step after the first reset is refused."""
    env.reset()
    with pytest.raises(ContractError) as caught:
        env.step(torch.zeros(4, env.action_size))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_buffer_for_all_observations(written: Write) -> None:
    remedy = "its observation is the same memory as that of the reset: return a fresh tensor, such as a clone()"
    env = made(f"{written(cart((OBSERVE, BUFFER)))}:Cart")
    assert step_line(env) == f"Cart: {remedy}"
    place = f"{written(PLAIN.replace('self.place.clone()', 'self.place'))}:Plain"
    assert step_line(made(place)) == f"{place}: {remedy}"
    env = made(f"{written(PLAIN)}:Plain")
    env.reset()
    env.step(torch.zeros(4, 1))
    env.step(torch.zeros(4, 1))


@pytest.mark.parametrize("method", ["begin_trial(self)", "privileged(self)", "realised(self, tasks)"])
def test_whatever_training_calls_is_explained(written: Write, method: str) -> None:
    name, _, rest = method.partition("(")
    place = f"{written(PLAIN + f'    def {method}: return [][1]')}:Plain"
    env = made(place)
    with pytest.raises(ContractError, match=r"IndexError: list index out of range") as caught:
        getattr(env, name)(*([env.tasks] if "tasks" in rest else []))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(place)


@pytest.mark.parametrize("value", ["1e30", "-1e30"])
def test_observations_of_absurd_size(written: Write, value: str) -> None:
    line = f"observation entry 1 is {float(value):g} in simulation 0: give it in a unit in which it is below 1e+15"
    changed = f"return torch.cat([self.qpos, torch.full_like(self.qvel, {value})], -1).float()"
    assert step_line(made(f"{written(cart((OBSERVE, changed)))}:Cart")) == f"Cart: {line}"
    place = f"{written(PLAIN.replace('self.place += action', f'self.place[:, 1] = {value}'))}:Plain"
    assert step_line(made(place)) == f"{place}: {line}"
    moved = "self.position = self.position + self.speed * action"
    source = POINT.replace(moved, f"self.position = np.array([0.0, {value}])")
    assert step_line(made(f"{written(source)}:Point", horizon=5)) == f"Point: {line}"


@pytest.mark.parametrize("place", ["cart", "plain", "point", "reach", "point2d"])
def test_a_step_before_the_first_reset(written: Write, place: str) -> None:
    sources = {"cart": (cart(), "Cart"), "plain": (PLAIN, "Plain"), "point": (POINT, "Point")}
    if place in sources:
        source, name = sources[place]
        place = f"{written(source)}:{name}"
    env = registry.make(place, 4, threads=1, horizon=5) if "Plain" not in place else registry.make(place, 4)
    with pytest.raises(TaskError, match=f"^{env.name}: call set_tasks and reset before step$"):
        env.step(torch.zeros(4, env.action_size))
    env.set_tasks(env.distribution.published("train", 2))
    with pytest.raises(TaskError, match=f"^{env.name}: call set_tasks and reset before step$"):
        env.step(torch.zeros(4, env.action_size))
    env.reset()
    env.step(torch.zeros(4, env.action_size))
