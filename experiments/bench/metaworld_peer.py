"""Steps Meta-World as its package does it, in processes of single environments; see `experiments.bench.metaworld`.

It runs in an environment of its own, which has `metaworld` and MuJoCo 3.3.0 and nothing of this project. It is told on
stdin how many steps to make, and says on stdout how many seconds they took.
"""

from __future__ import annotations

import sys
import time
import warnings

import gymnasium
import metaworld
import numpy as np


def single(kinds: list, tasks: list, index: int) -> gymnasium.Env:
    """One environment, the index-th kind in turn, with a variation of its own."""
    name, kind = kinds[index % len(kinds)]
    own = [task for task in tasks if task.env_name == name]
    env = kind()
    env.set_task(own[index // len(kinds) % len(own)])
    return env


def main(benchmark: str, task: str, count: int) -> None:
    warnings.filterwarnings("ignore")
    chosen = metaworld.ML1(f"{task}-v3", seed=0) if benchmark == "ML1" else metaworld.ML10(seed=0)
    kinds, tasks = list(chosen.train_classes.items()), chosen.train_tasks
    makers = [lambda index=index: single(kinds, tasks, index) for index in range(count)]
    pool = gymnasium.vector.AsyncVectorEnv(makers)
    pool.reset()
    generator, steps = np.random.default_rng(0), 0
    print("ready", flush=True)
    for line in sys.stdin:
        actions = generator.uniform(-1, 1, (int(line), count, 4)).astype(np.float32)
        steps += len(actions)
        if steps > 450:  # an episode has 500; a reset is not what is measured
            pool.reset()
            steps = len(actions)
        start = time.perf_counter()
        for action in actions:
            pool.step(action)
        print(time.perf_counter() - start, flush=True)
    pool.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
