"""What the tests of Meta-World's tasks share."""

from __future__ import annotations

import pytest
import torch

from envs.errors import PackageError
from envs.metaworld import package
from envs.metaworld.benchmarks import metaworld
from envs.metaworld.sawyer import SawyerTask


def installed() -> bool:
    try:
        package.models()
    except PackageError:
        return False
    return True


needs_package = pytest.mark.skipif(not installed(), reason=f"needs the package metaworld: {package.INSTALL}")


def one(task: str, count: int = 2, goal_visible: bool = False) -> SawyerTask:
    env = metaworld(count, task=task, threads=1, goal_visible=goal_visible)
    assert isinstance(env, SawyerTask)
    env.set_tasks(env.distribution.published("train", count))
    return env


def actions(steps: int, count: int) -> torch.Tensor:
    return torch.rand(steps, count, 4, generator=torch.Generator().manual_seed(3)) * 2.0 - 1.0
