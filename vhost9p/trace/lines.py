"""Events as text: a line for a person, an object for a program."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

from vhost9p.escapes import name_bytes, quoted, to_json
from vhost9p.log_record import one_line
from vhost9p.p9.codec import Qid
from vhost9p.trace.events import ENTRIES, Event
from vhost9p.trace.notation import Message

_ACCESS = ("O_RDONLY", "O_WRONLY", "O_RDWR", "3")
_FLAGS = {
    0o100: "O_CREAT", 0o200: "O_EXCL", 0o400: "O_NOCTTY", 0o1000: "O_TRUNC", 0o2000: "O_APPEND",
    0o4000: "O_NONBLOCK", 0o10000: "O_DSYNC", 0o20000: "FASYNC", 0o40000: "O_DIRECT",
    0o100000: "O_LARGEFILE", 0o200000: "O_DIRECTORY", 0o400000: "O_NOFOLLOW",
    0o1000000: "O_NOATIME", 0o2000000: "O_CLOEXEC", 0o4000000: "O_SYNC",
}  # fmt: skip
"""Of Tlopen and Tlcreate (Linux: include/net/9p/9p.h)."""
_MODES = ("OREAD", "OWRITE", "ORDWR", "OEXEC")
_MORE = {0x10: "OTRUNC", 0x20: "OCEXEC", 0x40: "ORCLOSE", 0x80: "OAPPEND", 0x1000: "OEXCL"}
"""Of Topen and Tcreate."""
_KINDS = ((0x80, "directory"), (0x40, "append"), (0x20, "exclusive"), (0x02, "symlink"))
_LOCKS = ("F_RDLCK", "F_WRLCK", "F_UNLCK")
_STATUS = ("success", "blocked", "error", "grace")
_OCTAL = frozenset({"mode", "perm"})
_HEX = frozenset({"request_mask", "valid", "fsid", "rdev"})
_ATTRIBUTES = {
    0x1: "mode", 0x2: "uid", 0x4: "gid", 0x8: "size", 0x10: "atime", 0x20: "mtime", 0x40: "ctime",
    0x80: "atime_set", 0x100: "mtime_set",
}  # fmt: skip
"""What Tsetattr changes."""
_IN_THE_PATH = frozenset({"fid", "names", "newname", "aname"})


def line(event: Event, *, several: bool) -> str:
    """Returns the line of an event; with its device, if there are `several`."""
    record, request = event.record, event.request
    began = record.began or record.ended
    clock = time.strftime("%H:%M:%S", time.localtime(began // 10**9))
    words = [f"{clock}.{began // 1000 % 10**6:06}", _latency(event).rjust(9)]
    if several:
        words.append(event.source.tag)
    words += [request.name, f"tag {request.tag}"]
    if event.fid is not None:
        words.append(f"fid {event.fid}")
    if event.paths:
        words.append(" to ".join(map(quoted, event.paths)))
    words += _details(request)
    return one_line(" ".join([*words, "=", _result(event)]))


def _latency(event: Event) -> str:
    """The time from the request to its reply."""
    if not event.record.began:
        return "?"
    return f"{event.record.took / 1000:.0f} us"


def _details(request: Message) -> Iterator[str]:
    """What of a request is not in its path."""
    for name, value in request.fields.items():
        in_path = name in _IN_THE_PATH or (name == "name" and request.name in ENTRIES)
        if in_path or (name in {"dfid", "name"} and request.name in {"Tlink", "Trename"}):
            continue
        if name == "data":
            yield from _data(value)
            continue
        yield f"{name} {_value(request, name, value)}"


def _data(data: bytes) -> Iterator[str]:
    if data:
        yield repr(data)[1:]


def _result(event: Event) -> str:
    reply = event.reply
    if event.error:
        return event.error
    if not event.record.reply:
        return "a reply whose memory is gone"
    parts: list[str] = []
    for name, value in reply.fields.items():
        if name == "data":
            parts += _data(value)
        elif name == "qids":
            asked = len(event.request.fields.get("names", ()))
            kinds = ", ".join(map(_qid, value))
            parts.append(f"{len(value)} of {asked} names: {kinds}" if asked else "the same file")
        else:
            parts.append(f"{name} {_value(reply, name, value)}")
    return " ".join(parts) or "done"


def _value(message: Message, name: str, value: Any) -> str:
    if isinstance(value, Qid):
        return _qid(value)
    if isinstance(value, bytes):
        return quoted(value)
    if isinstance(value, dict):
        return " ".join(_set_in(message, value)) or "no change"
    if name == "mode" and message.name in {"Topen", "Tcreate"}:
        return _open_mode(value)
    if name == "flags" and message.name in {"Tlopen", "Tlcreate"}:
        return _flags(value)
    if name == "valid" and message.name == "Tsetattr":
        return "|".join(text for bit, text in _ATTRIBUTES.items() if value & bit) or "0"
    if name == "type" and message.name.endswith("lock"):
        return _LOCKS[value] if value < len(_LOCKS) else str(value)
    if name == "status":
        return _STATUS[value] if value < len(_STATUS) else str(value)
    if name in _OCTAL:
        return f"{value:04o}"
    if name in _HEX:
        return f"{value:#x}"
    if value in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
        return "-1"
    return str(value)


def _set_in(message: Message, attributes: dict[str, Any]) -> Iterator[str]:
    """What a stat structure says: all ones, or an empty string, are nothing, and so is what says
    the same for another system."""
    for name, value in attributes.items():
        ones = value in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) or name in {"size", "type", "dev"}
        if value != b"" and not ones and not (isinstance(value, Qid) and value.type == 0xFF):
            yield f"{name} {_value(message, name, value)}"


def _open_mode(value: int) -> str:
    return "|".join([_MODES[value & 3], *(text for bit, text in _MORE.items() if value & bit)])


def _flags(value: int) -> str:
    names = [_ACCESS[value & os.O_ACCMODE]]
    names += [text for bit, text in _FLAGS.items() if value & bit]
    return "|".join(names)


def _qid(qid: Qid) -> str:
    kind = next((text for bit, text in _KINDS if qid.type & bit), "file")
    return f"{kind} {qid.path:#x}"


# ---- for programs --------------------------------------------------------------------------------


def as_json(event: Event) -> str:
    """Returns a JSON object on one line. Times are in seconds since 1970, and in seconds."""
    record = event.record
    found = {
        "device": event.source.tag,
        "number": record.number,
        "began": record.began / 10**9 if record.began else None,
        "latency": record.took / 10**9 if record.began else None,
        "type": event.request.name,
        "tag": event.request.tag,
        "fid": event.fid,
        "uid": record.uid,
        "paths": [*map(name_bytes, event.paths)],
        "errno": event.error or None,
        "request": _plain(event.request),
        "reply": _plain(event.reply),
        "request_size": record.request_size,
        "reply_size": record.reply_size,
    }
    return to_json(found)


def lost_as_json(tag: str, count: int) -> str:
    """Returns the object that stands for requests of a device that were not recorded."""
    return json.dumps({"device": tag, "lost": count})


def _plain(message: Message) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in message.fields.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Qid):
        return value._asdict()
    if isinstance(value, dict):
        return {name: _plain_value(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain_value(each) for each in value]
    return value
