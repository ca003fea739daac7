"""Benchmarks, comparisons, examples and results on top of envs, agents and metarl."""
