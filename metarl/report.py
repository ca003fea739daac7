"""Write a page about a trained run: curves with intervals, films of the best, the median and the worst held-out task,
where it fails, settings, and how to repeat it. Of several runs, side by side, with paired differences. The page is one
file, which loads nothing.

  python -m metarl.report run=FOLDER [key=value ...]

Examples
  python -m metarl.report run=runs/reach-maml-0
  python -m metarl.report run=pretrained/reach_search films=false out=reach.html
  python -m metarl.report run=[runs/reach-maml-0,runs/reach-in_context-0]
"""

from metarl.config.command_line import main
from metarl.config.settings import ReportSettings


def task(settings: ReportSettings) -> None:
    """Write the page as configured."""
    from metarl.pages.report import report_runs

    report_runs(settings)


if __name__ == "__main__":
    main("report", task)
