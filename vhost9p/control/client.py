"""The commands' end of the control socket.

Whoever asks may be root, and the daemon anybody's. So the server has to be the process that has
named the place, or, where a person has named it, root's or the person's own, before anything is
sent to it.
"""

import argparse
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

from vhost9p import upgrade_status
from vhost9p.control import DESCRIPTORS_MAX, Object, shapes
from vhost9p.control.server import peer
from vhost9p.log_record import one_line

PATIENCE_S = 10.0
"""Seconds in which a daemon has to begin to answer."""
ANSWER_S = 60.0
"""Seconds in which it has to answer completely: one that drips would hold up who asks for ever."""
PAUSE_S = 0.05
OBJECT_MAX = 16 * 1024 * 1024
"""Bytes of a line of the answer."""


class ControlError(Exception):
    """A daemon does not answer; the text says which, and why, in one line."""


class Place(NamedTuple):
    """Where a daemon can be asked."""

    path: str
    pid: int = 0
    """The daemon that has said so; 0: a person did."""

    def __str__(self) -> str:
        return f"daemon {self.pid}" if self.pid else self.path


def ask(place: Place, request: Object, *, is_stream: bool = False) -> Iterator[Object]:
    """Asks a daemon, and yields the objects of its answer until that is complete. Descriptors that
    come with one are the caller's, by their numbers in "descriptors". Of a stream, which may be
    silent for long, only the connection has to come about in time. Raises ControlError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            _connect(sock, place)
            _check_server(sock, place)
            _send(sock, request)
            if is_stream:
                sock.settimeout(None)
            yield from _answer(sock, place, request)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise ControlError(f"{place}: no daemon listens there") from None
        except TimeoutError:
            raise ControlError(f"{place} has said nothing for {PATIENCE_S:g} s") from None
        except PermissionError:
            text = "only root and the daemon's user may ask"
            raise ControlError(f"{place} cannot be asked: {text}") from None
        except OSError as error:
            raise ControlError(f"{place} cannot be asked: {error.strerror or error}") from None


def _connect(sock: socket.socket, place: Place) -> None:
    """Connects, even if many others are about to. Raises OSError."""
    deadline = time.monotonic() + PATIENCE_S
    with ExitStack() as opened:
        path = place.path
        if place.pid:
            # As the daemon sees files, and by a name that is short enough for sun_path (unix(7)).
            fd = os.open(f"/proc/{place.pid}/root{path}", os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            path = f"/proc/self/fd/{fd}"
        while True:
            try:
                sock.connect(path)
                return
            except BlockingIOError:  # no room in the backlog: only a socket that blocks waits
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(PAUSE_S)


def ask_on(sock: socket.socket, place: Place, request: Object) -> Iterator[Object]:
    """The same on a connection that there is, and that stays. Raises ControlError."""
    try:
        _send(sock, request)
        yield from _answer(sock, place, request)
    except OSError as error:
        raise ControlError(f"{place} cannot be asked: {error.strerror or error}") from None


def _send(sock: socket.socket, request: Object) -> None:
    """Raises OSError."""
    with suppress(BrokenPipeError):  # it has been refused, which the answer says
        sock.sendall(json.dumps(request).encode() + b"\n")


def _check_server(sock: socket.socket, place: Place) -> None:
    """Raises ControlError."""
    pid, uid, _ = peer(sock)
    if place.pid and pid != place.pid:
        raise ControlError(f"{place} cannot be asked: another process listens at {place.path}")
    if not place.pid and os.geteuid() != 0 and uid not in (0, os.geteuid()):
        raise ControlError(f"{place} cannot be asked: another user's process listens there")


def _answer(sock: socket.socket, place: Place, request: Object) -> Iterator[Object]:
    """Raises ControlError, OSError."""
    fds: list[int] = []
    try:
        for line in _lines(sock, place, fds):
            found = _object(line, place)
            if found.get("done"):
                return
            if "error" in found:
                raise ControlError(_refusal(found, place, request))
            count = found.get("descriptors")
            if count is not None and not (isinstance(count, int) and 0 < count <= len(fds)):
                raise ControlError(f"{place} has not sent the descriptors that it speaks of")
            if not shapes.fits(request["command"], found):
                raise ControlError(
                    f"{place} answers {request['command']!r} in a form that is not known here: it "
                    "is of another version than this command, or no daemon"
                )
            if count is not None:
                found["descriptors"], fds[:count] = fds[:count], []
            yield found
    finally:
        for fd in fds:
            os.close(fd)


def _object(line: bytes, place: Place) -> Object:
    with suppress(ValueError, RecursionError):
        if isinstance(found := json.loads(line), dict):
            return found
    raise ControlError(f"{place} answers with something else than a JSON object: {line[:40]!r}")


def _refusal(found: Object, place: Place, request: Object) -> str:
    version = one_line(str(found.get("version", ""))[:40])
    if "commands" in found:
        name = request["command"]
        return f"{place} has version {version}, which does not know {name!r}: upgrade it first"
    return f"{place}: {one_line(str(found['error'])[:2000])}"


def _lines(sock: socket.socket, place: Place, fds: list[int]) -> Iterator[bytes]:
    """Yields lines. Descriptors, which come no later than the end of their line, are added to
    `fds`. Raises ControlError, OSError."""
    rest = bytearray()
    end = math.inf if sock.gettimeout() is None else time.monotonic() + ANSWER_S
    while True:
        if time.monotonic() > end:
            raise ControlError(f"{place} has not answered completely in {ANSWER_S:g} s")
        data, more, _, _ = socket.recv_fds(sock, 1 << 16, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        fds += more
        if not data:
            raise ControlError(f"{place} has ended, or is being upgraded: try again")
        rest += data
        *lines, rest = rest.split(b"\n") if b"\n" in data else [rest]
        if len(rest) > OBJECT_MAX or len(fds) > 2 * DESCRIPTORS_MAX:
            raise ControlError(f"{place} answers with more than an object may have")
        yield from map(bytes, lines)


# ---- which daemon --------------------------------------------------------------------------------


def add_place_option(parser: argparse.ArgumentParser, default: str = "all that run") -> None:
    """Adds the option that names a daemon."""
    parser.add_argument(
        "--control-socket",
        metavar="AT",
        help=f"ask the daemon at this socket (default: {default})",
    )


def places(control_socket: str | None) -> list[Place]:
    """Returns which daemons to ask: the one that is named, or all. Raises ControlError: there is
    none."""
    found = [Place(control_socket)] if control_socket is not None else daemons()
    if not found:
        raise ControlError("no daemon runs that you may ask (root may ask those of everybody)")
    return found


def daemons() -> list[Place]:
    """Returns the daemons that this user may ask: root those of everybody, also those of services
    and containers, which have mounts of their own."""
    found = []
    for pid in upgrade_status.find_all(with_same_files=False):
        with suppress(OSError):
            if path := upgrade_status.control_of(pid):
                found.append(Place(path, pid))
    return found


class Target(NamedTuple):
    """A VM, and the daemon that has it."""

    place: Place
    vm: str


def find_vm(which: str, places: list[Place]) -> Target:
    """Returns the VM that is named: by its name, its configuration file, or a socket. A daemon that
    does not answer, perhaps since it is about to end, matters only if no other has the VM. Raises
    ControlError: there is none, or there are several."""
    path = os.path.realpath(which)
    listed, silent = _list(places)
    found = []
    for target, each in listed:
        names = each["config"], *each["sockets"]
        if which == target.vm or path in {os.path.realpath(name) for name in names if name}:
            found.append(target)
    if len(found) > 1:
        raise ControlError(f"{which!r} stands for several VMs: name one by a socket of it")
    if not found:
        if silent and not listed:
            raise silent
        text = f"no daemon has a VM {which!r}; there are: {_names(listed) or 'none'}"
        raise ControlError(f"{text}; {silent}" if silent else text)
    return found[0]


def only_vm(places: list[Place]) -> Target:
    """Returns the only VM that there is. Raises ControlError."""
    listed, silent = _list(places)
    if not listed:
        raise silent or ControlError("no daemon that you may ask has a VM")
    if len(listed) > 1:
        raise ControlError(f"name a VM: {_names(listed)}")
    return listed[0][0]


_Listed = list[tuple[Target, Object]]


def _list(places: list[Place]) -> tuple[_Listed, ControlError | None]:
    """Returns the VMs that there are, with their names, and why a daemon does not answer. That one
    ends, is replaced just now, or is none, is no reason not to find a VM of another one."""
    listed, silent = _Listed(), None
    for place in places:
        try:
            found = [*ask(place, {"command": "list"})]
        except ControlError as error:
            silent = error
        else:
            listed += [(Target(place, each["vm"]), each) for each in found]
    return listed, silent


def _names(listed: _Listed) -> str:
    return ", ".join(sorted({one_line(target.vm) for target, _ in listed}))
