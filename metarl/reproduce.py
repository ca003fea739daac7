"""See again why a run skipped its updates: computes the update that it left in its dumps folder, and ends with the
error that names the first thing in it that is not finite.

  python -m metarl.reproduce dump=FOLDER [key=value ...]

Examples
  python -m metarl.reproduce dump=runs/reach-maml-0/dumps/iteration-000020
"""

from metarl.config.command_line import main
from metarl.config.settings import ReproduceSettings


def task(settings: ReproduceSettings) -> None:
    """Compute the update of a dump again; ends with the error that names what is not finite in it."""
    from metarl.runs import reproduce_dump

    reproduce_dump(settings)


if __name__ == "__main__":
    main("reproduce", task)
