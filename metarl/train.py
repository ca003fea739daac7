"""The command `python -m metarl.train`: meta-train a policy. For its settings see --help."""

from metarl.config.command_line import main
from metarl.config.settings import ResumeSettings, TrainSettings


def task(settings: TrainSettings | ResumeSettings) -> None:
    """Train, or resume a run, as configured."""
    from metarl.runs import train

    train(settings)


if __name__ == "__main__":
    main("train", task)
