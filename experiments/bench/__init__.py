"""Benchmarks: each figure is a ratio within one run. `python -m experiments.bench --help`"""
