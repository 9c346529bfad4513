"""What main has a service manager keep."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.systemd import Systemd
from vhost9p import kept_text
from vhost9p.fd_store import FdStore
from vhost9p.notify import HandedOver, Manager
from vhost9p.saved_state import Unreadable


def test_too_many_open_files_are_no_end(tmp_path: Path) -> None:
    """It is tried again, and main goes on."""
    with Systemd(tmp_path) as systemd:
        store = FdStore(Manager(systemd.environment["NOTIFY_SOCKET"]))
        fd = os.eventfd(0)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            store.keep({}, [fd])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert store.retries_at is not None
        store.keep({}, [fd])
        assert store.retries_at is None
        os.close(fd)


def test_both_ends_of_a_pipe_are_kept(tmp_path: Path) -> None:
    with Systemd(tmp_path) as systemd:
        store = FdStore(Manager(systemd.environment["NOTIFY_SOCKET"]))
        ends = os.pipe()
        store.keep({}, ends)
        assert len(store.written_down()["stored"]) == 2
        for fd in ends:
            os.close(fd)


def test_a_full_store_has_the_text_and_what_comes_first(tmp_path: Path) -> None:
    """And the text is the newest, though nothing more can be stored."""
    with Systemd(tmp_path, store_max=3) as systemd:
        store = FdStore(Manager(systemd.environment["NOTIFY_SOCKET"]))
        fds = [os.eventfd(0) for _ in range(5)]
        for text in ("old", "new"):
            store.keep({"said": text}, fds)
        wait_for_manager(systemd)
        assert [name for name, _ in systemd.stored] == ["vhost9p-text-1", "vhost9p-2", "vhost9p-3"]
        assert kept_text.read(systemd.stored[0][1])["said"] == "new"
        for fd in fds:
            os.close(fd)


def test_what_the_kernel_does_not_send_keeps_back_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket with too many others in its queue: it is tried again, and the text is without it."""
    fds = [os.eventfd(0) for _ in range(3)]
    refused, send = {fds[1]}, socket.send_fds

    def send_fds(sock: socket.socket, data: list[bytes], sent: list[int]) -> int:
        if refused & {*sent}:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return send(sock, data, sent)

    monkeypatch.setattr(socket, "send_fds", send_fds)
    with Systemd(tmp_path) as systemd:
        store = FdStore(Manager(systemd.environment["NOTIFY_SOCKET"]))
        store.keep({}, fds)
        assert store.retries_at is not None
        assert {*kept_text.read(store.text_fd)["names"]} == {str(fds[0]), str(fds[2])}
        refused.clear()
        store.keep({}, fds)
        assert store.retries_at is None
        assert {*kept_text.read(store.text_fd)["names"]} == {str(fd) for fd in fds}
    for fd in fds:
        os.close(fd)


def wait_for_manager(systemd: Systemd) -> None:
    """Returns when it has taken what was sent before."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"X_TEST=1", systemd.environment["NOTIFY_SOCKET"])
    deadline = time.monotonic() + 30
    while "X_TEST=1" not in systemd.texts:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_text_that_was_not_written_yet_does_not_hide_the_one_before(tmp_path: Path) -> None:
    """Main has died between storing a new text and writing it."""
    store = FdStore(Manager(""))
    whole, empty = kept_text.create(), kept_text.create()
    kept_text.write(whole, {"names": {}, "said": "old"})
    kept = store.receive([HandedOver("vhost9p-text-1", whole), HandedOver("vhost9p-text-2", empty)])
    assert kept and kept.written["said"] == "old"


@given(st.lists(st.text(max_size=300), min_size=2, max_size=12))
def test_a_text_is_whole_whenever_its_writer_is_killed(texts: list[str]) -> None:
    """Before each call of pwrite(2), and after it, the file has what was written before, or now."""
    fd = kept_text.create()
    kept_text.write(fd, {"said": texts[0]})
    seen: list[str] = []
    pwrite = os.pwrite

    def looking(*arguments: Any) -> int:
        seen.append(kept_text.read(fd)["said"])
        return pwrite(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vhost9p.kept_text.os.pwrite", looking)
        for before, text in pairwise(texts):
            seen.clear()
            kept_text.write(fd, {"said": text})
            assert seen == [before, before]
            assert kept_text.read(fd)["said"] == text
    assert os.fstat(fd).st_size < 3 * max(len(each) * 12 + 60 for each in texts)
    os.close(fd)


def test_a_text_that_there_is_no_room_for_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fd = kept_text.create()
    kept_text.write(fd, {"said": "old"})
    pwrite = os.pwrite
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("vhost9p.kept_text.os.pwrite", lambda fd, data, at: pwrite(fd, data[:5], at))
        kept_text.write(fd, {"said": "new"})
    assert kept_text.read(fd)["said"] == "old"
    os.close(fd)


@pytest.mark.parametrize("head", [(16, 1 << 40), (1 << 63, 1 << 63), (0, 5), (16, 0)])
def test_a_damaged_text_is_refused(head: tuple[int, int]) -> None:
    fd = kept_text.create()
    kept_text.write(fd, {"said": "x"})
    os.pwrite(fd, struct.pack("=QQ", *head), 0)
    with pytest.raises(Unreadable):
        kept_text.read(fd)
    os.close(fd)
