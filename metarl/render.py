"""The command `python -m metarl.render`: film a policy on one task. For its settings see --help."""

from metarl.config.command_line import main
from metarl.config.settings import RenderSettings


def task(settings: RenderSettings) -> None:
    """Film a run as configured."""
    from metarl.evaluation.films import render_run

    render_run(settings)


if __name__ == "__main__":
    main("render", task)
