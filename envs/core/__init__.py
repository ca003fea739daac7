"""The contract of a batched task environment, its tasks, and the physics."""
