"""Task distributions, for code outside of this package; they live in `envs.core.tasks`."""

from envs.core.tasks import Categories, Range, TaskDistribution, Tasks

__all__ = ["Categories", "Range", "TaskDistribution", "Tasks"]
