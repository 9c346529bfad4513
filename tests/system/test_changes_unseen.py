"""What the guest does not see is not reported to it either, and what somebody does elsewhere in the
same file system makes no noise (vhost9p/watcher)."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.frontend import PATIENCE
from tests.frontend.daemon import Daemon
from tests.system.reported import Reported, reported, watcher_of
from tests.system.share import SECURITY, UNSHARE, Share, mounted, needs_root, serve
from tests.system.test_hung_files import hanging
from tests.system.test_listed_mounts import Inside
from vhost9p.watcher.process import HUNG_REST_S

pytestmark = needs_root


@contextmanager
def watched(export: Path, *args: str) -> Iterator[tuple[Share, Reported]]:
    """A guest, and what is reported to it."""
    daemon = serve(export, "--notify", *args)
    with daemon, mounted(daemon, export) as share, reported(daemon) as (lines,):
        yield share, lines


def all_until_now(lines: Reported, export: Path) -> list[bytes]:
    """The lines of all changes so far."""
    (export / "fence").unlink(missing_ok=True)
    lines.lines = [line for line in lines.read() if b"fence" not in line]
    (export / "fence").write_bytes(b"")
    return [line for line in lines.until(b"created fence") if b"fence" not in line]


def change(script: str, folder: Path) -> None:
    """Another process of the host changes something."""
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True)


def test_what_the_directory_of_notices_covers(export: Path) -> None:
    (export / ".vhost9p").mkdir()
    with watched(export) as (_, lines):
        change("touch .vhost9p/f; mkdir d; mv .vhost9p/f d/f; chmod 700 .vhost9p", export)
        assert all_until_now(lines, export) == [b"created d/", b"created d/f"]
        lines.forget()
        change("mv .vhost9p d/.vhost9p; mkdir d/.vhost9p/g", export)
        assert all_until_now(lines, export) == [b"created d/.vhost9p/", b"created d/.vhost9p/g/"]


def test_paths_that_are_too_long(export: Path) -> None:
    """Elsewhere, where any user may make one: that is no reason for an overflow."""
    outside = export.with_name(f"{export.name}-outside")
    with watched(export) as (_, lines), inside_of_a_long_path(outside) as folder:
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        assert all_until_now(lines, export) == []


@contextmanager
def inside_of_a_long_path(at: Path) -> Iterator[int]:
    """A directory whose path is longer than the kernel can say."""
    at.mkdir()
    folder = os.open(at, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=folder)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def watched_apart(export: Path, *args: str) -> Iterator[tuple[Inside, Reported, Daemon]]:
    """The same, with mounts of its own, which a shell makes."""
    options = "--multidevs", "remap", "--notify", *args
    daemon = Daemon("--path", str(export), *SECURITY, *options, wrapper=UNSHARE)
    with daemon, mounted(daemon, export) as share, Inside(share) as inside, reported(daemon) as all:
        (lines,) = all
        yield inside, lines, daemon


@pytest.mark.parametrize("level", ["namespace", "chroot", "none"])
def test_what_a_mount_covers(export: Path, level: str) -> None:
    (export / level / "m").mkdir(parents=True)
    covered = os.open(export / level / "m", os.O_RDONLY)
    with watched_apart(export, "--sandbox", level) as (inside, lines, _):
        inside.mount(f"{level}/m")
        lines.until(b"overflow")
        lines.forget()
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=covered))
        assert all_until_now(lines, export) == []
        (export / level).rename(export / f"{level}-moved")
        os.close(os.open("g", os.O_CREAT | os.O_WRONLY, dir_fd=covered))
        moved = b"renamed %s/ %s-moved/" % (level.encode(), level.encode())
        assert all_until_now(lines, export) == [moved]
    os.close(covered)


def test_a_directory_that_is_seen_twice(export: Path) -> None:
    (export / "a/d").mkdir(parents=True)
    (export / "b").mkdir()
    with watched_apart(export) as (inside, lines, _):
        inside.run("mount", "--bind", "a", "b")
        lines.until(b"overflow")
        inside.run("touch", "a/d/f")
        lines.until(b"created a/d/f", b"created b/d/f")
        inside.run("mv", "b/d/f", "b/g")
        lines.until(b"renamed a/d/f a/g", b"renamed b/d/f b/g")


def test_where_other_file_systems_are_forbidden_their_mounts_are_not_reported(export: Path) -> None:
    """Others of the export's own are: the guest sees them."""
    (export / "top/same").mkdir(parents=True)
    (export / "top/other").mkdir()
    (export / "elsewhere").mkdir()
    script = f"""
        mount --make-rshared / && cd {export}/top && mount --bind ../elsewhere same &&
        mount -t tmpfs other other && exec "$@"
    """
    args = "--path", str(export / "top"), *SECURITY, "--multidevs", "forbid", "--notify"
    daemon = Daemon(*args, wrapper=["unshare", "--mount", "sh", "-c", script, "sh"])
    top = export / "top"
    with daemon, mounted(daemon, top) as share, Inside(share) as inside, reported(daemon) as all:
        (lines,) = all
        inside.run("touch", "other/f", "same/f", "fence")
        lines.until(b"created same/f", b"created fence")
        assert not [line for line in lines.lines if b"other" in line]


def test_exports_that_lie_in_each_other_and_one_that_is_seen_twice(scratch: Path) -> None:
    """The guest hears of a change in each place where it sees it."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        base = Path(folder)
        for name in ("one/sub/in", "two", "state"):
            (base / name).mkdir(parents=True)
        exports = {"top": "one", "nested": "one/sub", "bind": "two"}
        entries = [f"{{name: {name}, path: {base}/{path}}}" for name, path in exports.items()]
        (base / "vm.yaml").write_text(
            f"{{socket: {base}/socket, notify: true, force: true, multidevs: remap, "
            f"state_dir: {base}/state, exports: [{', '.join(entries)}]}}"
        )
        bind = f'mount --make-rshared / && mount --bind {base}/one {base}/two && exec "$@"'
        wrapper = ["unshare", "--mount", "sh", "-c", bind, "sh"]
        daemon = Daemon("--config", str(base / "vm.yaml"), socket=False, wrapper=wrapper)
        with daemon, reported(daemon) as (lines,):
            change(": >one/sub/in/f; : >one/g; mv one/g one/sub/g; rm one/sub/in/f", base)
            (base / "one/fence").touch()
            lines.until(b"created bind/fence")
            assert [line for line in lines.lines if b"fence" not in line] == [
                *(b"created top/sub/in/f", b"created nested/in/f", b"created bind/sub/in/f"),
                *(b"created top/g", b"created bind/g"),
                *(b"renamed top/g top/sub/g", b"created nested/g", b"renamed bind/g bind/sub/g"),
                *(b"removed top/sub/in/f", b"removed nested/in/f", b"removed bind/sub/in/f"),
            ]


def test_names_never_show_that_are_hidden_before_or_after_a_rename(export: Path) -> None:
    (export / "secret/d").mkdir(parents=True)
    (export / "pub").mkdir()
    hide = [f"--hide={pattern}" for pattern in ("*.key", "secret", "pub/inner")]
    with watched(export, *hide) as (_, lines):
        change(
            ": >secret/f; mv secret/f pub/f; mv secret/d pub/d; mv pub/d pub/inner; : >pub/inner/q;"
            "mv pub/inner/q pub/g; mv pub/g pub/g.key; echo x >pub/g.key; mv pub secret/pub;"
            ": >secret/pub/n; mv secret/pub open; mv open x.key; : >x.key/s; mv x.key secret/x",
            export,
        )
        found = all_until_now(lines, export)
        assert found and not [
            line
            for line in found
            if any(each in line for each in (b"secret", b".key", b"pub/inner"))
        ]


@pytest.mark.parametrize("option", ["index=off", "nfs_export=on,index=on"], ids=["plain", "nfs"])
def test_an_overlay_is_watched_in_one_way_or_the_other(export: Path, option: str) -> None:
    """As a whole if its files have handles, else as far as the guest has looked at it."""
    script = (
        f"mount --make-rshared / && cd {export} && mount -t tmpfs t . && cd {export} && "
        "mkdir low up work m && : >low/f && mount -t overlay "
        f'-o {option},lowerdir=low,upperdir=up,workdir=work o m && exec "$@"'
    )
    if subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", "true"], check=False
    ).returncode:
        pytest.skip("no overlayfs like this")
    args = "--path", str(export / "m"), *SECURITY, "--multidevs", "remap", "--notify"
    daemon = Daemon(*args, wrapper=["unshare", "--mount", "sh", "-c", script, "sh"])
    with daemon, mounted(daemon, export) as share, Inside(share) as inside:
        share.client.walk(share.root, share.client.new_fid())
        with reported(daemon) as (lines,):
            inside.run("sh", "-c", f"cd {export}/m; echo more >>f; : >g; mv g h")
            lines.until(b"changed f 5", b"created g", b"renamed g h")


def test_unwatched_mounts_with_long_paths_do_not_keep_others_from_being_watched(
    export: Path,
) -> None:
    """Who may mount below an export, by FUSE for example, chooses them."""
    deep = "/".join(["\1" * 250] * 14)
    script = f"""
        mount --make-rshared / && cd {export} && mount -t tmpfs t . && cd {export} &&
        mkdir -p low up '{deep}' && for i in $(seq 20); do mkdir '{deep}/'$i &&
        mount -t overlay -o lowerdir=low:up,index=off o '{deep}/'$i || exit; done && exec "$@"
    """
    wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*wrapper, "true"], check=False).returncode:
        pytest.skip("no overlayfs")
    args = "--path", str(export), *SECURITY, "--multidevs", "remap", "--notify"
    daemon = Daemon(*args, wrapper=wrapper)
    with daemon, mounted(daemon, export) as share, Inside(share) as inside, reported(daemon) as all:
        (lines,) = all
        inside.run("touch", "f")
        lines.until(b"created f")
        daemon.wait_line("are not reported to the guest: ")


def test_another_file_system_in_the_same_place(export: Path) -> None:
    """The kernel gives its mount the numbers that the other one had."""
    (export / "m").mkdir()
    with watched_apart(export) as (inside, lines, daemon):
        inside.mount("m")
        lines.until(b"overflow")
        inside.run("touch", "m/f")
        lines.until(b"created m/f")
        watcher = watcher_of(daemon)
        os.kill(watcher, signal.SIGSTOP)
        inside.umount("m")
        inside.mount("m")
        lines.forget()
        os.kill(watcher, signal.SIGCONT)
        lines.until(b"overflow")
        inside.run("touch", "m/f")
        lines.until(b"created m/f")


def test_a_file_system_that_hangs_is_left_out(export: Path) -> None:
    """Its server is gone when the watcher begins. The log names it, and all else is watched."""
    with hanging(export, None, "--notify", what="opening") as hung:
        daemon = hung.share.daemon
        with reported(daemon) as (lines,):
            daemon.wait_line("not reported to the guest: gone: it hangs")
            (export / "f").write_bytes(b"")
            lines.until(b"created f")
            watcher = watcher_of(daemon)
            lines.forget()
            os.kill(watcher, signal.SIGKILL)
            lines.until(b"overflow")  # which stands for what comes before the next one watches
            deadline = time.monotonic() + PATIENCE
            for i in itertools.count():
                (export / f"g{i}").write_bytes(b"")
                time.sleep(0.1)
                if any(line.startswith(b"created g") for line in lines.read()):
                    break
                assert time.monotonic() < deadline, lines.lines


def test_what_hangs_leaves_no_process_behind_at_each_mount(export: Path) -> None:
    """Nobody can end a process that hangs, so another one must not follow all the time."""
    begun = time.monotonic()
    with hanging(export, None, "--notify", what="opening") as hung:
        (export / "m").mkdir()
        with reported(hung.share.daemon) as (lines,), Inside(hung.share) as inside:
            watcher = watcher_of(hung.share.daemon)
            title = title_of(watcher)  # which names the VM
            for _ in range(8):
                inside.mount("m")
                time.sleep(0.5)  # in which a watcher would end, and another begin
                inside.umount("m")
            (export / "f").write_bytes(b"")
            lines.until(b"created f")
            pids = filter(str.isdigit, os.listdir("/proc"))
            left = [each for each in pids if title_of(each) == title]
            # Each has a child that hangs.
            assert len(left) <= 2 * (1 + (time.monotonic() - begun) // HUNG_REST_S), left


def title_of(process: int | str) -> bytes:
    """Empty if there is no such process."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def test_mounts_that_come_and_go_without_a_pause(export: Path) -> None:
    """They bring few overflows, and what else is watched is reported meanwhile."""
    (export / "m").mkdir()
    with watched_apart(export) as (inside, lines, _):
        script = "for i in $(seq 200); do mount -t tmpfs m m; umount m; done; touch f"
        inside.run("sh", "-c", script)
        lines.until(b"created f")
        inside.mount("m")
        inside.run("touch", "m/g")
        lines.until(b"overflow")
        inside.run("sh", "-c", "until test -e stop; do touch m/h; rm m/h; sleep 0.1; done &")
        lines.until(b"created m/h")
        (export / "stop").touch()
        assert lines.lines.count(b"overflow") < 50
