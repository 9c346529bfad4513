"""Completions of options, their values and commands, for bash, zsh and fish.

A shell offers what argparse knows of a command line: the options of the daemon or of a command, and
for the value of an option its words, or files, users and groups of the host.
"""

import argparse
import re
from collections.abc import Iterator

from vhost9p import cli_options, commands
from vhost9p.cli_parser import Parser, Typed
from vhost9p.config_values import Completion
from vhost9p.config_values import Parser as Values

DAEMON = ""
"""The command line without a command's name."""


def _parsers() -> Iterator[tuple[str, Parser]]:
    yield DAEMON, cli_options.build_parser()
    for name in commands.NAMES:
        yield name, commands.parser(name)


def _actions(parser: Parser) -> Iterator[argparse.Action]:
    for _, actions in parser.sections():
        yield from actions


def _names(parser: Parser) -> list[str]:
    return [name for action in _actions(parser) for name in action.option_strings]


def _values(action: argparse.Action) -> Values | None:
    parse = action.type.parse if isinstance(action.type, Typed) else None
    return parse if isinstance(parse, Values) else None


def _words(action: argparse.Action) -> tuple[str, ...]:
    """The words that an option can have."""
    values = _values(action)
    return tuple(map(str, action.choices or ())) or (values.choices if values else ())


def _completes(action: argparse.Action) -> Completion:
    values = _values(action)
    return values.completes if values else ""


def _quoted(text: str) -> str:
    """A word of each of the shells."""
    return "'" + text.replace("'", "'\\''") + "'"


def _clause(action: argparse.Action) -> str:
    """The first clause of an option's help."""
    return re.split(r"[;:] | \(default", str(action.help).replace("%%", "%"))[0]


# ---- bash ----------------------------------------------------------------------------------------

_BASH = """\
# Completions of vhost9p for bash.

_vhost9p() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=
    # --option=value is three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]] && (( COMP_CWORD > 2 )); then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    if (( COMP_CWORD > 1 )) && [[ ${COMP_WORDS[1]} != -* ]]; then
        command=${COMP_WORDS[1]}
    fi
    COMPREPLY=()
    case "$command $prev" in
@VALUES@    esac
    case $command in
@OPTIONS@    esac
    if (( COMP_CWORD == 1 )); then
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W '@COMMANDS@' -- "$cur")
    fi
}
complete -F _vhost9p vhost9p
"""
_COMPGEN: dict[Completion, str] = {"directory": "-d", "file": "-f", "user": "-u", "group": "-g"}


def bash() -> str:
    """Returns the completions for bash."""
    values = "".join(
        _bash_value(name, action) for name, parser in _parsers() for action in _actions(parser)
    )
    options = "".join(_bash_options(name, parser) for name, parser in _parsers())
    text = _BASH.replace("@VALUES@", values).replace("@OPTIONS@", options)
    return text.replace("@COMMANDS@", " ".join(commands.NAMES))


def _reply(*arguments: str) -> str:
    return f'mapfile -t COMPREPLY < <(compgen {" ".join(arguments)} -- "$cur")'


def _from_host(kind: Completion) -> str:
    names = "compopt -o filenames 2>/dev/null; " if kind in ("file", "directory") else ""
    return names + _reply(_COMPGEN[kind])


def _bash_value(command: str, action: argparse.Action) -> str:
    if action.nargs == 0 or not action.option_strings:
        return ""
    pattern = " | ".join(_quoted(f"{command} {name}") for name in action.option_strings)
    how = ""
    if words := _words(action):
        how = _reply("-W", _quoted(" ".join(words))) + "; "
    elif kind := _completes(action):
        how = _from_host(kind) + "; "
    return f"        {pattern}) {how}return ;;\n"


def _bash_options(command: str, parser: Parser) -> str:
    lines = [_reply("-W", _quoted(" ".join(_names(parser))))]
    for action in _actions(parser):
        if not action.option_strings and (words := _words(action)):
            lines.append(f"[[ $cur == -* ]] || {_reply('-W', _quoted(' '.join(words)))}")
        elif not action.option_strings and (kind := _completes(action)):
            lines.append(f"[[ $cur == -* ]] || {{ {_from_host(kind)}; }}")
    body = "".join(f"            {line}\n" for line in lines)
    return f"        {_quoted(command)})\n{body}            ;;\n"


# ---- zsh -----------------------------------------------------------------------------------------

_ZSH = """\
#compdef vhost9p
# Completions of vhost9p for zsh.

_vhost9p_commands() {
    local -a found=(
@COMMANDS@    )
    _describe command found
}

_vhost9p() {
    if (( CURRENT > 2 )) && [[ $words[2] != -* ]]; then
        local command=$words[2]
        shift words
        (( CURRENT-- ))
        case $command in
@CASES@        esac
        return
    fi
    _arguments \\
        '1: :_vhost9p_commands' \\
@OPTIONS@
}

if [[ $funcstack[1] == _vhost9p ]]; then
    _vhost9p "$@"
else
    compdef _vhost9p vhost9p
fi
"""
_ZSH_HOST: dict[Completion, str] = {
    "": " ",
    "directory": "_files -/",
    "file": "_files",
    "user": "_users",
    "group": "_groups",
}


def zsh() -> str:
    """Returns the completions for zsh: a function for a directory of fpath."""
    (_, daemon), *others = _parsers()
    listed = "".join(
        f"        {_quoted(f'{name}:{_zsh_text(commands.load(name).SUMMARY)}')}\n"
        for name in commands.NAMES
    )
    cases = "".join(
        f"            {name})\n                _arguments \\\n{_zsh_arguments(parser, 20)}\n"
        "                ;;\n"
        for name, parser in others
    )
    text = _ZSH.replace("@COMMANDS@", listed).replace("@CASES@", cases)
    return text.replace("@OPTIONS@", _zsh_arguments(daemon, 8))


def _zsh_arguments(parser: Parser, indent: int) -> str:
    specs = [spec for action in _actions(parser) for spec in _zsh_specs(action)]
    return " \\\n".join(" " * indent + _quoted(spec) for spec in specs)


def _zsh_text(text: str) -> str:
    return text.replace("\\", "\\\\").translate({ord(c): f"\\{c}" for c in "[]:"})


def _zsh_specs(action: argparse.Action) -> Iterator[str]:
    words = _words(action)
    how = f"({' '.join(words)})" if words else _ZSH_HOST[_completes(action)]
    value = f":{_zsh_text(str(action.metavar or action.dest))}:{how}"
    if not action.option_strings:
        yield ("*" if action.nargs in ("*", "+") else "") + value
    for name in action.option_strings:
        text = f"[{_zsh_text(_clause(action))}]"
        repeated = "*" if isinstance(action, argparse._AppendAction) else ""
        equals = "=" if name.startswith("--") else ""
        yield f"{name}{text}" if action.nargs == 0 else f"{repeated}{name}{equals}{text}{value}"


# ---- fish ----------------------------------------------------------------------------------------

_FISH = """\
# Completions of vhost9p for fish.

# Whether the command line is that of a command, or of the daemon, which has no name.
function __vhost9p_is --argument-names name
    set -l words (commandline -opc)
    set -l command ''
    if set -q words[2]; and not string match -q -- '-*' $words[2]
        set command $words[2]
    end
    test "$command" = "$name"
end

# Whether the next word can be the name of a command.
function __vhost9p_begins
    test (count (commandline -opc)) -eq 1
end

complete -c vhost9p -f
"""
_FISH_HOST: dict[Completion, str] = {
    "": "-x",
    "directory": "-x -a '(__fish_complete_directories)'",
    "file": "-r -F",
    "user": "-x -a '(__fish_complete_users)'",
    "group": "-x -a '(__fish_complete_groups)'",
}


def fish() -> str:
    """Returns the completions for fish."""
    lines = [
        f"complete -c vhost9p -n __vhost9p_begins -a {name} "
        f"-d {_fish_quoted(commands.load(name).SUMMARY)}"
        for name in commands.NAMES
    ]
    for name, parser in _parsers():
        condition = _fish_quoted(f'__vhost9p_is "{name}"')
        lines += [
            f"complete -c vhost9p -n {condition} {how}"
            for action in _actions(parser)
            if (how := _fish_action(action))
        ]
    return _FISH + "".join(f"{line}\n" for line in lines)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_action(action: argparse.Action) -> str:
    words = _words(action)
    how = f"-x -a {_fish_quoted(' '.join(words))}" if words else _FISH_HOST[_completes(action)]
    if not action.option_strings:
        return "" if how == "-x" else how.replace("-x ", "").replace("-r ", "")
    names = " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in action.option_strings
    )
    value = "" if action.nargs == 0 else f" {how}"
    return f"{names}{value} -d {_fish_quoted(_clause(action))}"
