"""Measure how a trained run adapts to held-out tasks; writes evaluation/<split>.json into its folder.

  python -m metarl.evaluate run=FOLDER [key=value ...]

Examples
  python -m metarl.evaluate run=runs/reach-maml-0
  python -m metarl.evaluate run=runs/reach-maml-0 split=ood tasks=200 steps=3
  python -m metarl.evaluate -m run=runs/reach-maml-0,runs/reach-maml-1 split=test,ood
"""

from metarl.config.command_line import main
from metarl.config.settings import EvaluateSettings


def task(settings: EvaluateSettings) -> None:
    """Evaluate a run as configured."""
    from metarl.runs import evaluate_run

    evaluate_run(settings)


if __name__ == "__main__":
    main("evaluate", task)
