"""What a configuration asks of the memory, at the very least: said before anything is allocated."""

from __future__ import annotations

import math
import os

from agents.settings import PolicySettings
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError
from metarl.launched import local_world_size, world_size

FLOAT = 4  # bytes
COPIES = 4  # of every parameter in training: value, gradient, and two of the optimiser's
SIMULATION = 1000  # bytes of the smallest simulation
SCALARS = 8  # floats per control step: an observation, an action, a reward, ...


def check_training(settings: TrainSettings, gpu: int | None = None) -> None:
    """Refuse settings for training whose tensors cannot fit into the memory: those of this machine's processes.

    Args:
        gpu: bytes of the memory of the GPU that holds the policy and what it sees, one for each process; None: this
            machine's holds them.

    Raises:
        ConfigError: with the settings that matter.
    """
    algo, agent, env, evaluate = settings.algo, settings.agent, settings.env, settings.evaluate
    here, everywhere = local_world_size(), world_size()
    # Some machine has at least its share of the tasks. All processes train, and one of them evaluates.
    phases = [phase.settings for phase in settings.phases()]
    trained = max(math.ceil(phase.tasks * here / everywhere) * phase.episodes for phase in phases)
    measured = evaluate.tasks * evaluate.episodes_per_step
    length = algo.longest_trial() * max((env.horizon or 1) // (env.action_repeat or 1), 1)
    told = {"env.horizon": env.horizon, "algo.tasks": algo.tasks, "algo.episodes": algo.episodes}
    told |= {"evaluate.tasks": evaluate.tasks, "evaluate.episodes_per_step": evaluate.episodes_per_step}
    told |= {f"agent.{name}": value for name, value in agent if isinstance(value, int | list)}
    text = ", ".join(f"{key}={value}" for key, value in told.items() if value is not None)
    for processes, simulations in ((here, trained), (1, measured)):
        policy = FLOAT * COPIES * agent.parameters() * processes + _seen(agent, simulations, length)
        _check(SIMULATION * simulations, policy, text, gpu, processes)


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


def _check(physics: int, policy: int, told: str, gpu: int | None, processes: int = 1) -> None:
    """Compare the bytes of the physics and of the policy's part with the memory that each is in.

    Args:
        processes: that need them together on this machine, each with a GPU of its own.
    """
    parts = [("this machine has", physics + policy, _memory())]
    if gpu is not None:
        gpus = "its GPU has" if processes == 1 else f"its {processes} GPUs have"
        parts = [("this machine has", physics, _memory()), (gpus, policy, gpu * processes)]
    together = f" in {processes} processes" if processes > 1 else ""
    for place, needed, there in parts:
        if needed > there:
            sizes = f"at least {_gigabytes(needed)}{together}, and {place} {_gigabytes(there)}"
            raise ConfigError(f"{told}: this would take {sizes} of memory")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.0f} GB" if size < 1e18 else f"10^{math.floor(math.log10(size / 1e9))} GB"


def _memory() -> int:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**41
