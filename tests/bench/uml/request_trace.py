"""The requests that a guest's kernel sends, from its own tracepoints, inside the guest:
`python3 request_trace.py start` and `python3 request_trace.py stop`.

Belongs here: which events there are, and what is counted. `stop` prints a JSON object: `counts` of
requests by type, `errors`, of error replies by type and number, `waits`, the µs from request to
reply by type, and `busy`, the µs in which at least one request was on its way; all of them between
the marks `begin` and `end`. FUSE's FORGET is not among them: it has no reply, and no tracepoint.
This runs under whatever Python the guest has, so it imports nothing of ours.
"""

import errno
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
EVENTS = ("9p/9p_client_req", "9p/9p_client_res", "fuse/fuse_request_send", "fuse/fuse_request_end")
BUFFER_KIB = 96 << 10

LINE = re.compile(
    r" (?P<at>[0-9]+\.[0-9]+): (?P<event>\w+): "
    r"(?:client \d+ (?:request|response) P9_(?P<ninep>\w+)"
    r" tag +(?P<tag>\d+)(?: err (?P<err>-?\d+))?"
    r"|connection \d+ req (?P<unique>\d+)"
    r"(?: opcode \d+ \(FUSE_(?P<fuse>\w+)\)| len \d+ error (?P<error>-?\d+))?)"
)
MARK = re.compile(r": tracing_mark_write: (begin|end)$")
STARTS = ("9p_client_req", "fuse_request_send")


def write(name: str, text: str) -> None:
    (TRACING / name).write_text(text)


def start() -> None:
    write("tracing_on", "0")
    write("trace_clock", "mono")
    write("buffer_size_kb", str(BUFFER_KIB))
    for event in EVENTS:
        path = f"events/{event}/enable"
        if (TRACING / path).exists():
            write(path, "1")
    write("trace", "")
    write("tracing_on", "1")


def name(line: "re.Match[str]") -> str:
    """As the protocols' documents write it."""
    if line["ninep"]:
        return "T" + line["ninep"][1:].lower()
    return line["fuse"] or ""


def between_marks(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a trace that belong to what is measured."""
    inside = False
    for text in lines:
        if "LOST" in text:
            raise SystemExit(f"the trace is not whole: {text.strip()}")
        if mark := MARK.search(text.rstrip()):
            inside = mark[1] == "begin"
        elif inside:
            yield text


def summary(lines: Iterable[str]) -> dict[str, object]:
    """What a trace says."""
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    waits: Counter[str] = Counter()
    pending: dict[str, tuple[float, str]] = {}
    busy, busy_from = 0.0, 0.0
    for text in between_marks(lines):
        line = LINE.search(text)
        if not line:
            continue
        at, key = float(line["at"]) * 1e6, line["tag"] or line["unique"]
        if line["event"] in STARTS:
            if not pending:
                busy_from = at
            pending[key] = at, name(line)
        elif key in pending:
            began, what = pending.pop(key)
            counts[what] += 1
            number = -int(line["err"] or line["error"] or 0)
            if number:
                errors[f"{what} {errno.errorcode.get(number, number)}"] += 1
            waits[what] += round(at - began)
            if not pending:
                busy += at - busy_from
    return {"counts": counts, "errors": errors, "waits": waits, "busy": round(busy)}


def stop() -> None:
    write("tracing_on", "0")
    with (TRACING / "trace").open() as lines:
        print(json.dumps(summary(lines)))


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
