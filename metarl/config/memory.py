"""What a configuration asks of the memory, at the very least: said before anything is allocated."""

from __future__ import annotations

import math
import os

from agents.settings import PolicySettings
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError
from metarl.launched import world_size

FLOAT = 4  # bytes
COPIES = 4  # of every parameter in training: value, gradient, and two of the optimiser's
SIMULATION = 1000  # bytes of the smallest simulation
SCALARS = 8  # floats per control step: an observation, an action, a reward, ...


def check_training(settings: TrainSettings, gpu: int | None = None) -> None:
    """Refuse settings for training whose tensors cannot fit into the memory: those of one process.

    Args:
        gpu: bytes of the memory of the GPU that holds the policy and what it sees; None: this machine's holds them.

    Raises:
        ConfigError: with the settings that matter.
    """
    algo, agent, env, evaluate = settings.algo, settings.agent, settings.env, settings.evaluate
    phases = [phase.settings for phase in settings.phases()]
    measured = evaluate.tasks * evaluate.episodes_per_step
    # Of several processes one has at least its share of the tasks.
    simulations = max(measured, *(math.ceil(phase.tasks / world_size()) * phase.episodes for phase in phases))
    length = algo.longest_trial() * (env.horizon or 1)
    told = {"env.horizon": env.horizon, "algo.tasks": algo.tasks, "algo.episodes": algo.episodes}
    told |= {"evaluate.tasks": evaluate.tasks, "evaluate.episodes_per_step": evaluate.episodes_per_step}
    told |= {f"agent.{name}": value for name, value in agent if isinstance(value, int | list)}
    text = ", ".join(f"{key}={value}" for key, value in told.items() if value is not None)
    _check(SIMULATION * simulations, FLOAT * COPIES * agent.parameters() + _seen(agent, simulations, length), text, gpu)


def check_rollout(agent: PolicySettings, simulations: int, length: int, told: str, gpu: int | None = None) -> None:
    """Refuse a rollout of so many simulations and control steps that its tensors cannot fit.

    Args:
        gpu: as for `check_training`.

    Raises:
        ConfigError: with `told`, the settings that ask for it.
    """
    _check(SIMULATION * simulations, _seen(agent, simulations, length), told, gpu)


def _seen(agent: PolicySettings, simulations: int, length: int) -> int:
    """Bytes of what so many sequences see and remember."""
    return simulations * FLOAT * length * (SCALARS + agent.kept())


def _check(physics: int, policy: int, told: str, gpu: int | None) -> None:
    """Compare the bytes of the physics and of the policy's part with the memory that each is in."""
    parts = [("this machine", physics + policy, _memory())]
    if gpu is not None:
        parts = [("this machine", physics, _memory()), ("its GPU", policy, gpu)]
    for place, needed, there in parts:
        if needed > there:
            sizes = f"at least {_gigabytes(needed)}, and {place} has {_gigabytes(there)}"
            raise ConfigError(f"{told}: this would take {sizes} of memory")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.0f} GB" if size < 1e18 else f"10^{math.floor(math.log10(size / 1e9))} GB"


def _memory() -> int:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**41
