"""Plays Meta-World as its package and its own MuJoCo have it, and writes down what happens; see `metaworld_parity`.

It runs in an environment of its own, which has `metaworld` and MuJoCo 3.3.0 and nothing of this project.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import metaworld
import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

HORIZON = 500
FIELDS = ("qpos", "mocap", "action", "observation", "reward", "success", "variation", "step")
SIZE = 16  # of qpos, padded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--every", type=int, default=5, help="control steps from one record to the next")
    parser.add_argument("--variations", type=int, default=4, help="recorded, of each task")
    parser.add_argument("--successes", type=int, default=50, help="variations on which the scripted policy is tried")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # the scripted policies' actions leave their range, and say so every time
    found: dict[str, np.ndarray] = {}
    for task in given.tasks:
        found |= {f"{task}/{name}": value for name, value in record(task, given).items()}
        print(task, "scripted policy", found[f"{task}/succeeded"].mean(), flush=True)
    np.savez_compressed(given.out, **found)


def record(task: str, given: argparse.Namespace) -> dict[str, np.ndarray]:
    """What happens in one task: rows along scripted and random episodes, resets, variations, successes."""
    name = f"{task}-v3"
    benchmark = metaworld.ML1(name, seed=0)
    env: Any = benchmark.train_classes[name]()
    rows: dict[str, list[np.ndarray]] = {field: [] for field in FIELDS}
    variations, resets, succeeded, settled = [], [], [], []
    env._reset_hand = watched(env, settled)
    for index, variation in enumerate(benchmark.train_tasks):
        env.set_task(variation)
        observation, _ = env.reset()
        variations.append(np.resize(env._last_rand_vec, 6) * (np.arange(6) < len(env._last_rand_vec)))
        resets.append(observation)
        if index < given.successes:
            scripted, kept = ENV_POLICY_MAP[name](), rows if index < given.variations else None
            succeeded.append(
                play(env, observation, lambda seen, own=scripted: own.get_action(seen), index, kept, given)
            )
        if index < given.variations:
            generator = np.random.default_rng(index)
            drift = generator.uniform(-1, 1, 4)
            play(env, env.reset()[0], lambda _, g=generator, d=drift: wander(g, d), index, rows, given)
    tests = [np.asarray(pickled(each)["rand_vec"]) for each in benchmark.test_tasks]
    return {
        **{field: np.array(values) for field, values in rows.items()},
        "variations": np.array(variations),
        "test": np.stack([np.concatenate([each, np.zeros(6 - len(each))]) for each in tests]),
        "reset": np.array(resets),
        "settled": settled[1],  # the same in every episode; a reset begins twice, and only then from the initial state
        "succeeded": np.array(succeeded),
    }


def watched(env: Any, settled: list[np.ndarray]) -> Callable[[], None]:
    """The hand's reset, which also writes down the joints (16,) one physics step before its end.

    What the package measures after it is of that instant. Positions advance by the velocities at the step's end, so the
    step can be taken back.
    """
    reset = env._reset_hand

    def reset_and_look() -> None:
        reset()
        qpos = env.data.qpos.copy()
        mujoco.mj_integratePos(env.model, qpos, env.data.qvel, -env.model.opt.timestep)
        settled.append(padded(qpos))

    return reset_and_look


def padded(qpos: np.ndarray) -> np.ndarray:
    return np.concatenate([qpos, np.zeros(SIZE - len(qpos))])


def pickled(task: Any) -> dict[str, Any]:
    """What a task of the package holds; the package reads it the same way."""
    import pickle

    return pickle.loads(task.data)


def wander(generator: np.random.Generator, drift: np.ndarray) -> np.ndarray:
    """A random action that does not stay where it is."""
    drift[:] = np.where(generator.random(4) < 0.05, generator.uniform(-1, 1, 4), drift)
    return np.clip(drift + 0.5 * generator.standard_normal(4), -1, 1)


def play(
    env: Any,
    observation: np.ndarray,
    act: Callable[[np.ndarray], np.ndarray],
    index: int,
    rows: dict[str, list[np.ndarray]] | None,
    given: argparse.Namespace,
) -> bool:
    """One episode; whether it succeeds at any step. Without rows it ends there."""
    success = False
    for step in range(HORIZON):
        seen = np.concatenate([observation[:36], env._get_pos_goal()])
        action = np.clip(np.asarray(act(seen), np.float32), -1, 1)
        observation, reward, _, _, info = env.step(action)
        success |= bool(info["success"])
        if rows is None:
            if success:
                break
            continue
        if step % given.every == 0:
            now = (
                padded(env.data.qpos),
                env.data.mocap_pos[0].copy(),
                action,
                observation,
                reward,
                info["success"],
                index,
                step,
            )
            for field, value in zip(FIELDS, now, strict=True):
                rows[field].append(np.asarray(value))
    return success


if __name__ == "__main__":
    main()
