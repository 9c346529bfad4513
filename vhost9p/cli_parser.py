"""Parses the words of a command line into options and values.

argparse knows the options and prints the help. It stops at the first error, so it gets one option
at a time, with the words that follow it. All errors are collected, and further checks use the valid
options. The names of invalid options are kept, so that they are not reported as missing.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from vhost9p import config_values as v
from vhost9p import hints
from vhost9p.errors import Problems, UserError

HELP = "(vhost9p --help lists the options)"


def typed(parse: v.Parser, between: str = " ") -> Callable[[str], Any]:
    """Returns a parser of values for argparse's `type`. A message consists of the wrong value,
    `between`, and the text of the ValueError. A ValueError has one argument for each error."""

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            said = "\n".join(f"{text!r}{between}{each}" for each in error.args)
            raise argparse.ArgumentTypeError(said) from None

    return parse_argument


class Parser(argparse.ArgumentParser):
    """An argparse parser that parses one option at a time, and collects errors."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError. `message` begins with the option, and has a line for each error of its
        value."""
        option, _, first = message.partition(": ")
        first, *others = first.split("\n") if first else [""]
        texts = [f"{option}: {first}" if first else option]
        texts += [f"{option}: {each}" for each in others]
        raise UserError(*(f"{each} {HELP}" for each in texts))

    def key(self, word: str) -> str | None:
        """Returns the key of an option's value in the namespace; None for an unknown option."""
        action = self._option_string_actions.get(word.partition("=")[0])
        return action.dest if action else None

    def read(self, argv: list[str], problems: Problems) -> tuple[argparse.Namespace, set[str]]:
        """Returns the valid options, and the keys of the invalid ones. Adds errors to
        `problems`."""
        options, _ = self.parse_known_args([])
        wrong: set[str] = set()
        for words in _chunks(argv):
            try:
                options, rest = self.parse_known_args(words, options)
            except UserError as error:
                problems.add(*error.problems)
                wrong.add(self.key(words[0]) or "")
                continue
            if rest and rest[0] == words[0] and rest[0].startswith("-"):
                wrong.add(self._unknown(rest.pop(0), problems))
                rest = rest[1:]  # most likely its value
            for word in rest:
                problems.add(f"{word!r} belongs to no option {HELP}")
        return options, wrong - {""}

    def _unknown(self, word: str, problems: Problems) -> str:
        """Reports an unknown option. Returns the key of the option that was probably meant; empty
        if none is similar."""
        name = word.partition("=")[0]
        hint, meant = hints.for_option(name, self._option_string_actions)
        problems.add(f"unknown option {name}{hint} {HELP}")
        return (meant and self.key(meant)) or ""


def _chunks(argv: list[str]) -> Iterator[list[str]]:
    """Yields the words before the first option, then each option with the words that follow it. A
    negative number is no option."""
    chunk: list[str] = []
    for word in argv:
        if len(word) > 1 and word.startswith("-") and not re.match(r"-\d", word):
            if chunk:
                yield chunk
            chunk = []
        chunk.append(word)
    if chunk:
        yield chunk
