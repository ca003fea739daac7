"""Tiny policies and crafted batches that the tests of the learners share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from agents.policy import Policy, log_probability
from agents.transformer import TransformerPolicy
from metarl.rollouts.episodes import Batch

MakeBatch = Callable[..., Batch]
NUMBER = count()


def craft_batch(policy: Policy, tasks: int, episodes: int, steps: int, seed: int, spread: float = 0.2) -> Batch:
    """Random training data (M, E, T, ...): probability ratios scatter by `spread`, episodes end at any step."""
    generator = torch.Generator().manual_seed(seed)
    dtype = policy.log_std.dtype

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(tasks, episodes, steps, *size, generator=generator, dtype=torch.float64).to(dtype)

    tokens = normal(policy.layout.size)
    with torch.no_grad():
        output = policy(tokens.flatten(0, 1))
        mean, log_std = (x.unflatten(0, (tasks, episodes)) for x in output[:2])
        actions = mean + normal(policy.action_size) * torch.exp(log_std)
        flat = log_probability(output, actions.flatten(0, 1)).unflatten(0, (tasks, episodes))
    lengths = torch.randint(1, steps + 1, (tasks, episodes, 1), generator=generator)
    valid = (torch.arange(steps) < lengths).to(dtype)
    advantage = normal()
    return Batch(tokens, actions, flat + spread * normal(), advantage, normal(), valid, advantage)


@pytest.fixture
def tiny_policy() -> Policy:
    """A Transformer of one layer in float64, D = 3, A = 2, with token statistics of its own."""
    torch.manual_seed(0)
    policy = TransformerPolicy(3, 2, max_length=4, width=4, layers=1, heads=2).double()
    policy.normaliser.update(2.0 * torch.randn(50, 7, dtype=torch.float64) + 0.5)
    with torch.no_grad():  # away from the start, where the action head hardly answers to its input
        for parameter in policy.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return policy


@pytest.fixture
def make_batch() -> MakeBatch:
    """`craft_batch`, as a fixture: test modules import nothing from each other."""
    return craft_batch


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module with a name of its own, where Python finds it, and returns the name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str) -> str:
        name = f"own_{next(NUMBER)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write
