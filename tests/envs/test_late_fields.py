"""A field or a sensor that is first asked for while the simulations run."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.core.engine_cpu import CpuSimulator
from envs.core.environment import MujocoEnvironment
from envs.core.models import parse_spec
from envs.core.tasks import Range, TaskDistribution

ARM = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="3 3 1" pos="0 0 -0.4"/>
    <body name="upper"><joint name="one" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 .5 0 0" size=".03"/>
      <body name="lower" pos=".5 0 0"><joint name="two" axis="0 1 0" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 .4 0 0" size=".03"/><site name="tip" pos=".4 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="one" gear="4"/><motor joint="two" gear="2"/></actuator>
  <sensor><framepos name="tip" objtype="site" objname="tip"/></sensor>
</mujoco>
"""


class Arm(MujocoEnvironment):
    """A two-link arm that falls on the floor, and looks for its sensor when it needs it."""

    name, success_criterion = "arm", "none"
    horizon, observation_size, action_size = 10, 5, 2

    def __init__(self, num_simulations: int) -> None:
        super().__init__(parse_spec(ARM, "arm"), num_simulations, TaskDistribution({"goal": Range(0, 1)}), threads=1)

    def apply_tasks(self) -> None:
        pass

    def initial_state(self) -> dict[str, Tensor]:
        return {"qpos": torch.tensor([0.3, -0.8], dtype=torch.float64).repeat(self.num_simulations, 1)}

    def control(self, action: Tensor) -> None:
        self.ctrl.copy_(action)

    def observe(self) -> Tensor:
        return torch.cat([self.qpos, self.sensor("tip")], -1).float()

    def reward_terms(self, action: Tensor) -> dict[str, Tensor]:
        return {"none": torch.zeros(self.num_simulations)}

    def success(self) -> Tensor:
        return torch.zeros(self.num_simulations, dtype=torch.bool)


def tips(simulator: CpuSimulator) -> np.ndarray:
    """Where the site is in every simulation (N, 3), by MuJoCo alone."""
    places = []
    for index in range(simulator.num_simulations):
        data = simulator.batch.get_data(index)
        mujoco.mj_forward(simulator.model, data)
        places.append(data.site("tip").xpos.copy())
    return np.array(places)


def test_a_sensor_that_is_first_read_in_the_first_observation() -> None:
    env = Arm(3)
    env.set_tasks(env.distribution.published("train", 3))
    observation = env.reset()
    assert isinstance(env.simulator, CpuSimulator)
    np.testing.assert_allclose(observation[:, 2:], tips(env.simulator), atol=1e-6)
    assert observation[:, 2:].abs().max() > 0.1


@pytest.mark.parametrize("name", ["sensordata", "site_xpos", "qfrc_bias"])
def test_a_field_that_is_bound_late_is_right_and_changes_nothing_else(name: str) -> None:
    model = parse_spec(ARM, "arm").compile()
    late, early = CpuSimulator(model, 4, 1), CpuSimulator(model, 4, 1)
    start = {"qpos": torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)}
    early.field(name)
    kept = [simulator.field("xipos") for simulator in (late, early)]
    for simulator in (late, early):
        simulator.reset(None, start)
        simulator.step(30)  # the arm lies on the floor: the solver starts warm
    before = kept[0].clone()
    found = late.field(name)
    assert torch.equal(kept[0], before) and torch.equal(before, kept[1])
    for index in range(4):
        data = late.batch.get_data(index)
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(found[index], getattr(data, name), atol=1e-9)
    for simulator in (late, early):
        simulator.step(10)
    assert torch.equal(late.field("qpos"), early.field("qpos"))
    assert torch.equal(found, early.field(name))


def test_a_state_field_that_is_bound_late() -> None:
    simulator = CpuSimulator(parse_spec(ARM, "arm").compile(), 2, 1)
    velocity = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    simulator.reset(None, {"qvel": velocity})
    simulator.step(1)
    assert simulator.field("time").flatten().tolist() == [0.005, 0.005]
