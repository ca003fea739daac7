"""The command `python -m metarl.train`: meta-train a policy. For its settings see --help."""

from typing import Any

from metarl.config.command_line import main


def task(config: dict[str, Any]) -> None:
    """Train, or resume a run, as configured."""
    from metarl.runs import train

    train(config)


if __name__ == "__main__":
    main("train", task)
