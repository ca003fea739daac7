"""All methods on one environment, side by side: `python -m experiments.compare env=grasp`."""
