"""The command `python -m metarl.reproduce`: see again why updates were skipped. For its settings see --help."""

from typing import Any

from metarl.config.command_line import main


def task(config: dict[str, Any]) -> None:
    """Compute the update of a dump again; ends with the error that names what is not finite in it."""
    from metarl.runs import reproduce_dump

    reproduce_dump(config)


if __name__ == "__main__":
    main("reproduce", task)
