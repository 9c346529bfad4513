"""What `vhost9p check` has found out, one finding for each thing, as text and as JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The VM can be served, but not as somebody may expect."""
    ERROR = "error"
    """Serving would not begin, or no guest could be connected."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of `subject`. A warning or an error has a consequence and a remedy."""

    subject: str
    level: Level
    text: str
    consequence: str = ""
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    """Returns a finding that needs nothing."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, consequence: str, remedy: str) -> Finding:
    """Returns a warning."""
    return Finding(subject, Level.WARNING, text, consequence, remedy)


def error(subject: str, text: str, consequence: str, remedy: str) -> Finding:
    """Returns an error."""
    return Finding(subject, Level.ERROR, text, consequence, remedy)


def exit_code(findings: Iterable[Finding], *, strict: bool) -> int:
    """Returns the exit code of a check: 2 for an error, with `strict` 1 for a warning, else 0."""
    levels = {each.level for each in findings}
    if Level.ERROR in levels:
        return 2
    return 1 if strict and Level.WARNING in levels else 0


def as_plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Returns the findings for JSON."""
    return [asdict(each) for each in findings]


def as_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yields the lines of a report: of each subject in turn, then what they come to."""
    counts = dict.fromkeys(Level, 0)
    last = ""
    for each in findings:
        if each.subject != last:
            yield each.subject
            last = each.subject
        counts[each.level] += 1
        yield f"  {each.level:<8}{each.text}"
        if each.consequence:
            yield f"          so: {each.consequence}"
        if each.remedy:
            yield f"          do: {each.remedy}"
    yield ", ".join(_counted(counts[level], level) for level in (Level.ERROR, Level.WARNING))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
