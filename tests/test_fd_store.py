"""What main has a service manager keep."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from tests.frontend.systemd import Systemd
from vhost9p.fd_store import FdStore
from vhost9p.notify import Manager


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
