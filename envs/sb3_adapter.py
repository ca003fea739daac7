"""Environments for Stable-Baselines3; they live in `envs.adapters.sb3`."""

from envs.adapters.sb3 import SB3VecEnv

__all__ = ["SB3VecEnv"]
