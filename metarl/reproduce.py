"""The command `python -m metarl.reproduce`: see again why updates were skipped. For its settings see --help."""

from metarl.config.command_line import main
from metarl.config.settings import ReproduceSettings


def task(settings: ReproduceSettings) -> None:
    """Compute the update of a dump again; ends with the error that names what is not finite in it."""
    from metarl.runs import reproduce_dump

    reproduce_dump(settings)


if __name__ == "__main__":
    main("reproduce", task)
