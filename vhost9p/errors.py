"""Mistakes of the person who starts the daemon; each text is one whole line: what, where, why."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What is wrong with the command line, the configuration or the host; one line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Problems:
    """Mistakes that are collected, so that all are reported in one round."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, *texts: str) -> None:
        """Notes mistakes; one that is known already only once."""
        self.texts += [text for text in texts if text not in self.texts]

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Notes what the block raises, and goes on behind it."""
        try:
            yield
        except UserError as error:
            self.add(*error.problems)

    def raise_all(self) -> None:
        """Raises UserError where there is a mistake."""
        if self.texts:
            raise UserError(*self.texts)
