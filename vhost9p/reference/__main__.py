"""`python -m vhost9p.reference OUTPUT` prints one form of the reference, for whoever makes a
package."""

import sys
from collections.abc import Callable

from vhost9p.cli_parser import Parser
from vhost9p.errors import EXIT_FAILURE, EXIT_USAGE, UserError
from vhost9p.output import say
from vhost9p.reference import completion, descriptor, man, schema, table

OUTPUTS: dict[str, Callable[[], str]] = {
    "man1": lambda: man.page("man1"),
    "man5": lambda: man.page("man5"),
    "schema": schema.text,
    "bash": completion.bash,
    "zsh": completion.zsh,
    "fish": completion.fish,
    "table": table.text,
    "descriptor": descriptor.text,
}


def main(words: list[str]) -> int:
    """Returns the exit code."""
    parser = Parser(
        prog="python -m vhost9p.reference",
        description="Prints a manual page, the JSON Schema of the YAML file, the completions of a "
        "shell, the tables of the documentation, or the descriptor by which management software "
        "finds the backend.",
    )
    parser.add_argument("output", choices=OUTPUTS, help="what to print")
    try:
        text = OUTPUTS[parser.parse(words).output]()
        # In any locale: what reads it takes UTF-8.
        sys.stdout.buffer.write(text.encode())
        sys.stdout.flush()
    except UserError as error:
        say(str(error))
        return EXIT_USAGE
    except OSError as error:
        say(f"standard output: {error.strerror}")
        return EXIT_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
