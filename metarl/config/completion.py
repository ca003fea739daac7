"""Tab completion in bash for `python -m metarl.<command>`: Hydra's own script knows scripts and programs only, and of a
setting's values only the present one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from agents.settings import POLICIES
from metarl.config.algorithms import ALGORITHMS
from metarl.config.parsing import COMMANDS, choices, leaves
from metarl.layout import SHIPPED

RUNS = {
    "run": True,
    "beside": True,
    "algo.warm_start.run": True,
    "resume": False,
}  # settings that name a run: may it be a shipped one?

SCRIPT = r"""_metarl_complete() {
    local module="${COMP_WORDS[2]}" line="${COMP_LINE:0:$COMP_POINT}"
    case "${COMP_WORDS[1]} $module" in
        COMMANDS) ;;
        *) return ;;
    esac
    local word="${line##* }"
    local choices
    line="metarl ${line#*$module }"
    choices=$(COMP_LINE="$line" "${COMP_WORDS[0]}" -m "$module" --shell-completion query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    # bash has the part up to the last equals sign on the line already
    case "$word" in *=*) COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}") ;; esac
}
complete -o nospace -o default -o bashdefault -F _metarl_complete python python3
""".replace("COMMANDS", " | ".join(f'"-m metarl.{command}"' for command in COMMANDS))


def answer(command: str, request: str = "") -> str | None:
    """What `--shell-completion request` prints, or None where Hydra knows the answer."""
    if request == "query=bash":
        return "\n".join(suggestions(command, os.environ.get("COMP_LINE", "").rpartition(" ")[2])) or None
    return {"install=bash": SCRIPT, "uninstall=bash": "complete -r python python3\nunset -f _metarl_complete\n"}.get(
        request
    )


def suggestions(command: str, word: str) -> list[str]:
    """The settings with values, such as `split=ood`, that a word at the end of a command line can become."""
    key, equals, typed = word.partition("=")
    if not equals:
        return []
    fields = dict(_fields(command))
    if key not in fields:
        return []
    schema = TypeAdapter(fields[key].rebuild_annotation()).json_schema()
    values = _runs(RUNS[key]) if key in RUNS else choices(schema)
    return [f"{key}={value}" for value in values if value.startswith(typed)]


def _fields(command: str) -> Iterator[tuple[str, FieldInfo]]:
    yield from leaves(COMMANDS[command])
    if command == "train":
        for group, known in (("algo", ALGORITHMS), ("agent", POLICIES)):
            for kind in known.values():
                yield from leaves(kind, f"{group}.")


def _runs(shipped: bool) -> Iterator[str]:
    """The runs in the usual folder, and the policies that come with the package."""
    for config in sorted(Path("runs").glob("*/config.yaml")):
        yield config.parent.as_posix()
    for config in sorted(SHIPPED.glob("*/config.yaml")) if shipped else ():
        yield f"pretrained/{config.parent.name}"
