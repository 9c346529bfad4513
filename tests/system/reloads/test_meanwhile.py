"""A reload while processes die, or another daemon has what is asked for."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress

from tests.frontend.client import LOCK_SUCCESS, WRLCK
from tests.frontend.daemon import Daemon
from tests.system.reloads.site import ROOT, Site, command, is_locked, mounts_of
from tests.system.share import SECURITY, fails
from tests.system.test_upgrade import upgraded


def test_a_reload_after_deaths_and_an_upgrade(site: Site) -> None:
    """What a reload has changed holds for each process that follows."""
    client = site.client
    kept = client.open(ROOT, (b"b", b"file"), os.O_RDWR)
    gone = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    site.reload("c", "b")
    os.kill(site.daemon.worker, signal.SIGKILL)
    assert site.read(b"c", b"file") == b"c"
    upgraded(site.daemon)
    assert site.names() == [b"b", b"c"]
    site.reload("d", "b", "c")
    assert site.read(b"d", b"file") == b"d"
    os.kill(site.daemon.keeper, signal.SIGKILL)
    site.daemon.wait_line("the keeper of vm died of SIGKILL: files are reopened")
    assert site.names() == [b"b", b"c", b"d"]
    assert client.read(kept, 0, 9) == b"b"
    with fails(errno.ESTALE):
        client.read(gone, 0, 9)
    site.reload("b", "c")
    assert site.names() == [b"b", b"c"]
    assert mounts_of(site.daemon) == ["b", "c"]


def test_reloads_among_deaths(site: Site) -> None:
    """Reloads, some at the same time, while workers and keepers are killed."""
    client = site.client
    kept = client.open(ROOT, (b"b", b"file"), os.O_RDWR)
    for names in 3 * (("b", "c"), ("d", "b"), ("b",)):
        site.write(*names)
        site.daemon.process.send_signal(signal.SIGHUP)
        with suppress(ValueError, ProcessLookupError):
            os.kill(site.daemon.worker, signal.SIGKILL)
        site.daemon.process.send_signal(signal.SIGHUP)
        assert client.read(kept, 0, 9) == b"b"
    site.write("a", "b")
    done = command(str(site.daemon.pid))
    assert done.returncode == 0, done
    assert site.names() == [b"a", b"b"]
    assert mounts_of(site.daemon) == ["a", "b"]
    assert client.read(kept, 0, 9) == b"b"


def test_what_cannot_be_served_after_all_is_taken_back(site: Site) -> None:
    """Another daemon keeps the usage of an export, which no check has noticed. Nothing of what was
    to be removed or hidden is lost: no open file, no lock, no directory."""
    client = site.client
    (site.base / "b/secret").write_text("secret")
    kept = client.open(ROOT, (b"b", b"file"), os.O_RDWR)
    assert client.lock(kept, WRLCK) == LOCK_SUCCESS
    removed = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    assert client.lock(removed, WRLCK) == LOCK_SUCCESS
    folder = client.walk_to(ROOT, b"a")
    (site.base / "a/unlinked").write_text("unlinked")
    unlinked = client.open(ROOT, (b"a", b"unlinked"))
    client.unlinkat(folder, b"unlinked")
    hidden = client.open(ROOT, (b"b", b"secret"))
    other = site.base / "other.yaml"
    other.write_text(
        f"socket: {site.base}/other.sock\npath: {site.base}/c\nstate_dir: {site.base}/state\n"
        f"security_model: {SECURITY[1]}\nquota: {{bytes: 1MiB}}\n"
    )
    with Daemon("--config", str(other), socket=False):
        site.write("b, hide: [secret]", "c, quota: {bytes: 1MiB}")
        done = command(str(site.daemon.pid))
        assert (done.returncode, done.stdout) == (1, "")
        assert "vm: the reload has failed, so nothing changes: it is not served" in done.stderr
    assert site.names() == [b"a", b"b"]
    assert client.read(kept, 0, 9) == b"b"
    assert is_locked(site.base / "b/file")
    assert is_locked(site.base / "a/file")
    assert site.read(b"a", b"file") == b"a"
    assert client.read(removed, 0, 9) == b"a"
    assert client.read(unlinked, 0, 9) == b"unlinked"
    assert client.read(hidden, 0, 9) == b"secret"
    client.walk(folder, client.new_fid(), b"file")
    assert mounts_of(site.daemon) == ["a", "b"]
