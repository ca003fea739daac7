"""The hidden length of ARCHITECTURE.md is that of a model compiled with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from envs import registry
from envs.core.environment import MujocoEnvironment
from envs.core.models import parse_spec
from envs.core.tasks import Tasks
from tests.metarl.own import hidden_length

ARM = """<mujoco><option timestep="0.005"/><worldbody>
  <body name="upper"><joint axis="0 1 0"/>
    <geom name="rod" type="box" pos="{half} 0 0" size="{half} 0.02 0.02"/>
    <body name="lower" pos="{length} 0 0"><joint axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 .3 0 0" size=".02"/></body>
  </body>
</worldbody></mujoco>"""

MODULE = '''
import torch
from envs.environment import MujocoEnvironment
from envs.models import parse_spec
from envs.tasks import Range, TaskDistribution


class Arm(MujocoEnvironment):
    name, success_criterion = "arm", "never"

    def __init__(self, num_simulations, seed=0, threads=0, tasks_override=None):
        tasks = TaskDistribution({{"length": Range(0.2, 0.8, unit="m")}}).override(tasks_override or {{}})
        super().__init__(parse_spec("""{model}""", __file__), num_simulations, tasks, seed, threads)
        self.horizon, self.observation_size, self.action_size = 5, 4, 1

    def initial_state(self): return {{"qpos": torch.full((self.num_simulations, 2), 0.3, dtype=torch.float64)}}
    def control(self, action): pass
    def observe(self): return torch.cat([self.qpos, self.qvel], -1).float()
    def reward_terms(self, action): return {{"none": torch.zeros(self.num_simulations)}}
    def success(self): return torch.zeros(self.num_simulations, dtype=torch.bool)
{method}
'''
LENGTHS = (0.2, 0.5, 0.77)
PREFIXES = ("body_", "geom_", "dof_", "jnt_", "site_")


def test_a_hidden_length_is_that_of_a_compiled_model(written: Callable[[str], str]) -> None:
    source = MODULE.format(model=ARM.format(half=0.25, length=0.5), method=hidden_length())
    env = registry.make(f"{written(source)}:Arm", len(LENGTHS), threads=1)
    assert isinstance(env, MujocoEnvironment)
    env.set_tasks(Tasks({"length": torch.tensor(LENGTHS)[:, None]}))
    env.reset()
    steps = [env.step(torch.zeros(len(LENGTHS), 1)) for _ in range(20)]
    for index, length in enumerate(LENGTHS):
        wanted = parse_spec(ARM.format(half=length / 2, length=length), "arm").compile()
        found = env.simulator.model_of(index)
        for name in dir(wanted):
            value = getattr(wanted, name, None)
            if name.startswith(PREFIXES) and isinstance(value, np.ndarray) and value.dtype.kind == "f":
                np.testing.assert_allclose(getattr(found, name), value, atol=1e-6, err_msg=name)
    assert not torch.equal(steps[-1].observation[0], steps[-1].observation[2])
