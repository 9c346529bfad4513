"""Lays rates out in lines of text, as many as there is room for, and as JSON."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vhost9p.escapes import escape, name_bytes
from vhost9p.log_record import one_line
from vhost9p.top.sample import DeviceRate, Latencies, TypeRate
from vhost9p.top.watch import Seen

SORTS: dict[str, Callable[[DeviceRate], Any]] = {
    "requests": lambda each: -each.requests,
    "bytes": lambda each: -(each.read + each.written),
    "latency": lambda each: -(each.latencies.quantile(0.99) or 0),
    "errors": lambda each: -each.failed,
    "queue": lambda each: -each.queue,
    "name": lambda each: (each.vm, each.tag),
}
"""By what devices are sorted."""
TITLES = ("VM", "TAG", "STATE", "REQ/s", "READ", "WRITE", "MED", "99%", "ERR", "QLEN", "FIDS",
          "DIED")  # fmt: skip
"""Bytes and errors are those of a second, too. All of it fits into 80 characters."""
HEADINGS = ("VM ", "REQUEST ", "REQ ", "TOOK ")
"""How lines with titles begin."""
NAME_MAX, TAG_MAX = 12, 8
"""Characters of a VM's name and a tag in a table."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is to show."""

    devices: Sequence[DeviceRate]
    seen: Seen
    problems: Sequence[str]
    seconds: float
    """Between the two samples."""


def lines(shown: Shown, sort: str, width: int, height: int) -> list[str]:
    """Returns lines of so many characters, and at most so many; 0: as many as there are."""
    devices = sorted(shown.devices, key=SORTS[sort])
    room = height or 10**6
    found = [f"! {each}" for each in [*shown.problems, *shown.seen.problems][:2]]
    rows = max(room // 3 - 1, 2)
    found += _table(TITLES, [_device(each) for each in devices[:rows]], left=3)
    if len(devices) > rows:
        found.append(f"({len(devices) - rows} more devices)")
    rest = room - len(found)
    requests, errors = list(_types(devices)), list(_errors(devices))
    found += _beside(
        [["", *_table(("REQUEST", "/s", "MED", "99%"), requests, left=1)],
         ["", *_table(("ERROR", "/s"), errors, left=1)]],
        max(rest // 3, 3),
    )  # fmt: skip
    rest = room - len(found)
    found += _hot(shown.seen, max(rest // 2, 3))
    found += _slowest(shown.seen, max(room - len(found), 3))
    return [cut(each, width) for each in found[:room]]


def _device(each: DeviceRate) -> tuple[str, ...]:
    return (
        *(_end_of(each.vm), _end_of(each.tag, TAG_MAX), each.state),
        *(number(each.requests), size(each.read), size(each.written)),
        *_latencies(each.latencies),
        *(number(each.failed), str(each.queue), number(each.fids), str(each.restarts)),
    )


def _latencies(each: Latencies) -> tuple[str, str]:
    return duration(each.quantile(0.5)), duration(each.quantile(0.99))


def _types(devices: Sequence[DeviceRate]) -> Iterator[tuple[str, ...]]:
    for each in sorted(merged(devices), key=lambda each: -each.requests):
        yield (each.name, number(each.requests), *_latencies(each.latencies))


def merged(devices: Sequence[DeviceRate]) -> list[TypeRate]:
    """Returns the rates of all devices together, by type."""
    found: dict[str, TypeRate] = {}
    for each in (one for device in devices for one in device.types.values()):
        sum_ = found.setdefault(each.name, TypeRate(each.name))
        sum_.requests += each.requests
        sum_.latencies.add(each.latencies.buckets)
    return list(found.values())


def _errors(devices: Sequence[DeviceRate]) -> Iterator[tuple[str, str]]:
    found: dict[str, float] = {}
    for device in devices:
        for name, rate in device.errors.items():
            found[name] = found.get(name, 0) + rate
    for name, rate in sorted(found.items(), key=lambda each: -each[1]):
        yield name, number(rate)


def _hot(seen: Seen, room: int) -> list[str]:
    part = f" of {seen.requests + seen.omitted}" if seen.omitted else ""
    title = f"HOT FILES (of {seen.requests}{part} requests)"
    rows = [
        (
            f"{count}",
            size(seen.bytes[key]),
            f"{_end_of(key[0])}:{_end_of(key[1], TAG_MAX)} {escape(key[2])}",
        )
        for key, count in seen.files.most_common(max(room - 2, 1))
    ]
    return ["", *_table(("REQ", "BYTES", title), rows, left=0, last=True)][:room] if rows else []


def _slowest(seen: Seen, room: int) -> list[str]:
    rows = [
        (duration(each.seconds), each.request, each.error,
         f"{_end_of(each.vm)}:{_end_of(each.tag, TAG_MAX)} {escape(each.path)}")
        for each in seen.slowest[: max(room - 2, 1)]
    ]  # fmt: skip
    titles = "TOOK", "SLOWEST", "", "FILE"
    return ["", *_table(titles, rows, left=0, last=True)][:room] if rows else []


# ---- text ----------------------------------------------------------------------------------------


def _table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, last: bool = False
) -> list[str]:
    """The first `left` columns, and with `last` the last one, begin at the left."""
    cells = [[one_line(each) for each in row] for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        " ".join(
            cell.ljust(width) if i < left or (last and i >= 1 and not cell[:1].isdigit())
            else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]  # fmt: skip


def _beside(blocks: Sequence[Sequence[str]], rows: int) -> list[str]:
    """Blocks of lines, side by side."""
    height = min(max(map(len, blocks)), rows)
    widths = [max(map(len, block)) for block in blocks]
    return [
        "    ".join(
            (block[i] if i < len(block) else "").ljust(width)
            for block, width in zip(blocks, widths, strict=True)
        ).rstrip()
        for i in range(height)
    ]


def _end_of(name: str, most: int = NAME_MAX) -> str:
    """A name, or its end: a path's says most."""
    return name if len(name) <= most else "…" + name[-most + 1 :]


def cut(line: str, width: int) -> str:
    """Returns a line of at most so many characters; 0: as it is."""
    line = one_line(line)
    return line if not width or len(line) <= width else line[: width - 1] + "…"


def number(value: float) -> str:
    """Returns a number in four characters or so."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 10000 else f"{value / 1000:.0f}k"


def size(value: float) -> str:
    """Returns a number of bytes in five characters or so."""
    for unit in ("", "K", "M", "G", "T"):
        if value < 1000:
            return f"{value:.0f}{unit}" if value >= 10 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.0f}P"


def duration(seconds: float | None) -> str:
    """Returns a time in five characters or so; empty if there is none."""
    if seconds is None:
        return ""
    if math.isinf(seconds):
        return "long"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}us"
    return f"{seconds * 1e3:.0f}ms" if seconds < 10 else f"{seconds:.0f}s"


# ---- JSON ----------------------------------------------------------------------------------------


def as_plain(shown: Shown, sort: str) -> dict[str, Any]:
    """Returns all that there is, for JSON."""
    seen = shown.seen
    return {
        "seconds": round(shown.seconds, 3),
        "devices": [_plain(each) for each in sorted(shown.devices, key=SORTS[sort])],
        "watched": {"requests": seen.requests, "omitted": seen.omitted},
        "files": [
            {"vm": vm, "tag": tag, "path": name_bytes(path), "requests": count,
             "bytes": seen.bytes[vm, tag, path]}
            for (vm, tag, path), count in seen.files.most_common(100)
        ],
        "slowest": [{**each._asdict(), "path": name_bytes(each.path)} for each in seen.slowest],
        "problems": [*shown.problems, *seen.problems],
    }  # fmt: skip


def _plain(each: DeviceRate) -> dict[str, Any]:
    return {
        "vm": each.vm,
        "tag": each.tag,
        "state": each.state,
        "requests": each.requests,
        "read": each.read,
        "written": each.written,
        **_plain_latencies(each.latencies),
        "errors": each.errors,
        "queue": each.queue,
        "fids": each.fids,
        "restarts": each.restarts,
        "types": {
            name: {"requests": one.requests, **_plain_latencies(one.latencies)}
            for name, one in each.types.items()
        },
    }


def _plain_latencies(each: Latencies) -> dict[str, float | None]:
    """JSON has no infinity: beyond the last bound it is null, too."""
    found = {"median": each.quantile(0.5), "p99": each.quantile(0.99)}
    return {name: value if value != math.inf else None for name, value in found.items()}
