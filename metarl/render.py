"""The command `python -m metarl.render`: film a policy on one task. For its settings see --help."""

from typing import Any

from metarl.config.command_line import main


def task(config: dict[str, Any]) -> None:
    """Film a run as configured."""
    from metarl.evaluation.films import render_run

    render_run(config)


if __name__ == "__main__":
    main("render", task)
