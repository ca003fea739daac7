"""What a configuration asks of the memory, at the very least: said before anything is allocated."""

from __future__ import annotations

import math
import os

from agents.settings import PolicySettings
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError

FLOAT = 4  # bytes
COPIES = 4  # of every parameter in training: value, gradient, and two of the optimiser's
SIMULATION = 1000  # bytes of the smallest simulation
SCALARS = 8  # floats per control step: an observation, an action, a reward, ...


def check_training(settings: TrainSettings) -> None:
    """Refuse settings for training whose tensors cannot fit into this machine's memory.

    Raises:
        ConfigError: with the settings that matter.
    """
    algo, agent, env, evaluate = settings.algo, settings.agent, settings.env, settings.evaluate
    phases = [phase.settings for phase in settings.phases()]
    measured = evaluate.tasks * evaluate.episodes_per_step
    simulations = max(measured, *(phase.tasks * phase.episodes for phase in phases))
    length = algo.longest_trial() * (env.horizon or 1)
    needed = FLOAT * COPIES * agent.parameters() + _rollout(agent, simulations, length)
    told = {"env.horizon": env.horizon, "algo.tasks": algo.tasks, "algo.episodes": algo.episodes}
    told |= {"evaluate.tasks": evaluate.tasks, "evaluate.episodes_per_step": evaluate.episodes_per_step}
    told |= {f"agent.{name}": value for name, value in agent if isinstance(value, int | list)}
    _check(needed, ", ".join(f"{key}={value}" for key, value in told.items() if value is not None))


def check_rollout(agent: PolicySettings, simulations: int, length: int, told: str) -> None:
    """Refuse a rollout of so many simulations and control steps that its tensors cannot fit.

    Raises:
        ConfigError: with `told`, the settings that ask for it.
    """
    _check(_rollout(agent, simulations, length), told)


def _rollout(agent: PolicySettings, simulations: int, length: int) -> int:
    return simulations * (SIMULATION + FLOAT * length * (SCALARS + agent.kept()))


def _check(needed: int, told: str) -> None:
    there = _memory()
    if needed > there:
        sizes = f"at least {_gigabytes(needed)}, and this machine has {_gigabytes(there)}"
        raise ConfigError(f"{told}: this would take {sizes} of memory")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.0f} GB" if size < 1e18 else f"10^{math.floor(math.log10(size / 1e9))} GB"


def _memory() -> int:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**41
