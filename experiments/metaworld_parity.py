"""Whether Meta-World's tasks are here what they are in its package, on its own MuJoCo.

  python -m experiments.metaworld_parity [folder=FOLDER] [recording=FILE] [small=FILE]

In an environment of its own, in the folder, it installs metaworld with MuJoCo 3.3.0 and records what happens there
along scripted policies and random actions (`experiments/metaworld_record.py`), or takes a recording that there is. Then
it compares, for each of the fifteen tasks:
- the variations drawn by ML1 with seed 0, which must be the same numbers;
- from the same states, observations, rewards and successes: their largest differences;
- how often the package's scripted policies succeed there, and here on today's MuJoCo.

small= writes a part of the recording, which the tests compare.

Examples
  python -m experiments.metaworld_parity
  python -m experiments.metaworld_parity recording=runs/metaworld_parity/recording.npz small=small.npz
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import venv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from envs.core.tasks import Tasks
from envs.metaworld.benchmarks import TASKS, metaworld
from envs.metaworld.package import VERSION
from envs.metaworld.sawyer import SawyerTask, Settled
from envs.metaworld.variations import draw
from experiments.arguments import command, given
from metarl.errors import ConfigError
from metarl.evaluation.statistics import success_interval

Recording = Mapping[str, np.ndarray]

RECORDER = Path(__file__).with_name("metaworld_record.py")
SHORT = 10  # variations that a small recording keeps
EVERY = 9  # rows from one that it keeps to the next


class Differences(NamedTuple):
    """How far one task is from its recording."""

    rows: int
    observation: float  # largest absolute difference, m
    reward: float  # likewise
    success: int  # rows in which it differs


def differences(recording: Recording, task: str) -> Differences:
    """Put simulations into recorded states, and compare what is observed and rewarded there.

    The state includes where the hand had settled at the episode's beginning, from which rewards take their margins.
    """
    found = of_task(recording, task)
    env = prepared(task, found["variations"][found["variation"].astype(int)], found["settled"])
    env.elapsed[:] = 1
    env.qpos[:] = torch.from_numpy(found["qpos"][:, : env.qpos.shape[1]])
    env.mocap[:, 0] = torch.from_numpy(found["mocap"])
    env.before = torch.from_numpy(found["observation"][:, 18:36]).double()
    env.sense()
    reward = env.reward_terms(torch.from_numpy(found["action"]).float())["reward"]
    return Differences(
        len(reward),
        float(np.abs(env.observe().numpy() - found["observation"]).max()),
        float(np.abs(reward.numpy() - found["reward"]).max()),
        int((env.success().numpy() != (found["success"] > 0)).sum()),
    )


def of_task(recording: Recording, task: str) -> dict[str, np.ndarray]:
    """What a recording has of a task, by name."""
    return {name.partition("/")[2]: recording[name] for name in recording if name.startswith(f"{task}/")}


def prepared(task: str, variations: np.ndarray, settled: np.ndarray | None = None) -> SawyerTask:
    """A simulation of each variation (N, 6) at its beginning, the joints settled as recorded, (16,), or as here."""
    env = metaworld(len(variations), task=task, goal_visible=settled is None)
    assert isinstance(env, SawyerTask)
    if settled is not None:
        before = torch.from_numpy(settled[: env.model.nq].copy())
        tcp = env.gripper(before[None])[1][0]
        env.settled = Settled(env.settled.qpos, env.settled.qvel, tcp, before)
    values = torch.from_numpy(variations).float().split(3, 1)
    env.set_tasks(Tasks(dict(zip(env.distribution.parameters, values, strict=False))))
    env.reset()
    return env


def same_variations(recording: Recording, task: str) -> bool:
    """Whether ML1's training and test variations are drawn here as there, number by number."""
    pairs = [(of_task(recording, task)[name], seed) for name, seed in (("variations", 0), ("test", 1))]
    drawn = [(draw(TASKS[task], np.random.RandomState(seed)), theirs) for theirs, seed in pairs]
    return all(np.array_equal(ours[: len(theirs)], theirs) for ours, theirs in drawn)


def scripted(task: str, variations: np.ndarray) -> np.ndarray:
    """Whether the package's scripted policy succeeds here at any step of 500, for variations (N, 6): (N,) bool."""
    kinds = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
    env = prepared(task, variations)
    policies = [kinds[f"{task}-v3"]() for _ in variations]
    observation, succeeded = env.reset(), torch.zeros(len(variations), dtype=torch.bool)
    for _ in range(env.horizon):
        seen = observation.double().numpy()
        action = np.stack([policy.get_action(row) for policy, row in zip(policies, seen, strict=True)])
        step = env.step(torch.from_numpy(action).float())
        observation, succeeded = step.observation, succeeded | step.success
        if succeeded.all():
            break
    return succeeded.numpy()


def shortened(recording: Recording) -> dict[str, np.ndarray]:
    """A part of a recording, small enough to be kept beside the tests: rewards of all sizes, and successes."""
    short: dict[str, np.ndarray] = {}
    for task in dict.fromkeys(name.partition("/")[0] for name in recording):
        found = of_task(recording, task)
        order = np.lexsort((found["reward"], found["success"]))[::-EVERY]
        kept = {name: found[name][order] for name in ("qpos", "mocap", "success", "variation")}
        kept |= {name: found[name][order].astype(np.float32) for name in ("observation", "action", "reward")}
        kept |= {"settled": found["settled"]} | {name: found[name][:SHORT] for name in ("variations", "test")}
        short |= {f"{task}/{name}": value for name, value in kept.items()}
    return short


def recorded(folder: Path) -> Path:
    """A recording of all tasks, made in an environment with the package and its own engine."""
    out = folder / "recording.npz"
    subprocess.run([package_python(folder), RECORDER, out, *TASKS], check=True)
    return out


def package_python(folder: Path) -> Path:
    """The Python of an environment in a folder that has the package and its own engine; made if it is not there."""
    python = folder / "venv" / "bin" / "python"
    if not python.is_file():
        venv.create(folder / "venv", with_pip=True)
        # gymnasium's MuJoCo environments need packaging, and do not say so
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"metaworld=={VERSION}", "packaging"], check=True)
    return python


def row(recording: Recording, task: str) -> str:
    """One line of the table."""
    found, own = of_task(recording, task), differences(recording, task)
    there = found["succeeded"].astype(float)
    here = scripted(task, found["variations"][: len(there)]).astype(float)
    (low, high), (low_here, high_here) = success_interval(there), success_interval(here)
    cells = [
        task,
        str(own.rows),
        "yes" if same_variations(recording, task) else "NO",
        f"{own.observation:.0e}",
        f"{own.reward:.0e}",
        str(own.success),
        f"{there.mean():.2f} [{low:.2f}, {high:.2f}]",
        f"{here.mean():.2f} [{low_here:.2f}, {high_here:.2f}]",
        "yes" if low <= high_here and low_here <= high else "NO",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    return command(arguments, __doc__, _work, bare=True)


def _work(arguments: list[str]) -> None:
    values = given(arguments, ("folder", "recording", "small"))
    warnings.filterwarnings("ignore", module="metaworld")  # its scripted policies leave the range of actions
    folder = Path(values.get("folder", "runs/metaworld_parity"))
    path = Path(values["recording"]) if "recording" in values else recorded(folder)
    if not path.is_file():
        raise ConfigError(f"recording={path}: there is no such file")
    try:
        with np.load(path) as opened:
            recording = dict(opened)
    except (OSError, ValueError) as error:
        raise ConfigError(f"recording={path}: is not a recording ({error})") from None
    lacking = [task for task in TASKS if f"{task}/succeeded" not in recording]
    if lacking:
        raise ConfigError(f"recording={path}: lacks scripted episodes of {', '.join(lacking)}; it may be a small one")
    if "small" in values:
        small: dict[str, Any] = dict(shortened(recording))
        np.savez_compressed(values["small"], **small)
    head = ["task", "states", "same variations", "observation", "reward", "success differs"]
    head += ["scripted policy, package", "scripted policy, here", "intervals overlap"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for task in TASKS:
        print(row(recording, task), flush=True)


if __name__ == "__main__":
    sys.exit(main())
