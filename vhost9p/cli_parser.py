"""Parses the words of a command line into options and values.

argparse knows the options and prints the help. It stops at the first error, so it gets one option
at a time, with the words that follow it. All errors are collected, and further checks use the valid
options. The names of invalid options are kept, so that they are not reported as missing.
"""

import argparse
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from vhost9p import hints
from vhost9p.errors import Problems, UserError


@dataclass(frozen=True, slots=True)
class Typed:
    """A parser of values, as argparse's `type` wants it."""

    parse: Callable[[str], Any]
    between: str

    def __call__(self, text: str) -> Any:
        """Returns the value. Raises ArgumentTypeError."""
        try:
            return self.parse(text)
        except ValueError as error:
            said = "\n".join(f"{text!r}{self.between}{each}" for each in error.args)
            raise argparse.ArgumentTypeError(said) from None


def typed(parse: Callable[[str], Any], between: str = " ") -> Typed:
    """Returns a parser of values for argparse's `type`. A message consists of the wrong value,
    `between`, and the text of the ValueError. A ValueError has one argument for each error."""
    return Typed(parse, between)


class Once(argparse.Action):
    """Stores a value, and refuses a second one: who gives two wants both, and would get one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Raises ArgumentError."""
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(
                self,
                "is given twice; several directories take --export each, several devices a "
                "--config, several VMs a --config-dir",
            )
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors. `end` returns what the help ends with."""

    def __init__(self, end: Callable[[], str] = str, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self._end = end
        self._hint = f"({self.prog} --help lists the options)"

    def format_help(self) -> str:
        """Returns the help."""
        end = self._end()
        return super().format_help() + (f"\n{end}\n" if end else "")

    def error(self, message: str) -> NoReturn:
        """Raises UserError. `message` begins with the option, and has a line for each error of its
        value."""
        option, _, first = message.partition(": ")
        first, *others = first.split("\n") if first else [""]
        texts = [f"{option}: {first}" if first else option]
        texts += [f"{option}: {each}" for each in others]
        raise UserError(*(f"{each} {self._hint}" for each in texts))

    def key(self, word: str) -> str | None:
        """Returns the key of an option's value in the namespace; None for an unknown option."""
        action = self._option_string_actions.get(word.partition("=")[0])
        return action.dest if action else None

    def sections(self) -> Iterator[tuple[str, list[argparse.Action]]]:
        """Yields the titles of the help, with the options and arguments under each."""
        for group in self._action_groups:
            if group._group_actions:
                yield str(group.title), group._group_actions

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Returns the options and arguments. Raises UserError with one line, at the first error."""
        problems = Problems()
        more = "" if "--" in words else self._missing_dashes()
        for word in itertools.takewhile(lambda word: word != "--", words):
            if word.startswith("--") and not self.key(word):
                self._unknown(word, problems, more)  # before arguments that are missing
                problems.raise_all()
        options, rest = self.parse_known_args(words)
        for word in rest[:1]:
            if word.startswith("-"):
                self._unknown(word, problems, more)
            else:
                problems.add(f"{word!r} is one argument too many {self._hint}")
        problems.raise_all()
        return options

    def read(self, argv: list[str], problems: Problems) -> tuple[argparse.Namespace, set[str]]:
        """Returns the valid options, and the keys of the invalid ones. Parses one option at a
        time, and adds all errors to `problems`."""
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
                problems.add(f"{word!r} belongs to no option {self._hint}")
        return options, wrong - {""}

    def _missing_dashes(self) -> str:
        """What to say of an option where words belong behind --, which is not there."""
        behind = (self.usage or "").partition("-- ")[2].rstrip("]")
        return behind and f"; put -- before {behind}"

    def _unknown(self, word: str, problems: Problems, more: str = "") -> str:
        """Reports an unknown option, and what `more` there is to say. Returns the key of the option
        that was probably meant; empty if none is similar."""
        name = word.partition("=")[0]
        hint, meant = hints.for_option(name, self._option_string_actions)
        problems.add(f"unknown option {name}{hint}{more} {self._hint}")
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
