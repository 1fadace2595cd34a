"""What bash and zsh are told, so that they ask at each Tab: click's scripts with a few things more.

- No space is added behind a word that goes on: `train.`, `train.loss=`.
- bash gives the line instead of its words, which it cuts at `=` and `:`; bash 3.2 of macOS serves too.
- What the program says on its error output is dropped.

fish is served by click's own script, which does all of that.
"""

import os

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

_BREAKS = "=:"  # where bash may begin a new word, and our words do not


class Bash(BashComplete):
    """Is given the line up to the cursor."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value
    response=$(env COMP_WORDS="${COMP_LINE:0:$COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    for completion in $response; do
        type=${completion%%%%,*}
        value=${completion#*,}
        if [[ $type == dir ]]; then
            compopt -o dirnames 2>/dev/null
        elif [[ $type == file ]]; then
            compopt -o default 2>/dev/null
        elif [[ $type == plain ]]; then
            COMPREPLY+=("$value")
            [[ $value == *[.=] ]] && compopt -o nospace 2>/dev/null
        fi
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null ||
    complete -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        ends_word = not line or line[-1].isspace()
        self._begun = "" if ends_word or not words else words.pop()
        return words[1:], self._begun

    def format_completion(self, item: CompletionItem) -> str:
        """Only the part of the value that bash takes for the current word."""
        breaks = [sign for sign in _BREAKS if sign in os.environ.get("COMP_BREAKS", "")]
        kept = max((self._begun.rfind(sign) + 1 for sign in breaks), default=0)
        return f"{item.type},{item.value[kept:] if item.type == 'plain' else item.value}"


class Zsh(ZshComplete):
    """Words with a description are listed with it, as click does it."""

    source_template = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a going_on completions described response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for type key descr in ${response}; do
        if [[ "$type" == dir ]]; then
            _path_files -/
        elif [[ "$type" == file ]]; then
            _path_files -f
        elif [[ "$type" == plain && "$key" == *[.=] ]]; then
            going_on+=("$key")
        elif [[ "$type" == plain && "$descr" == _ ]]; then
            completions+=("$key")
        elif [[ "$type" == plain ]]; then
            described+=("$key":"$descr")
        fi
    done
    [ -n "$described" ] && _describe -V unsorted described -U
    [ -n "$going_on" ] && compadd -U -S '' -V going_on -a going_on
    [ -n "$completions" ] && compadd -U -V unsorted -a completions
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


SHELLS: tuple[type[ShellComplete], ...] = (Bash, Zsh)
