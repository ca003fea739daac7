"""What the tests over all registered families ask of a family."""

from __future__ import annotations

import inspect
import itertools

import torch

from envs import registry
from envs.core.environment import MujocoEnvironment
from envs.core.tasks import Parameter, Range, TaskDistribution, Tasks

MUJOCO_NAMES = [name for name in registry.names() if isinstance(registry.make(name, 1), MujocoEnvironment)]


def oracle(name: str) -> dict[str, bool]:
    """The option by which a family shows what is hidden, as `goal_visible`; empty for one that has none."""
    options = inspect.signature(type(registry.make(name, 1)).__init__).parameters
    return {option: True for option in options if option.endswith("_visible")}


def extreme_values(parameter: Parameter) -> list[tuple[float, ...]]:
    """Corners of every box of a range, beyond the training range as well; or every category."""
    if not isinstance(parameter, Range):
        return [(float(index),) for index in range(len(parameter.names))]
    boxes = [(parameter.low, parameter.high), *parameter.ood]
    return sorted({corner for low, high in boxes for corner in _corners(low, high)})


def _corners(low: tuple[float, ...], high: tuple[float, ...]) -> list[tuple[float, ...]]:
    """All corners of a box; of one with many axes two opposite ones, and some between them."""
    if len(low) <= 3:
        return list(itertools.product(*zip(low, high, strict=True)))
    picks = torch.rand(6, len(low), generator=torch.Generator().manual_seed(0)) < 0.5
    mixed = [tuple(b if up else a for a, b, up in zip(low, high, pick, strict=True)) for pick in picks.tolist()]
    return [low, high, *mixed]


def extreme_tasks(distribution: TaskDistribution, most: int = 24) -> Tasks:
    """All combinations of extreme values or, if these are many, `most` of them in which every value occurs."""
    values = [extreme_values(parameter) for parameter in distribution.parameters.values()]
    rows = list(itertools.islice(itertools.product(*values), most + 1))
    if len(rows) > most:
        count = max(most, *map(len, values))
        generator = torch.Generator().manual_seed(0)
        order = [torch.randperm(count, generator=generator).tolist() for _ in values]
        rows = [tuple(v[o[i] % len(v)] for v, o in zip(values, order, strict=True)) for i in range(count)]
    columns = zip(*rows, strict=True)
    return Tasks({name: torch.tensor(column) for name, column in zip(distribution.parameters, columns, strict=True)})
