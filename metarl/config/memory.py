"""What a configuration asks of the memory, at the very least: said before anything is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from metarl.errors import ConfigError

FLOAT = 4  # bytes
COPIES = 4  # of every parameter in training: value, gradient, and two of the optimiser's
SIMULATION = 1000  # bytes of the smallest simulation
SCALARS = 8  # floats per control step: an observation, an action, a reward, ...


def check_training(config: Mapping[str, Any]) -> None:
    """Refuse settings for training whose tensors cannot fit into this machine's memory.

    Raises:
        ConfigError: with the settings that matter.
    """
    algo, agent, env = config["algo"], config["agent"], config["env"]
    warm = algo.get("warm_start") or {}
    phases = [algo, *([warm["settings"]] if warm.get("iterations") else [])]
    measured = config["evaluate"]["tasks"] * config["evaluate"]["episodes_per_step"]
    simulations = max(measured, *(phase["tasks"] * phase["episodes"] for phase in phases))
    length = max(phase["trial_episodes"] for phase in phases) * (env.get("horizon") or 1)
    needed = FLOAT * COPIES * _parameters(agent) + _rollout(agent, simulations, length)
    told = {f"env.{k}": env.get(k) for k in ("horizon",)} | {f"algo.{k}": algo[k] for k in ("tasks", "episodes")}
    told |= {f"evaluate.{k}": config["evaluate"][k] for k in ("tasks", "episodes_per_step")}
    told |= {f"agent.{key}": agent[key] for key in ("width", "layers", "hidden") if key in agent}
    _check(needed, ", ".join(f"{key}={value}" for key, value in told.items() if value is not None))


def check_rollout(agent: Mapping[str, Any], simulations: int, length: int, told: str) -> None:
    """Refuse a rollout of so many simulations and control steps that its tensors cannot fit.

    Raises:
        ConfigError: with `told`, the settings that ask for it.
    """
    _check(_rollout(agent, simulations, length), told)


def _rollout(agent: Mapping[str, Any], simulations: int, length: int) -> int:
    memory = 2 * agent.get("width", 0) * agent.get("layers", 0) if agent.get("context", "none") != "none" else 0
    return simulations * (SIMULATION + FLOAT * length * (SCALARS + memory))


def _parameters(agent: Mapping[str, Any]) -> int:
    hidden = agent.get("hidden", [])
    dense = sum(a * b for a, b in zip(hidden[:-1], hidden[1:], strict=True)) + sum(hidden)
    return 12 * agent.get("layers", 0) * agent.get("width", 0) ** 2 + 2 * dense


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
