"""`log_failures`: a line for each request that fails, with the guest's path and the reason."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acls import MASK, OTHERS, OWNER, OWNING_GROUP, set_acl
from tests.acls import USER as NAMED_USER
from tests.frontend.client import SET_MODE, SET_SIZE, SET_UID, WRLCK, Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMDIR, OWRITE, DialectUClient
from tests.system.share import AS_USER, SECURITY, USER, Share, mounted, needs_root
from vhost9p.control.client import ask, daemons

MODELS = ("passthrough", "none", "mapped-xattr", "mapped-file")
LOGGED = "vhost9p: WARNING: host0: "


def lines(daemon: Daemon) -> list[str]:
    """What has been logged of failed requests. Stops the daemon, so that all of it is there."""
    daemon.stop()
    return [
        line.removeprefix(LOGGED)
        for line in daemon.lines
        if line.startswith(LOGGED + "T") or " failed requests " in line
    ]


def attempt(call: Callable[[], object]) -> None:
    """A request that may fail."""
    with contextlib.suppress(P9Errno):
        call()


Attempt = Callable[[Share, int], object]


def logged(share: Share, attempts: list[tuple[str, Attempt]]) -> None:
    """Each attempt, with a fid of `file`, leaves the line beside it and no other."""
    for _, each in attempts:
        fid = share.client.walk_to(share.root, b"file")
        attempt(lambda each=each, fid=fid: each(share, fid))  # type: ignore[misc]
    assert lines(share.daemon) == [line for line, _ in attempts]


# ---- what the daemon refuses --------------------------------------------------------------------


def l_changes(client: Client) -> list[tuple[str, Attempt]]:
    return [
        ("Tlopen '/file'", lambda s, f: client.lopen(f, os.O_WRONLY)),
        ("Tlcreate '/new'", lambda s, f: client.create(s.root, b"new", gid=5)),
        ("Tmkdir '/new'", lambda s, f: client.mkdir(s.root, b"new", gid=5)),
        ("Tmknod '/new'", lambda s, f: client.mknod(s.root, b"new", 0o100644, gid=5)),
        ("Tsymlink '/new'", lambda s, f: client.symlink(s.root, b"new", b"x", gid=5)),
        ("Tlink '/file' to '/new'", lambda s, f: client.link(s.root, f, b"new")),
        ("Tunlinkat '/file'", lambda s, f: client.unlinkat(s.root, b"file")),
        ("Tremove '/file'", lambda s, f: client.remove(f)),
        ("Trename '/file' to '/new'", lambda s, f: client.rename(f, s.root, b"new")),
        (
            "Trenameat '/file' to '/new'",
            lambda s, f: client.renameat(s.root, b"file", s.root, b"new"),
        ),
        ("Tsetattr '/file'", lambda s, f: client.setattr(f, SET_SIZE, size=0)),
        (
            "Txattrcreate '/file' attribute 'user.new'",
            lambda s, f: client.setxattr(f, b"user.new", b"value"),
        ),
    ]


def u_changes(client: DialectUClient) -> list[tuple[str, Attempt]]:
    return [
        ("Topen '/file'", lambda s, f: client.open_fid(f, OWRITE)),
        ("Tcreate '/new'", lambda s, f: client.make(s.root, b"new", DMDIR | 0o755)),
        ("Tremove '/file'", lambda s, f: client.remove(f)),
        ("Twstat '/file'", lambda s, f: client.wstat(f, mode=0o600)),
    ]


@needs_root
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("speaks", [Client, DialectUClient])
def test_changes_of_a_readonly_export(scratch: Path, model: str, speaks: type[Client]) -> None:
    with served(scratch, "--readonly", "--security-model", model, speaks=speaks) as share:
        client = share.client
        changes = u_changes(client) if isinstance(client, DialectUClient) else l_changes(client)
        groups = {"Tlcreate '/new'", "Tmkdir '/new'", "Tmknod '/new'", "Tsymlink '/new'"}
        expected = [
            (f"{what}, uid 0{' gid 5' if what in groups else ''}: EROFS: readonly export", each)
            for what, each in changes
        ]
        logged(share, expected)


@contextlib.contextmanager
def served(
    scratch: Path, *args: str, speaks: type[Client] = Client, n_uname: int = 0
) -> Iterator[Share]:
    """A mounted export with a file, and a daemon that logs failures."""
    export = Path(tempfile.mkdtemp(dir=scratch))
    (export / "file").write_bytes(b"data")
    args = ("--path", str(export), "--multidevs", "remap", "--log-failures", *args)
    with Daemon(*args) as daemon, mounted(daemon, export, n_uname=n_uname, speaks=speaks) as share:
        yield share
    shutil.rmtree(export)


@needs_root
@pytest.mark.parametrize("model", MODELS)
def test_what_an_option_refuses(scratch: Path, model: str) -> None:
    options = (
        *("--map-uid", "0:0:1000", "--map-gid", "0:0:1000", "--security-model", model),
        *("--squash-uid", "1000", "--squash-gid", "1000", "--forbid-uid", "2000:1"),
        *("--quota-bytes", "64KiB", "--quota-inodes", "2", "--max-fids", "16"),
    )
    with served(scratch, *options) as share:
        client = share.client
        held = client.create(share.root, b"second", gid=0)

        def use_up_fids() -> None:
            for _ in range(16):
                client.walk_to(share.root, b"file")

        attempts: list[tuple[str, Attempt]] = [
            (
                "Tattach '/', uid 2000: EPERM: id 2000 is forbidden by id_map",
                lambda s, f: client.attach(99, 2000),
            ),
            (
                "Tsetattr '/file', uid 0: EPERM: id 2000 is forbidden by id_map",
                lambda s, f: client.setattr(f, SET_UID, uid=2000),
            ),
            (
                "Tmkdir '/third', uid 0 gid 0: ENOSPC: quota of 2 inodes is used up",
                lambda s, f: client.mkdir(s.root, b"third"),
            ),
            (
                "Twrite '/second', uid 0: ENOSPC: quota of 64 KiB is used up",
                lambda s, f: (
                    client.write(held, 0, bytes(128 * 1024)) and client.write(held, 1 << 20, b"x")
                ),
            ),
            (
                "Twalk '/file', uid 0: EMFILE: limit max_fids 16 is reached",
                lambda s, f: use_up_fids(),
            ),
        ]
        logged(share, attempts)


def test_what_hidden_paths_refuse(scratch: Path) -> None:
    """A directory is not renamed to where other paths below it are hidden, whatever its name."""
    hidden = "the name is hidden from the guest"
    below = "other paths below the directory would be hidden then"
    with served(scratch, *SECURITY, "--hide", ".git/config") as share:
        client = share.client
        client.mkdir(share.root, b".git")
        git = client.walk_to(share.root, b".git")
        logged(
            share,
            [
                (
                    f"Tmkdir '/.git/config', uid 0 gid 0: EACCES: {hidden}",
                    lambda s, f: client.mkdir(git, b"config"),
                ),
                (
                    f"Trenameat '/.git' to '/git', uid 0: EACCES: {below}",
                    lambda s, f: client.renameat(s.root, b".git", s.root, b"git"),
                ),
                (
                    f"Trename '/.git' to '/git', uid 0: EACCES: {below}",
                    lambda s, f: client.rename(git, s.root, b"git"),
                ),
            ],
        )


# ---- what the host refuses ----------------------------------------------------------------------


@contextlib.contextmanager
def users(
    *args: str, speaks: type[Client] = Client, logs: tuple[str, ...] = ("--log-failures",)
) -> Iterator[Share]:
    """A guest of an ordinary user's daemon, whose export has what only root may use."""
    export = Path(tempfile.mkdtemp(prefix="v9-user-"))
    daemon = Daemon(
        *("--path", str(export), "--sandbox", "none", "--multidevs", "remap", *logs, *args),
        wrapper=AS_USER,
    )
    try:
        for name, mode in (("secret", 0o600), ("table", 0o644)):
            (export / name).write_bytes(b"")
            (export / name).chmod(mode)
        for name, mode in (("closed", 0o700), ("open", 0o755)):
            (export / name).mkdir()
            (export / name / "entry").mkdir()
            (export / name).chmod(mode)
        (export / "shared").mkdir()
        (export / "shared" / "entry").mkdir()
        (export / "shared").chmod(0o1777)
        for path in (export, daemon.directory):
            os.chown(path, USER, USER)
        with daemon, mounted(daemon, export, n_uname=1000, speaks=speaks) as share:
            yield share
    finally:
        shutil.rmtree(export, ignore_errors=True)


MAY_NOT = f"the daemon's user {USER} may not"


def refused(share: Share) -> list[str]:
    """What a client of either dialect meets, and the lines that follow."""
    client = share.client
    with_u = isinstance(client, DialectUClient)

    def opened(name: bytes, *, write: bool) -> Callable[[], object]:
        fid = client.walk_to(share.root, name)
        if isinstance(client, DialectUClient):
            return lambda: client.open_fid(fid, OWRITE if write else 0)
        return lambda: client.lopen(fid, os.O_RDWR if write else os.O_RDONLY)

    attempt(opened(b"secret", write=False))
    attempt(opened(b"table", write=True))
    attempt(lambda: client.walk(share.root, 90, b"closed", b"entry"))
    closed = client.walk_to(share.root, b"closed")
    attempt(lambda: client.walk(closed, 91, b"entry"))
    attempt(opened(b"closed", write=False))
    entry = client.walk_to(share.root, b"open", b"entry")
    attempt(lambda: client.remove(entry))
    verb = "Topen" if with_u else "Tlopen"
    return [
        f"{verb} '/secret', uid 1000: EACCES: {MAY_NOT} read it: owner 0:0, mode 0600",
        f"{verb} '/table', uid 1000: EACCES: {MAY_NOT} {'' if with_u else 'read and '}write "
        f"{'to ' if with_u else ''}it: owner 0:0, mode 0644",
        f"Twalk '/closed/entry', uid 1000: EACCES: {MAY_NOT} search the directory: "
        "owner 0:0, mode 0700",
        f"Twalk '/closed/entry', uid 1000: EACCES: {MAY_NOT} search the directory: "
        "owner 0:0, mode 0700",
        f"{verb} '/closed', uid 1000: EACCES: {MAY_NOT} read it: owner 0:0, mode 0700",
        "Tremove '/open/entry', uid 1000: EACCES: the host does not let the daemon's user "
        f"{USER} remove entries of the directory",
    ]


@needs_root
@pytest.mark.parametrize("model", MODELS[1:])
@pytest.mark.parametrize("speaks", [Client, DialectUClient])
def test_what_the_mode_of_a_host_file_refuses(model: str, speaks: type[Client]) -> None:
    with users("--security-model", model, speaks=speaks) as share:
        expected = refused(share)
        assert lines(share.daemon) == expected


@needs_root
@pytest.mark.parametrize("model", MODELS[1:])
def test_what_the_acl_of_a_host_file_refuses(model: str) -> None:
    """The host looks at the ACL: of a file that is opened, and of a directory on the way."""
    entries = {OWNER: 7, OWNING_GROUP: 0, (NAMED_USER, USER): 6, MASK: 5, OTHERS: 7}
    with users("--security-model", model) as share:
        set_acl(share.host / "table", entries)
        set_acl(share.host / "open", {**entries, MASK: 7})
        table = share.client.walk_to(share.root, b"table")
        attempt(lambda: share.client.lopen(table, os.O_RDWR))
        share.client.lopen(table, os.O_RDONLY)
        attempt(lambda: share.client.walk_to(share.root, b"open", b"entry"))
        assert lines(share.daemon) == [
            f"Tlopen '/table', uid 1000: EACCES: {MAY_NOT} read and write it: owner 0:0, mode "
            f"0757, and its ACL gives user {USER} rw-, its mask leaves at most r-x",
            f"Twalk '/open/entry', uid 1000: EACCES: {MAY_NOT} search the directory: owner 0:0, "
            f"mode 0777, and its ACL gives user {USER} rw-",
        ]


@needs_root
def test_changes_of_directories_that_belong_to_others() -> None:
    with users("--security-model", "none") as share:
        client, top = share.client, share.client.walk_to(share.root, b"open")
        shared = client.walk_to(share.root, b"shared")
        table = client.walk_to(share.root, b"table")
        attempt(lambda: client.mkdir(top, b"new", gid=100))
        attempt(lambda: client.unlinkat(top, b"entry", 0x200))
        attempt(lambda: client.unlinkat(shared, b"entry", 0x200))
        attempt(lambda: client.setattr(table, SET_MODE, mode=0o666))
        assert lines(share.daemon) == [
            f"Tmkdir '/open/new', uid 1000 gid 100: EACCES: {MAY_NOT} create entries in the "
            "directory: owner 0:0, mode 0755",
            f"Tunlinkat '/open/entry', uid 1000: EACCES: {MAY_NOT} remove entries of the "
            "directory: owner 0:0, mode 0755",
            "Tunlinkat '/shared/entry', uid 1000: EPERM: the directory is sticky: only the owner "
            f"of an entry may remove it, not the daemon's user {USER}",
            "Tsetattr '/table', uid 1000: EPERM: the host lets only its owner change that, not "
            f"the daemon's user {USER}: owner 0:0, mode 0644",
        ]


# ---- when, and how much -------------------------------------------------------------------------


@needs_root
def test_nothing_is_logged_unless_that_is_asked_for() -> None:
    with users("--security-model", "none", logs=()) as share:
        refused(share)
        share.daemon.stop()
        assert not [line for line in share.daemon.lines if "Tlopen" in line or "EACCES" in line]


def test_errors_that_programs_expect_are_left_out(scratch: Path) -> None:
    with served(scratch, *SECURITY) as share:
        ordinary(share)
        assert lines(share.daemon) == []


def ordinary(share: Share) -> None:
    client = share.client
    fid = client.walk_to(share.root, b"file")
    attempt(lambda: client.walk(share.root, 90, b"missing"))
    attempt(lambda: client.mkdir(share.root, b"file"))
    attempt(lambda: client.getxattr(fid, b"user.missing"))
    attempt(lambda: client.walk(fid, 91, b"entry"))


def test_level_debug_logs_them_too(scratch: Path) -> None:
    with served(scratch, *SECURITY, "--log-level", "debug") as share:
        ordinary(share)
        assert lines(share.daemon) == [
            "Tmkdir '/file', uid 0 gid 0: EEXIST: host: File exists",
            "Txattrwalk '/file' attribute 'user.missing', uid 0: ENODATA: host: No data available",
            "Twalk '/file/entry', uid 0: ENOTDIR: host: Not a directory",
        ]


def test_a_guest_cannot_flood_the_log(scratch: Path) -> None:
    with served(scratch, *SECURITY, "--readonly") as share:
        for _ in range(1000):
            attempt(lambda: share.client.mkdir(share.root, b"new"))
        logged_lines = lines(share.daemon)
    assert 100 <= sum(line.startswith("Tmkdir") for line in logged_lines) < 900


def test_a_lock_that_is_refused_after_a_wait(scratch: Path) -> None:
    """It is counted as an error, too."""
    export = scratch / "waits"
    export.mkdir()
    (export / "file").touch()
    wrapper = [sys.executable, "-m", "tests.system.refused_waits"]
    options = ("--path", str(export), *SECURITY, "--log-failures")
    with Daemon(*options, wrapper=wrapper) as daemon:
        with mounted(daemon, export) as share, (export / "file").open("r+") as ours:
            fcntl.lockf(ours, fcntl.LOCK_EX)
            fid = share.client.open(share.root, b"file", os.O_RDWR)
            with pytest.raises(P9Errno, match="No locks available"):
                share.client.wait(share.client.submit_lock(fid, WRLCK))
            (place,) = (each for each in daemons() if each.pid == daemon.pid)
            counts = [each for each in ask(place, {"command": "counts"}) if "counts" in each]
            assert counts[0]["counts"]["errors"] == {str(errno.ENOLCK): 1}
        (line,) = lines(daemon)
        assert line.startswith("Tlock '/file': ENOLCK: ")


def test_names_of_a_guest_add_no_lines(scratch: Path) -> None:
    name = b"a\nvhost9p: WARNING: host0: \x1b[31m\xff\xe2\x80\xae'"
    with served(scratch, *SECURITY, "--readonly") as share:
        attempt(lambda: share.client.mkdir(share.root, name))
        attempt(lambda: share.client.mkdir(share.root, b"x" * 255))
        shown = "a\\x0avhost9p: WARNING: host0: \\x1b[31m\\xff\\xe2\\x80\\xae\\x27"
        assert lines(share.daemon) == [
            f"Tmkdir '/{shown}', uid 0 gid 0: EROFS: readonly export",
            f"Tmkdir '/{'x' * 255}', uid 0 gid 0: EROFS: readonly export",
        ]


def test_a_long_path_is_cut(scratch: Path) -> None:
    deep = Path(*["d" * 200] * 5)
    with served(scratch, *SECURITY, "--readonly") as share:
        (share.export / deep).mkdir(parents=True)
        fid = share.client.walk_to(share.root, *[b"d" * 200] * 5)
        attempt(lambda: share.client.mkdir(fid, b"new"))
        (line,) = lines(share.daemon)
    assert line.startswith("Tmkdir '...ddd")
    assert len(line) < 600


def test_a_file_without_a_name_is_said_to_have_none(scratch: Path) -> None:
    with served(scratch, *SECURITY, "--quota-bytes", "64KiB") as share:
        fid = share.client.create(share.root, b"new")
        share.client.unlinkat(share.root, b"new")
        attempt(
            lambda: (
                share.client.write(fid, 1 << 30, bytes(100 * 1024))
                and share.client.write(fid, 0, b"x")
            )
        )
        assert lines(share.daemon) == [
            "Twrite an unknown place, uid 0: ENOSPC: quota of 64 KiB is used up"
        ]


def test_exports_of_one_tag_are_named(scratch: Path) -> None:
    for name in ("src", "out"):
        (scratch / name).mkdir(exist_ok=True)
        (scratch / name / "file").write_bytes(b"")
    exports = [
        *("--export", f"name=src,path={scratch / 'src'},readonly=on"),
        *("--export", f"name=out,path={scratch / 'out'}"),
    ]
    with (
        Daemon(*exports, *SECURITY, "--log-failures") as daemon,
        mounted(daemon, scratch, n_uname=0) as share,
    ):
        client = share.client
        src = client.walk_to(share.root, b"src")
        out = client.walk_to(share.root, b"out")
        attempt(lambda: client.unlinkat(src, b"file"))
        attempt(lambda: client.renameat(src, b"file", out, b"file"))
        attempt(lambda: client.mkdir(share.root, b"new"))
        assert lines(daemon) == [
            "Tunlinkat '/src/file' in export src, uid 0: EROFS: readonly export",
            "Trenameat '/src/file' to '/out/file' in export src, uid 0: EXDEV: "
            "from one export to another",
            "Tmkdir '/new', uid 0 gid 0: EROFS: readonly export",
        ]


def test_a_new_worker_goes_on_logging(scratch: Path) -> None:
    with served(scratch, *SECURITY, "--readonly") as share:
        attempt(lambda: share.client.mkdir(share.root, b"before"))
        os.kill(share.daemon.worker, signal.SIGKILL)
        attempt(lambda: share.client.mkdir(share.root, b"after"))
        assert lines(share.daemon) == [
            "Tmkdir '/before', uid 0 gid 0: EROFS: readonly export",
            "Tmkdir '/after', uid 0 gid 0: EROFS: readonly export",
        ]


def test_what_python_refuses_has_its_own_words(scratch: Path) -> None:
    with served(scratch, *SECURITY) as share:
        attempt(lambda: share.client.auth(5))
        with pytest.raises(P9Errno) as found:
            share.client.attach(98, aname=b"a\0b")
        assert found.value.errno == errno.EINVAL
        assert lines(share.daemon) == [
            "Tattach '/a\\x00b': EINVAL: the attach name b'a\\x00b' with a NUL"
        ]
