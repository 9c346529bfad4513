"""What outlives main itself, if a service manager keeps it (systemd's file descriptor store).

When main is killed, so are its keepers and workers. The manager starts it again, and hands over
what it had stored: the sockets, the saved states and main's copies (copies.py), and a text with
what main knew, as for an upgrade (handover.py). Each VM then goes on as after the death of its
keeper (vm.py).

Descriptors have names there, with numbers that are never used again. A manager takes one that it
has already for stored, under the old name, so main knows what each is by what the kernel says about
it, and stores nothing twice. The text names them. It changes after all that it names is stored, and
before what it does not name is removed: so whenever main dies, the text is complete.

A manager whose store is full says nothing, and keeps what it has. So the text is a file in memory
that is stored first, once, and rewritten in place (kept_text.py); then come the descriptors that a
VM cannot go on without, and then what its worker has listed, which may be too many: that VM is lost
if main dies, and no other.
"""

import logging
import os
import re
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from vhost9p import kept_text
from vhost9p.copies import close, refuse
from vhost9p.notify import HandedOver, Manager
from vhost9p.saved_state import Unreadable

log = logging.getLogger(__name__)

PREFIX, TEXT_PREFIX = "vhost9p-", "vhost9p-text-"
_NAME = re.compile(f"(?:{TEXT_PREFIX}|{PREFIX})([0-9]+)")
RETRY_S = 0.1
"""Pause, if the manager has no room for more messages."""


def _identity(fd: int) -> str:
    """What a descriptor is of, without a look at its file system (proc_pid_fdinfo(5)); the manager
    compares more strictly. Raises OSError."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
        fields = dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
    if "ino" not in fields:
        return str(fd)
    access = int(fields["flags"], 8) & os.O_ACCMODE  # a pipe has two ends
    names = ("mnt_id", "ino", "eventfd-id")
    return " ".join((str(access), *(fields.get(name, "").strip() for name in names)))


def is_kept(name: str) -> bool:
    """Whether a descriptor of this name is one that a main process has stored; else it is a socket
    of a unit, which may be named after the program, too."""
    return _NAME.fullmatch(name) is not None


class Kept(NamedTuple):
    """What the main process before has left: its text, and which number here each descriptor has
    that the text names."""

    written: dict[str, Any]
    numbers: dict[int, int]


class FdStore:
    """What the manager keeps of this process."""

    def __init__(self, manager: Manager, written: Mapping[str, Any] | None = None) -> None:
        """`written` is what another version of the code has written down about it."""
        written = written or {}
        self.manager = manager
        self._stored: dict[str, int] = dict(written.get("stored", {}))
        """The number in the name of what is stored, by its identity."""
        self._text: int = written.get("text", 0)
        """The number in the name of the text; 0: there is none."""
        self.text_fd: int = written.get("text_fd", -1)
        """The text; -1: there is none."""
        if self.text_fd >= 0:
            os.set_inheritable(self.text_fd, False)
        self._next: int = written.get("next", 1)
        self._obsolete: list[str] = list(written.get("obsolete", ()))
        """Names of what is to be removed."""
        self.retries_at: float | None = None
        """When to call `keep`, or `clear`, again, since the manager had no room."""

    def written_down(self) -> dict[str, Any]:
        """What another version of the code has to know, for JSON."""
        return {
            "stored": self._stored,
            "text": self._text,
            "text_fd": self.text_fd,
            "next": self._next,
            "obsolete": self._obsolete,
        }

    def keep(self, written: dict[str, Any], fds: Collection[int]) -> None:
        """From now on these are stored: what main knows, and the descriptors that are named there,
        the most important first. If the manager has no room, or this process no descriptors,
        `retries_at` says when to call it again."""
        self.retries_at = None
        if not self.manager.is_there:
            return
        try:
            self._keep(written, fds)
        except OSError as error:
            log.debug("what the service manager keeps is out of date: %s", error)
            self._retry_later()

    def _keep(self, written: dict[str, Any], fds: Collection[int]) -> None:
        """Raises OSError."""
        if self.text_fd < 0 and not self._store_text():
            return
        names: dict[int, int] = {}
        wanted: set[str] = set()
        for fd in fds:
            identity = _identity(fd)
            wanted.add(identity)
            if identity not in self._stored:
                try:
                    if not self._store(f"{PREFIX}{self._next}", fd):
                        return
                except OSError as error:  # a frontend may bring that about for its own socket
                    log.debug("a descriptor cannot be kept for now: %s", error)
                    self._retry_later()
                    continue
                self._stored[identity] = self._next
                self._next += 1
            names[fd] = self._stored[identity]
        kept_text.write(self.text_fd, {**written, "names": names})
        for identity in [*self._stored]:
            if identity not in wanted:
                self._obsolete.append(f"{PREFIX}{self._stored.pop(identity)}")
        self._remove()

    def _store_text(self) -> bool:
        """Raises OSError."""
        fd = kept_text.create()
        if not self._store(f"{TEXT_PREFIX}{self._next}", fd):
            os.close(fd)
            return False
        if self._text:
            self._obsolete.append(f"{TEXT_PREFIX}{self._text}")
        self.text_fd, self._text = fd, self._next
        self._next += 1
        return True

    def _store(self, name: str, fd: int) -> bool:
        # Without FDPOLL=0 a connection whose other end closes would be removed.
        return self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd])

    def _send(self, text: str, fds: Collection[int] = ()) -> bool:
        if self.manager.send(text, fds):
            return True
        self._retry_later()
        return False

    def _retry_later(self) -> None:
        self.retries_at = time.monotonic() + RETRY_S

    def _remove(self) -> None:
        while self._obsolete and self._send(f"FDSTOREREMOVE=1\nFDNAME={self._obsolete[0]}"):
            del self._obsolete[0]

    def clear(self) -> None:
        """Nothing is kept any more: this process ends in order."""
        self.retries_at = None
        self._obsolete += [f"{PREFIX}{number}" for number in self._stored.values()]
        if self._text:
            self._obsolete.append(f"{TEXT_PREFIX}{self._text}")
            os.close(self.text_fd)
        self._stored, self._text, self.text_fd = {}, 0, -1
        self._remove()

    def receive(self, kept: Collection[HandedOver]) -> Kept | None:
        """Takes ownership of what was `kept`. Returns what the process before has left; None if
        that is nothing. Raises Unreadable, OSError: then `clear` removes it."""
        texts: dict[int, int] = {}
        by_number: dict[int, int] = {}
        for name, fd in kept:
            os.set_inheritable(fd, False)
            if found := _NAME.fullmatch(name):
                (texts if name.startswith(TEXT_PREFIX) else by_number)[int(found[1])] = fd
        self._next = max((*texts, *by_number, self._next - 1)) + 1
        self._stored = {_identity(fd): number for number, fd in by_number.items()}
        if not texts:
            refuse(by_number.values())
            return None
        # Where one main process was about to replace the text of another one, the old one is whole.
        written = {number: fd for number, fd in texts.items() if not kept_text.is_empty(fd)}
        self._text = max(written or texts)
        self.text_fd = texts.pop(self._text)
        for number, fd in texts.items():
            os.close(fd)
            self._obsolete.append(f"{TEXT_PREFIX}{number}")
        try:
            return _read(self.text_fd, by_number)
        except (Unreadable, OSError):
            refuse(by_number.values())
            raise


def _read(text: int, by_number: Mapping[int, int]) -> Kept:
    """Raises Unreadable, OSError."""
    written = kept_text.read(text)
    numbers = {
        int(fd): by_number[number] for fd, number in written["names"].items() if number in by_number
    }
    close({*by_number.values()} - {*numbers.values()})  # they were about to be removed
    return Kept(written, numbers)
