"""The subcommands: `vhost9p COMMAND …`. Without a command's name the daemon serves (cli.py).

Each command is a module of this package, under its own name. It is loaded when it is asked for, and
all of them for `vhost9p --help`, so a module imports what takes long to load in `run` only.
"""

import argparse
import sys
from importlib import import_module
from typing import Protocol, cast

from vhost9p import output
from vhost9p.cli_parser import Parser
from vhost9p.config_values import guess
from vhost9p.errors import UserError

# In the order of the help. One line each, so that changes of several do not meet.
NAMES = (
    "check",
    "qemu",
    "reload",
    "replay",
    "run",
    "status",
    "top",
    "trace",
    "upgrade",
    "why",
)  # fmt: skip


class Command(Protocol):
    """What the module of a command has. The help, `vhost9p COMMAND --help`, consists of it, and
    fits on a screen: 24 lines of 80 characters."""

    SUMMARY: str
    """What the command does: a line without a full stop, in the imperative."""
    DETAILS: str
    """Sentences on what else there is to know, such as what the exit codes mean."""
    EXAMPLE: str
    """A command line that works, or several."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds options and arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Returns the exit code. Raises UserError for what the user has to change (its lines are
        printed, and the exit code is 2), and OSError."""


def load(name: str) -> Command:
    """Returns a command by its name."""
    return cast(Command, import_module(f"{__name__}.{name}"))


def parser(name: str) -> Parser:
    """Returns the parser of a command's options."""
    command = load(name)
    lines = command.EXAMPLE.splitlines()
    found = Parser(
        lambda: "\n".join(["example:", *(f"  {line}" for line in lines)]),
        prog=f"vhost9p {name}",
        description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}. {command.DETAILS}",
    )
    command.add_options(found)
    return found


def execute(name: str, words: list[str]) -> int:
    """Runs a command with the words that follow its name; returns the exit code. Raises UserError
    and OSError."""
    if name not in NAMES:
        hint = guess(name, NAMES) or "; options begin with --"
        raise UserError(
            f"unknown command {name!r}{hint} (vhost9p --help lists the commands and options)"
        )
    output.prepare_stdout()
    code = load(name).run(parser(name).parse(words))
    sys.stdout.flush()
    return code


def summaries() -> str:
    """Returns a line for each command, for the help of the daemon."""
    lines = (f"  {name:<10}{load(name).SUMMARY}" for name in NAMES)
    return "\n".join(["commands (vhost9p COMMAND --help says more):", *lines])
