"""The meta-learners of `metarl`, unchanged, on supervised tasks: `python -m experiments.few_shot`."""
