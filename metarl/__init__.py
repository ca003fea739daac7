"""Meta-reinforcement learning: rollout, adaptation, meta-update and evaluation."""

from typing import TYPE_CHECKING

from metarl import layout

layout.check()  # before anything imports envs or agents

if TYPE_CHECKING:
    from envs.check import check_env
    from metarl.agent import Agent, load

from metarl.version import __version__  # noqa: E402

__all__ = ["Agent", "__version__", "check_env", "load"]


def __getattr__(name: str) -> object:
    # `python -m metarl.train --help` must not wait for torch.
    if name == "check_env":
        from envs import check

        return check.check_env
    if name in ("Agent", "load"):
        from metarl import agent

        return getattr(agent, name)
    raise AttributeError(f"module 'metarl' has no attribute '{name}'")
