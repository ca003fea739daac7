"""The contract of a batched task environment, for code outside of this package; it lives in `envs.core.environment`."""

from envs.core.environment import ASSETS, Drawer, Environment, MujocoEnvironment, Step

__all__ = ["ASSETS", "Drawer", "Environment", "MujocoEnvironment", "Step"]
