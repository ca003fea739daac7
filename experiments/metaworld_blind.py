"""How far a robot comes on Meta-World's ML1 that feels nothing: no reward, no goal, no memory.

  python -m experiments.metaworld_blind [task=reach] [split=test]

Meta-World counts success at any step of an episode. Goals of reach and push lie in small boxes, and the hand, or the
puck in it, can be led through all of a box in one episode, past whatever the goal is. So this is what success at any
step has to be compared to; at the end of an episode the script stands wherever its way ends.

Example
  python -m experiments.metaworld_blind task=push split=validation
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from envs.metaworld.benchmarks import metaworld
from envs.metaworld.sawyer import STEP, SawyerTask
from envs.metaworld.variations import COUNT
from experiments.arguments import command, given
from metarl.errors import ConfigError, nearest
from metarl.evaluation.statistics import mean_interval

TIP = 0.045  # m from the hand down to the fingertips
NEAR = 0.015  # m from a point of the way that count as there
# Lines along x through the box of the goals, (y, z) in m, so that nothing in it is 5 cm from all of them.
LINES = {
    "reach": [(y, z) for z in (0.27, 0.205, 0.14, 0.075) for y in (0.825, 0.875)],
    "push": [(0.825, 0.025), (0.875, 0.025)],
}
ENDS = (-0.09, 0.09)  # m, of a line
ABOVE, GRIPPING = 0.08, 20  # m over the puck; control steps that the gripper closes


def way(task: str) -> Tensor:
    """Where the fingertips are led, (W, 3) in m: there and back on every other line."""
    lines = [[(x, y, z) for x in ENDS[:: 1 - 2 * (i % 2)]] for i, (y, z) in enumerate(LINES[task])]
    return torch.tensor(list(chain.from_iterable(lines)))


class Blind:
    """Leads the fingertips along a way, with the puck in the hand where the task is to push it.

    Args:
        count: N simulations.
    """

    def __init__(self, task: str, count: int) -> None:
        self.way, self.pushes = way(task), task == "push"
        self.next = torch.zeros(count, dtype=torch.int64)
        self.gripped = torch.zeros(count, dtype=torch.int64)  # control steps for which the gripper has closed

    def __call__(self, observation: Tensor) -> Tensor:
        """Actions (N, 4) on observations (N, 39), of which it looks at hand and puck."""
        tips, puck = observation[:, :3] - torch.tensor([0.0, 0.0, TIP]), observation[:, 4:7]
        wanted = self.way[self.next]
        holding = torch.ones(len(tips))
        if self.pushes:
            over = puck - tips
            lower = over[:, :2].norm(dim=-1) < NEAR
            at = lower & (over[:, 2].abs() < NEAR)
            self.gripped += at | (self.gripped > 0)
            begins = self.gripped < GRIPPING
            fetched = puck + torch.where(lower[:, None], 0.0, torch.tensor([0.0, 0.0, ABOVE]))
            wanted = torch.where(begins[:, None], fetched, wanted)
            holding = torch.where(self.gripped > 0, 1.0, -1.0)
            there = ~begins & ((wanted - tips).norm(dim=-1) < NEAR)
        else:
            there = (wanted - tips).norm(dim=-1) < NEAR
        self.next = (self.next + there).clamp(max=len(self.way) - 1)
        return torch.cat([((wanted - tips) / STEP * 0.5).clamp(-1.0, 1.0), holding[:, None]], -1)


def measure(env: SawyerTask) -> tuple[Tensor, Tensor]:
    """Success (N,) at any step, and at the end, of an episode of each simulation's task."""
    script, observation, ever = Blind(env.task, env.num_simulations), env.reset(), torch.tensor(False)
    success = ever
    for _ in range(env.horizon):
        observation, _, _, success, *_ = env.step(script(observation))
        ever = ever | success
    return ever, success


def main(arguments: Sequence[str] | None = None) -> int:
    return command(arguments, __doc__, _work, bare=True)


def _work(arguments: Sequence[str]) -> None:
    values = given(arguments, ("task", "split"))
    task, split = values.get("task") or "reach", values.get("split") or "test"
    if task not in LINES:
        raise ConfigError(f"task={task}: has no script; {nearest(task, LINES)}")
    env = metaworld(COUNT, task=task)
    assert isinstance(env, SawyerTask)
    env.set_tasks(env.distribution.published(split, COUNT))
    for name, success in zip(("at any step", "at the end"), measure(env), strict=True):
        mean, low, high = mean_interval(success.double().numpy(), episodes=1)
        print(f"{task}, {COUNT} variations of {split}, blind: success {name} {mean:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    sys.exit(main())
