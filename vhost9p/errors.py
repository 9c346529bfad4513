"""Mistakes of the person who starts the daemon; each text is one whole line: what, where, why."""


class UserError(Exception):
    """What is wrong with the command line, the configuration or the host; one line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
