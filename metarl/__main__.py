"""What there is to use: task families, policies that come with the package, and runs.

  python -m metarl list [FOLDER]    families with their hidden parameters, shipped policies, and the runs in a folder
  python -m metarl --version

The commands, each with --help
  python -m metarl.train        meta-train a policy, or continue a run
  python -m metarl.evaluate     measure how it adapts to held-out tasks
  python -m metarl.render       film it before and after
  python -m metarl.adapt        adapt a policy to one task, as on a robot, and keep it
  python -m metarl.export       write a policy as an ONNX file
  python -m metarl.view         watch it in a browser, and change its task while it acts
  python -m metarl.report       write a page about it, or about several runs beside each other
  python -m metarl.reproduce    see again why updates were skipped
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import NoReturn

from metarl.config.command_line import exit_status
from metarl.errors import ConfigError
from metarl.version import __version__


def work() -> None:
    """Do what the command line says.

    Raises:
        ConfigError: if it says nothing of sense.
    """

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; python -m metarl --help says what there is")

    parser = ArgumentParser("python -m metarl", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.error = fail  # type: ignore[method-assign]  # argparse would print many lines
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
    parser.add_argument("command", choices=["list"], nargs="?", help="say what there is")
    parser.add_argument("folder", nargs="?", default="runs", help="where the runs are (default: runs)")
    arguments = parser.parse_args()
    if arguments.command is None:
        return print((__doc__ or "").strip())
    from metarl.overview import overview  # it loads torch

    print(overview(arguments.folder))


if __name__ == "__main__":
    sys.exit(exit_status(work))
