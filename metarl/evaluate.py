"""The command `python -m metarl.evaluate`: measure adaptation on held-out tasks. For its settings see --help."""

from metarl.config.command_line import main
from metarl.config.settings import EvaluateSettings


def task(settings: EvaluateSettings) -> None:
    """Evaluate a run as configured."""
    from metarl.runs import evaluate_run

    evaluate_run(settings)


if __name__ == "__main__":
    main("evaluate", task)
