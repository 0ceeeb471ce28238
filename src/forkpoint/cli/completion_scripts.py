"""The scripts of `forkpoint completion`, one function a shell: from the verbs to text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forkpoint.cli.completion import Option, Verb

WIDTH = 90  # of a description; shells show it on one line


def bash(verbs: Sequence[Verb]) -> str:
    """A function for `complete -F`; where it has nothing to say, bash completes paths."""
    plain, kinds = _first_words(verbs)
    cases = [f"        {_pattern(verb.name)}) {_bash_words(verb)} ;;" for verb in verbs]
    values = [
        f"        {_pattern(f'{v.name} --{o.name}')}) values={_quoted(' '.join(o.values))} ;;"
        for v, o in _valued(verbs)
    ]
    return _BASH.format(
        first=" ".join([*plain, *kinds, "--help", "--version"]),
        kinds="\n".join(f"        {word}) kinds={_quoted(' '.join(names))} ;;" for word, names in kinds.items()),
        verbs="\n".join(cases), values="\n".join(values),
        files="|".join(verb.name for verb in verbs if verb.takes_files),
    )  # fmt: skip


def zsh(verbs: Sequence[Verb]) -> str:
    """A function for `#compdef`, with a description at each verb and option."""
    plain, kinds = _first_words(verbs)
    by_name = {verb.name: verb for verb in verbs}
    first = [
        *((name, by_name[name].summary) for name in plain),
        *((word, ", ".join(names)) for word, names in kinds.items()),
    ]
    seconds = [
        f"        {word}) kinds=({_zsh_items((n, by_name[f'{word} {n}'].summary) for n in names)}) ;;"
        for word, names in kinds.items()
    ]
    values = [
        f"        {_pattern(f'{v.name} --{o.name}')}) values=({' '.join(o.values)}) ;;" for v, o in _valued(verbs)
    ]
    cases = [
        f"        {_pattern(v.name)})\n            options=({_zsh_items((f'--{o.name}', o.help) for o in v.options)})\n"
        f"            switches=({' '.join(_switches(v))}) bare=({' '.join(v.words)}) ;;"
        for v in verbs
    ]
    return _ZSH.format(
        first=_zsh_items(first), kinds="\n".join(seconds), verbs="\n".join(cases), values="\n".join(values),
        files="|".join(verb.name for verb in verbs if verb.takes_files),
    )  # fmt: skip


def fish(verbs: Sequence[Verb]) -> str:
    """A `complete` line for each verb, option and set of values."""
    plain, kinds = _first_words(verbs)
    by_name = {verb.name: verb for verb in verbs}
    lines = [_fish_word("", name, by_name[name].summary) for name in plain]
    for word, names in kinds.items():
        lines.append(_fish_word("", word, ", ".join(names)))
        lines += [_fish_word(f" {word}", name, by_name[f"{word} {name}"].summary) for name in names]
    for verb in verbs:
        start = f"complete -c forkpoint -n {_fish_quoted(f'__forkpoint_is {verb.name}')}"
        lines += [f"{start} -a {word}" for word in verb.words]
        lines += [f"{start} -F"] if verb.takes_files else []
        lines += [f"{start} -l {o.name}{_fish_takes(o)} -d {_fish_quoted(_short(o.help))}" for o in verb.options]
    return _FISH + "\n".join(lines) + "\n"


SCRIPTS: dict[str, Callable[[Sequence[Verb]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _first_words(verbs: Iterable[Verb]) -> tuple[list[str], dict[str, list[str]]]:
    """Verbs of one word; and the first words of the others with what may follow."""
    plain: list[str] = []
    kinds: dict[str, list[str]] = {}
    for verb in verbs:
        word, _, kind = verb.name.partition(" ")
        if kind:
            kinds.setdefault(word, []).append(kind)
        else:
            plain.append(word)
    return plain, kinds


def _valued(verbs: Iterable[Verb]) -> list[tuple[Verb, Option]]:
    return [(verb, option) for verb in verbs for option in verb.options if option.values]


def _switches(verb: Verb) -> list[str]:
    return [f"--{option.name}" for option in verb.options if option.is_switch]


def _pattern(words: str) -> str:
    return f'"{words}"'


def _quoted(text: str) -> str:
    """For bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 3].rsplit(" ", 1)[0] + "..."


def _bash_words(verb: Verb) -> str:
    offered = [*verb.words, *(f"--{option.name}" for option in verb.options)]
    return f"options={_quoted(' '.join(offered))} switches={_quoted(' '.join(_switches(verb)))}"


def _zsh_items(items: Iterable[tuple[str, str]]) -> str:
    return " ".join(_quoted(f"{name}:{_short(text)}") for name, text in items)


def _fish_word(after: str, word: str, summary: str) -> str:
    condition = _fish_quoted(f"__forkpoint_at{after}")
    return f"complete -c forkpoint -n {condition} -a {word} -d {_fish_quoted(_short(summary))}"


def _fish_takes(option: Option) -> str:
    """Nothing after a switch, one of the values, or whatever there is, files among it."""
    if option.is_switch:
        return ""
    return f" -x -a {_fish_quoted(' '.join(option.values))}" if option.values else " -r -F"


_BASH = """\
# bash completion of forkpoint, made by `forkpoint completion bash`
_forkpoint() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}}
    local kinds= options= switches= values=
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W '{first}' -- "$cur"))
        return
    fi
    case $verb in
{kinds}
    esac
    if [[ -n $kinds ]]; then
        if (( COMP_CWORD == 2 )); then
            COMPREPLY=($(compgen -W "$kinds" -- "$cur"))
            return
        fi
        verb="$verb ${{COMP_WORDS[2]}}"
    fi
    # readline makes three words of --task=lab
    if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    [[ $prev == --* ]] && prev=${{prev//_/-}}
    case $verb in
{verbs}
    esac
    case "$verb $prev" in
{values}
    esac
    if [[ $prev == --* && " $switches " != *" $prev "* ]]; then
        [[ -n $values ]] && COMPREPLY=($(compgen -W "$values" -- "$cur"))
        return
    fi
    case $verb in
        {files}) [[ $cur == -* ]] || return ;;
    esac
    if [[ $cur == --*_* ]]; then
        options=${{options//-/_}}
        options=${{options//__/--}}
    fi
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
}}
complete -o default -F _forkpoint forkpoint
"""

_ZSH = """\
#compdef forkpoint
# zsh completion of forkpoint, made by `forkpoint completion zsh`
_forkpoint() {{
    local verb=$words[2] previous=$words[CURRENT-1]
    local -a verbs kinds options switches values bare
    if (( CURRENT == 2 )); then
        verbs=({first})
        _describe verb verbs
        return
    fi
    case $verb in
{kinds}
    esac
    if (( $#kinds )); then
        if (( CURRENT == 3 )); then
            _describe verb kinds
            return
        fi
        verb="$verb $words[3]"
    fi
    if [[ $words[CURRENT] == --*=* ]]; then
        previous=${{words[CURRENT]%%=*}}
        compset -P 1 '*='
    fi
    [[ $previous == --* ]] && previous=${{previous//_/-}}
    case $verb in
{verbs}
    esac
    case "$verb $previous" in
{values}
    esac
    if [[ $previous == --* ]] && (( ! $switches[(Ie)$previous] )); then
        if (( $#values )); then compadd -a values; else _files; fi
        return
    fi
    case $verb in
        {files}) [[ $words[CURRENT] == -* ]] || {{ _files; return }} ;;
    esac
    (( $#bare )) && compadd -a bare
    _describe -o option options
}}
if [[ $funcstack[1] == _forkpoint ]]; then _forkpoint "$@"; else compdef _forkpoint forkpoint; fi
"""

_FISH = """\
# fish completion of forkpoint, made by `forkpoint completion fish`
function __forkpoint_at  # the words so far are these
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"
end
function __forkpoint_is  # the verb is this one
    set -l words (commandline -opc)
    test "$words[2]" = "$argv"; or test "$words[2] $words[3]" = "$argv"
end
complete -c forkpoint -f
complete -c forkpoint -n __forkpoint_at -l help -d 'show the verbs'
complete -c forkpoint -n __forkpoint_at -l version -d 'show the version'
"""
