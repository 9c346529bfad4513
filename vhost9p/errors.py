"""Errors of the person who starts the daemon. Each text is one whole line: what, where, why."""

from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FAILURE = 1
"""The process's exit code for a failure that nobody has to fix in the configuration."""
EXIT_USAGE = 2
"""The one for an error that stays until somebody fixes it."""


class UserError(Exception):
    """Errors in the command line, the configuration or the host; one line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Problems:
    """Collects errors, so that all are reported at once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, *texts: str) -> None:
        """Adds errors, each only once."""
        self.texts += [text for text in texts if text not in self.texts]

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Adds a UserError that the block raises, and continues after the block."""
        try:
            yield
        except UserError as error:
            self.add(*error.problems)

    def raise_all(self) -> None:
        """Raises UserError if there are errors."""
        if self.texts:
            raise UserError(*self.texts)
