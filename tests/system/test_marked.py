"""The host changes files, and a daemon that may not watch whole file systems reports what the guest
has looked at: which lines there are, and what outlives what (vhost9p/marked)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.system import few_marks
from tests.system.reported import Reported, reported
from tests.system.share import (
    AS_USER,
    IS_ROOT,
    UNSHARE,
    USER,
    USER_GROUP,
    Share,
    mounted,
    remount,
    skip_without_namespaces,
)
from tests.system.test_listed_mounts import Inside

WITHOUT_ADMIN = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
"""Root, as it is in a container."""


@contextmanager
def marked(
    *args: str, wrapper: list[str] = AS_USER, model: str = "none"
) -> Iterator[tuple[Share, Reported]]:
    """A guest that has attached, and what is reported to it."""
    export = Path(tempfile.mkdtemp(prefix="v9-marked-"))
    daemon = Daemon(
        *("--path", str(export), "--notify", "--security-model", model, *args), wrapper=wrapper
    )
    try:
        for path in (export, daemon.directory):
            os.chown(path, USER, USER_GROUP)
        with daemon, mounted(daemon, export, n_uname=0) as share, reported(daemon) as (lines,):
            yield share, lines
    finally:
        shutil.rmtree(export, ignore_errors=True)


def change(share: Share, script: str) -> None:
    """Another process of the host changes something."""
    subprocess.run(["sh", "-ec", script], cwd=share.export, check=True)


def now(share: Share, lines: Reported) -> list[bytes]:
    """Returns all lines of what has happened so far."""
    change(share, "touch fence && rm fence")
    found = lines.until(b"removed fence")
    return [line for line in found if b"fence" not in line]


def look_at(share: Share, *names: bytes) -> int:
    """The guest walks to a directory, as Linux does: one name after the other."""
    fid = share.root
    for name in names:
        fid = share.client.walk_to(fid, name)
    return fid


@pytest.mark.parametrize(
    "wrapper",
    [AS_USER, pytest.param(WITHOUT_ADMIN, marks=pytest.mark.skipif(not IS_ROOT, reason="root's"))],
    ids=["user", "container"],
)
def test_changes_where_the_guest_has_looked(wrapper: list[str]) -> None:
    with marked(wrapper=wrapper) as (share, lines):
        change(share, "mkdir -p a/b c && chmod -R 777 . && echo text >a/b/f")
        lines.until(b"created a/", b"created c/")
        lines.forget()
        look_at(share, b"a", b"b")
        change(
            share, "echo more >>a/b/f; chmod 600 a/b/f; mkdir a/d; touch c/unseen a/b/g; rm a/b/g"
        )
        lines.until(b"changed a/b/f 10", b"attributes a/b/f", b"created a/d/", b"removed a/b/g")
        assert not [line for line in now(share, lines) if b"unseen" in line]
        lines.forget()
        change(share, "mv a/b/f a/b/h; mv a/b/h c; mv c/h a/b/i; chmod 700 a")
        lines.until(*(b"renamed a/b/f a/b/h", b"removed a/b/h", b"created a/b/i", b"attributes a/"))


def test_one_walk_of_several_names() -> None:
    with marked() as (share, lines):
        change(share, "mkdir -p a/b/c && chmod -R 777 a")
        share.client.walk_to(share.root, b"a", b"b", b"c")
        change(share, "touch a/f a/b/f a/b/c/f && mv a/b a/x && touch a/x/c/g")
        lines.until(b"created a/f", b"created a/b/f", b"created a/b/c/f", b"created a/x/c/g")


def test_directories_that_are_renamed() -> None:
    with marked() as (share, lines):
        change(share, "mkdir -p a/b/c d && chmod -R 777 .")
        look_at(share, b"a", b"b", b"c")
        other = look_at(share, b"d")
        change(share, "mv a d/e && touch d/e/b/c/by-host")
        lines.until(b"renamed a/ d/e/", b"created d/e/b/c/by-host")
        share.client.renameat(share.client.walk_to(other, b"e"), b"b", share.root, b"mine")
        change(
            share, "touch mine/c/f && mkdir mine/new && mv mine/c mine/new && touch mine/new/c/g"
        )
        lines.until(b"created mine/c/f", b"removed mine/c/")
        look_at(share, b"mine", b"new", b"c")
        change(share, "touch mine/new/c/h")
        lines.until(b"created mine/new/c/h")
        assert not [line for line in now(share, lines) if line.startswith(b"renamed d/e/b")]
        change(share, "rm -r mine && mkdir -p mine/c && chmod -R 777 mine")
        look_at(share, b"mine", b"c")
        change(share, "touch mine/c/again")
        lines.until(b"created mine/c/again")


def test_what_the_guest_does_is_not_reported() -> None:
    with marked() as (share, lines):
        client = share.client
        fid = client.create(share.root, b"f")
        client.write(fid, 0, b"data")
        client.clunk(fid)
        client.mkdir(share.root, b"d")
        client.clunk(client.create(look_at(share, b"d"), b"g"))
        client.renameat(share.root, b"d", share.root, b"e")
        client.renameat(share.root, b"f", share.root, b"h")
        client.unlinkat(share.root, b"h")
        assert now(share, lines) == []


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "remounts"])
def test_a_worker_marks_what_the_guest_has(*, dies: bool) -> None:
    with marked() as (share, lines):
        change(share, "mkdir -p a/b && chmod -R 777 a")
        client = share.client
        client.walk_to(share.root, b"a", b"b")
        if dies:
            kill(share.daemon.worker)
            lines.until(b"overflow")
        else:
            remount(share, n_uname=0)
            look_at(share, b"a", b"b")
        client.clunk(client.create(look_at(share), b"own"))
        change(share, "touch f a/f a/b/f && mv a c && touch c/b/g")
        lines.until(
            *(b"created f", b"created a/f", b"created a/b/f", b"renamed a/ c/", b"created c/b/g")
        )
        assert b"created own" not in lines.lines


def test_directories_that_the_guest_has_no_more_leave_room() -> None:
    with marked(wrapper=[*AS_USER, *few_marks.WRAPPER]) as (share, lines):
        names = [b"d%d" % number for number in range(3 * few_marks.MARKS)]
        change(share, "mkdir " + os.fsdecode(b" ".join(names)))
        for name in names:
            share.client.clunk(look_at(share, name))
        lines.until(b"overflow")
        look_at(share, names[0])
        change(share, "touch f d0/f")
        lines.until(b"created f", b"created d0/f")


def test_more_directories_than_there_may_be_marks() -> None:
    with marked(wrapper=[*AS_USER, *few_marks.WRAPPER]) as (share, lines):
        names = [b"d%d" % number for number in range(3 * few_marks.MARKS)]
        change(share, "mkdir " + os.fsdecode(b" ".join(names)))
        fids = [look_at(share, name) for name in names]
        share.daemon.wait_line("the guest uses more directories than may be watched")
        lines.until(b"overflow")
        for fid in fids:
            share.client.clunk(fid)
        remount(share, n_uname=0)
        lines.forget()
        lines.until(b"overflow")
        look_at(share, names[-1])
        change(share, os.fsdecode(b"touch f %b/f" % names[-1]))
        lines.until(b"created f", b"created %b/f" % names[-1])


def test_events_that_the_kernel_has_lost() -> None:
    """While the worker stands still."""
    with marked() as (share, lines):
        limit = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
        change(share, "mkdir a")
        look_at(share, b"a")
        os.kill(share.daemon.worker, signal.SIGSTOP)
        try:
            for number in range(limit + 10):
                (share.export / f"f{number}").write_bytes(b"")
            change(share, "mv a b")
        finally:
            os.kill(share.daemon.worker, signal.SIGCONT)
        lines.until(b"overflow")
        look_at(share, b"b")
        change(share, "touch b/later")
        lines.until(b"created b/later")


def test_a_directory_that_the_daemon_may_not_read() -> None:
    with marked() as (share, lines):
        change(share, "mkdir -p a/b && chmod 777 a/b && chmod 111 a")
        look_at(share, b"a", b"b")
        share.daemon.wait_line("changes by the host are not reported to the guest: a: ")
        change(share, "touch a/f a/b/f && mv a c && touch c/b/g")
        lines.until(b"created a/b/f", b"renamed a/ c/", b"created c/b/g")
        assert not [line for line in now(share, lines) if b"a/f" in line]


def test_a_directory_that_leaves_the_export_unseen() -> None:
    """No event says so where the daemon may not read the directory above."""
    with tempfile.TemporaryDirectory(prefix="v9-marked-") as outside, marked() as (share, lines):
        change(share, "mkdir -p a/b/c && chmod 777 a/b a/b/c && chmod 111 a")
        look_at(share, b"a", b"b", b"c")
        change(share, "touch a/b/f a/b/c/f")
        lines.until(b"created a/b/f", b"created a/b/c/f")
        lines.forget()
        change(share, f"mv a/b {outside} && cd {outside}/b && touch secret c/secret")
        lines.until(b"overflow")
        change(share, f"touch {outside}/b/more {outside}/b/c/more; rm {outside}/b/secret")
        assert {*now(share, lines)} == {b"overflow"}
        lines.forget()
        change(share, f"mv {outside}/b a/d && touch a/d/g")
        look_at(share, b"a", b"d", b"c")
        change(share, "touch a/d/back a/d/c/back")
        lines.until(b"created a/d/back", b"created a/d/c/back")


def test_a_mount_that_is_gone() -> None:
    """The guest sees no more of what was mounted below the export."""
    skip_without_namespaces()
    with tempfile.TemporaryDirectory(prefix="v9-marked-") as name:
        base = Path(name)
        (base / "elsewhere/d").mkdir(parents=True)
        (base / "export/m").mkdir(parents=True)
        for path in (base, *base.rglob("*")):
            os.chown(path, USER, USER_GROUP)
        bind = f'mount --bind {base}/elsewhere {base}/export/m && exec "$@"'
        args = "--path", f"{base}/export", "--security-model", "none", "--notify"
        daemon = Daemon(*args, wrapper=[*UNSHARE, "sh", "-c", bind, "sh", *AS_USER])
        os.chown(daemon.directory, USER, USER_GROUP)
        with (
            daemon,
            mounted(daemon, base / "export", n_uname=0) as share,
            Inside(share) as inside,
            reported(daemon) as (lines,),
        ):
            look_at(share, b"m", b"d")
            change(share, "touch ../elsewhere/d/before")
            lines.until(b"created m/d/before")
            inside.run("umount", "-l", "./m")
            change(share, "touch ../elsewhere/secret ../elsewhere/d/secret")
            lines.until(b"overflow")
            assert not [line for line in now(share, lines) if b"secret" in line]


def test_hidden_paths_are_not_reported() -> None:
    with marked("--hide", "*.key", "--hide", "secrets") as (share, lines):
        change(share, "mkdir secrets && touch a.key f && mv a.key shown && mv f b.key")
        assert now(share, lines) == [b"created f", b"created shown", b"removed f"]


def test_a_directory_that_gets_a_hidden_name() -> None:
    with marked("--hide", "*.key") as (share, lines):
        change(share, "mkdir -p a/b && chmod -R 777 a")
        look_at(share, b"a", b"b")
        now(share, lines)
        lines.forget()
        change(share, "mv a a.key; touch a.key/b/f a.key/f; mv a.key/f f")
        assert now(share, lines) == [b"removed a/", b"created f"]


def test_several_exports() -> None:
    with tempfile.TemporaryDirectory(prefix="v9-marked-") as name:
        folder = Path(name)
        exports = []
        for each in "ab":
            (folder / each).mkdir()
            exports.append(f"{{path: {folder}/{each}, name: {each}}}")
        config = folder / "config.yaml"
        config.write_text(
            f"tag: t\nsecurity_model: none\nnotify: true\nstate_dir: {folder}/s\n"
            f"exports: [{', '.join(exports)}]\n"
        )
        for path in (folder, folder / "a", folder / "b"):
            os.chown(path, USER, USER_GROUP)
        daemon = Daemon("--config", str(config), wrapper=AS_USER)
        os.chown(daemon.directory, USER, USER_GROUP)
        with daemon, mounted(daemon, folder, n_uname=0) as share, reported(daemon) as (lines,):
            look_at(share, b"a")
            look_at(share, b"b")
            change(share, "mkdir b/d && touch a/f && mv a/f b/g && chmod 700 a")
            lines.until(
                *(b"created a/f", b"removed a/f", b"created b/g", b"attributes a/", b"created b/d/")
            )
