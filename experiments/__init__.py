"""Recipes, benchmarks and comparisons on top of envs, agents and metarl."""
