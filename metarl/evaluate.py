"""The command `python -m metarl.evaluate`: measure adaptation on held-out tasks. For its settings see --help."""

from typing import Any

from metarl.config.command_line import main


def task(config: dict[str, Any]) -> None:
    """Evaluate a run as configured."""
    from metarl.runs import evaluate_run

    evaluate_run(config)


if __name__ == "__main__":
    main("evaluate", task)
