"""The manual pages vhost9p(1) and vhost9p.yaml(5), in the macros of man(7).

manual.txt has the prose, and says where the generated parts stand. It consists of sections, each
after a line `@PAGE TITLE`, of blocks between empty lines:

    four spaces before each line     an example
    = TERM, and then lines           a term, and what it means
    {name}                           a generated part
    anything else                    a paragraph

A word between backquotes is bold.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from importlib.resources import files

from vhost9p import __version__, cli_options, commands
from vhost9p.cli_parser import Parser
from vhost9p.config_export import EXPORT
from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.config_shapes import Group, Items, Leaf, Shape
from vhost9p.reference import texts

TITLES = {
    "man1": ("VHOST9P", "1", "User Commands"),
    "man5": ("VHOST9P.YAML", "5", "File Formats"),
}


def escape(text: str) -> str:
    """Returns text for roff, all characters as they are."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)


def _line(text: str) -> str:
    """A line of text; it is no request even if it begins with a full stop."""
    return f"\\&{text}\n" if text.startswith((".", "\\(aq")) else f"{text}\n"


def _bold(*words: str) -> str:
    return ", ".join(f"\\fB{escape(word)}\\fR" for word in words)


def _prose(text: str) -> str:
    parts = re.split("`([^`]*)`", " ".join(text.split()))
    return _line("".join(_bold(part) if i % 2 else escape(part) for i, part in enumerate(parts)))


def _term(term: str, text: str) -> str:
    return f".TP\n{_line(term)}{_prose(text)}"


def _example(lines: list[str]) -> str:
    return f".PP\n.RS 4\n.nf\n{''.join(_line(escape(each)) for each in lines)}.fi\n.RE\n"


# ---- options and commands ------------------------------------------------------------------------


def _action(action: argparse.Action) -> str:
    metavar = "" if action.nargs == 0 else str(action.metavar or action.dest)
    term = _bold(*action.option_strings) if action.option_strings else ""
    shown = f"\\fI{escape(metavar)}\\fR" if metavar else ""
    text = str(action.help).replace("%%", "%")
    return _term(" ".join(filter(None, (term, shown))), texts.sentence(text))


def _options() -> Iterator[str]:
    """The options of the daemon, under the titles of the help."""
    for title, actions in cli_options.build_parser().sections():
        if title != "options":
            yield f".SS {escape(title)}\n"
        yield from map(_action, actions)


def _commands() -> Iterator[str]:
    for name in commands.NAMES:
        command, parser = commands.load(name), commands.parser(name)
        yield f".SS {escape(_usage(parser))}\n"
        yield _prose(f"{texts.sentence(command.SUMMARY)} {command.DETAILS}")
        for _, actions in parser.sections():
            yield from map(_action, actions)
        yield _example(command.EXAMPLE.splitlines())


def _usage(parser: Parser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


# ---- keys ----------------------------------------------------------------------------------------


def _keys(group: Group) -> Iterator[str]:
    for key, shape in group.keys.items():
        yield from _key(key, shape)


def _export_keys() -> Iterator[str]:
    """The keys of an export: its own, and the names of those that a device has, too."""
    own = [key for key in EXPORT.keys if key not in DEVICE.keys]
    for key in own:
        yield from _key(key, EXPORT.keys[key])
    names = ", ".join(f"`{key}`" for key in EXPORT.keys if key not in own)
    yield f".PP\n{_prose(f'It has these of the keys of a device, too: {names}. {EXPORT.more}')}"


def _key(key: str, shape: Shape) -> Iterator[str]:
    yield _term(_bold(key), texts.about(shape))
    if isinstance(shape, Leaf):
        return
    inner = shape.item if isinstance(shape, Items) else shape
    if inner is not EXPORT and isinstance(inner, Group):
        yield ".RS\n"
        if isinstance(shape, Items) and inner.more:
            yield _prose(inner.more)
        yield from _keys(inner)
        yield ".RE\n"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "options": _options,
    "commands": _commands,
    "file keys": lambda: _keys(Group("a file", TOP_KEYS)),
    "device keys": lambda: _keys(DEVICE),
    "export keys": _export_keys,
}


# ---- pages ---------------------------------------------------------------------------------------


def _block(block: str) -> str:
    lines = block.splitlines()
    if block.startswith("    "):
        return _example([line.removeprefix("    ") for line in lines])
    if block.startswith("= "):
        return _term(_prose(lines[0].removeprefix("= ")).rstrip("\n"), " ".join(lines[1:]))
    if block.startswith("{"):
        return "".join(PARTS[block.strip("{}")]())
    return f".PP\n{_prose(block)}"


def _section(title: str, text: str) -> str:
    blocks = [_block(block) for block in re.split("\n\n+", text.strip("\n"))]
    # A paragraph after a heading is one without a request.
    return f".SH {escape(title)}\n" + "".join(blocks).removeprefix(".PP\n")


def page(name: str) -> str:
    """Returns a manual page: man1 or man5."""
    date, *sections = re.split("^@", manual(), flags=re.MULTILINE)
    title, number, kind = TITLES[name]
    found = [f'.TH {escape(title)} {number} "{date.strip()}" "vhost9p {__version__}" "{kind}"\n']
    for section in sections:
        head, _, text = section.partition("\n")
        whose, _, title = head.partition(" ")
        if whose == name:
            found.append(_section(title, text))
    return "".join(found)


def manual() -> str:
    """Returns the prose."""
    return files(__package__).joinpath("manual.txt").read_text(encoding="utf-8")
