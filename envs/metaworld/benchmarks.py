"""`env=metaworld`: Meta-World's benchmarks ML1 and ML10 as environments."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from envs.core.environment import Environment
from envs.errors import EnvsError
from envs.metaworld import blocks, fixtures
from envs.metaworld.mixed import MixedTasks
from envs.metaworld.sawyer import SawyerTask
from envs.metaworld.variations import Variations

ML10_TRAIN = (
    blocks.Reach,
    blocks.Push,
    blocks.PickPlace,
    fixtures.DoorOpen,
    fixtures.DrawerClose,
    fixtures.ButtonPressTopdown,
    blocks.PegInsertSide,
    fixtures.WindowOpen,
    blocks.Sweep,
    blocks.Basketball,
)
ML10_TEST = (
    fixtures.DrawerOpen,
    fixtures.DoorClose,
    blocks.ShelfPlace,
    blocks.SweepInto,
    fixtures.LeverPull,
)
TASKS: dict[str, type[SawyerTask]] = {kind.task: kind for kind in (*ML10_TRAIN, *ML10_TEST)}
BENCHMARKS = ("ML1", "ML10")


def metaworld(
    num_simulations: int,
    seed: int = 0,
    threads: int = 0,
    benchmark: str = "ML1",
    task: str | None = None,
    benchmark_seed: int = 0,
    horizon: int | None = None,
    goal_visible: bool = False,
    bonus: float = 0.0,
    recombine: bool = False,
    tasks_override: Mapping[str, object] | None = None,
) -> Environment:
    """N simulations of a benchmark; see `SawyerTask`.

    Args:
        num_simulations: N.
        seed: not used, because nothing in Meta-World is random but the choice of the variations.
        threads: of the physics; 0: all cores.
        benchmark: "ML1", one task, whose held-out variations are `test`; or "ML10", ten tasks to train on and five
            others for `test`. `validation` has further variations of the training tasks.
        task: of ML1, such as "pick-place"; None: "reach".
        benchmark_seed: of the variations: the package's own for `metaworld.ML1(..., seed=benchmark_seed)`.
        horizon: control steps per episode; None: 500.
        goal_visible: makes it an oracle: the target is at the end of the observation.
        bonus: for being near to success, beside the published reward. No policy is fed it, but returns have it.
        recombine: train on the placement of one training variation and the goal of another, see `Variations`.
        tasks_override: must be empty.

    Raises:
        EnvsError: for an unknown benchmark or task, with the nearest name.
        PackageError: if the package metaworld is not installed, or is of another version.
    """
    if benchmark not in BENCHMARKS:
        raise EnvsError(f"env.benchmark={benchmark}: unknown (valid: {', '.join(BENCHMARKS)})")
    options = {"seed": seed, "threads": threads, "horizon": horizon, "goal_visible": goal_visible, "bonus": bonus}
    if benchmark == "ML1":
        kind = task_named("reach" if task is None else task)
        splits = {"train": 0, "test": 1, "validation": 2}
        distribution = Variations({name: ((kind,), benchmark_seed + more) for name, more in splits.items()}, recombine)
        return kind(num_simulations, distribution.override(tasks_override or {}), **options)
    if task is not None:
        raise EnvsError(f"env.task={task}: {benchmark} has tasks of its own; leave it out, or set env.benchmark=ML1")
    distribution = Variations(
        {
            "train": (ML10_TRAIN, benchmark_seed),
            "test": (ML10_TEST, benchmark_seed),
            "validation": (ML10_TRAIN, benchmark_seed + 1),
        },
        recombine,
    )
    return MixedTasks(num_simulations, distribution.override(tasks_override or {}), **options)


def task_named(name: str) -> type[SawyerTask]:
    """A task by its name in the package, with or without its version: "push" or "push-v3".

    Raises:
        EnvsError: with the nearest name and all valid ones.
    """
    short = name.removesuffix("-v3")
    if short not in TASKS:
        close = get_close_matches(short, TASKS, 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise EnvsError(f"env.task={name}: unknown: {hint}(valid: {', '.join(TASKS)})")
    return TASKS[short]
