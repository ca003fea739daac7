"""What `--help` prints: every setting with its value and the sentence of its definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from agents.settings import Settings
from metarl.config.parsing import COMMANDS, leaves, show

EXAMPLES = {
    "train": """\
python -m metarl.train env=reach algo=maml seed=0
python -m metarl.train env=point2d algo=reptile budget.minutes=5 run_dir=runs/first
python -m metarl.train resume=runs/first budget.minutes=10
python -m metarl.train -m algo=maml,reptile seed=0,1,2     a sweep: one run after the other
python -m metarl.train env=reach 'env.tasks.payload_mass=[0,2]'     another range of tasks
python -m metarl.train env=reach algo.warm_start.run=runs/first     MAML on the policy that another run trained
python -m metarl.train env=my_package.my_module:MyEnv      an environment of your own; likewise algo=, agent=""",
    "evaluate": """\
python -m metarl.evaluate run=runs/reach-maml-0
python -m metarl.evaluate run=runs/reach-maml-0 split=ood tasks=200 steps=3
python -m metarl.evaluate -m run=runs/reach-maml-0,runs/reach-maml-1 split=test,ood""",
    "render": """\
python -m metarl.render run=runs/reach-maml-0 task=3 out=video.mp4
python -m metarl.render -m run=runs/reach-maml-0 split=test,ood task=0,1,2""",
    "reproduce": """\
python -m metarl.reproduce dump=runs/reach-maml-0/dumps/iteration-000020""",
}
WIDTH = 110
ABSENT = object()


def text(command: str, kind: type[Settings], plain: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    """The help of a command.

    Args:
        plain: the values that its command line would use.
        groups: the choices of each group that is chosen by a name.
    """
    lines = [
        *wrap(COMMANDS[command].__doc__ or "", WIDTH),
        "",
        f"  python -m metarl.{command} [key=value ...]",
        "",
        "Examples",
    ]
    lines += [f"  {line}" for line in EXAMPLES[command].splitlines()]
    if groups:
        lines += ["", "Groups, chosen by name"]
        for name, choices in groups.items():
            first, *more = wrap(f"{name}: {', '.join(choices)}", WIDTH)
            lines += [first, *(f"  {line}" for line in more)]
    lines += ["", "Keys, with the values that this command line would use (null: none)"]
    told: set[str] = set()
    for key, field in leaves(kind):
        value = _value(plain, key, field.default)
        if value is not ABSENT:
            description = field.description or ""
            lines += _indented(f"  {key}={show(value)}", 44, description if description not in told else "")
            told.add(description)
    lines += [
        "",
        "Options",
        "  -m               one run for each combination of values given as a,b,c",
        "  --cfg job        show the configuration and do nothing",
        "  --hydra-help     the options of Hydra, which reads this command line",
        f'  Tab completion for bash: eval "$(python -m metarl.{command} --shell-completion install=bash)"',
    ]
    return "\n".join(lines)


def _value(plain: Mapping[str, Any], key: str, default: Any) -> Any:
    """What a setting is; where nothing is said of it, its default, if that is more than None."""
    here: Any = plain
    for name in key.split("."):
        if not isinstance(here, Mapping) or name not in here:
            return ABSENT if default is None else default
        here = here[name]
    return here


def _indented(left: str, column: int, right: str) -> list[str]:
    """Text beside a label, in as many lines as it needs."""
    first, *more = wrap(right, WIDTH - column) or [""]
    if len(left) >= column:
        return [left, *(" " * column + line for line in (first, *more) if line)]
    return [f"{left:{column}}{first}".rstrip(), *(" " * column + line for line in more)]
