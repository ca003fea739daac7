"""The meta-gradient, inner step and interpolation of `metarl` on supervised tasks: `python -m experiments.few_shot`."""
