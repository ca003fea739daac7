"""Tab completion in bash for `python -m metarl.<command>`: Hydra's own script knows scripts and programs only."""

SCRIPT = r"""_metarl_complete() {
    local module="${COMP_WORDS[2]}" line="${COMP_LINE:0:$COMP_POINT}"
    case "${COMP_WORDS[1]} $module" in
        "-m metarl.train" | "-m metarl.evaluate" | "-m metarl.render" | "-m metarl.reproduce") ;;
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
"""


def answer(request: str = "") -> str | None:
    """What `--shell-completion request` prints to be evaluated, or None where Hydra knows the answer."""
    return {"install=bash": SCRIPT, "uninstall=bash": "complete -r python python3\nunset -f _metarl_complete\n"}.get(
        request
    )
