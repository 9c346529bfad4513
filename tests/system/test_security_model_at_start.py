"""The security model follows what the daemon may do, whoever it is: in each case a guest's users
can create and change owners as far as that model says, and the line at start names it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, environment
from tests.ordinary_user import as_ordinary_user
from tests.system.idmapped import UNSUPPORTED
from tests.system.share import AS_USER, IS_ROOT, USER, USER_GROUP, needs_root
from tests.system.share import mounted as mount

CAPS = ("chown", "dac_override", "fowner", "setgid", "setuid")
ALICE = 1000
UID_GID = 1 << 1 | 1 << 2  # Tsetattr's valid bits
PASSTHROUGH = "security_model: passthrough gives files the guest's owners on the host, but"
CHOICES = "choose none (what the daemon may not give away belongs to its own user), mapped-xattr or"


@dataclass(frozen=True)
class Who:
    """Who the daemon is."""

    wrapper: tuple[str, ...]
    owner: tuple[int, int]
    model: str
    lacks: str
    """What passthrough is refused with."""

    @property
    def chowns(self) -> bool:
        """Whether it may give a file away that it has made, whatever the model."""
        return "CAP_CHOWN" not in self.lacks and "namespace" not in self.lacks


def _with_caps(*caps: str) -> tuple[str, ...]:
    said = ",".join(("-all", *(f"+{each}" for each in caps)))
    caps = (f"--inh-caps={said}", f"--ambient-caps={said}")
    return tuple(as_ordinary_user(USER, USER_GROUP, *caps))


def _without(cap: str) -> tuple[str, ...]:
    return ("setpriv", f"--bounding-set=-{cap}", f"--inh-caps=-{cap}")


ALL = "the daemon lacks CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETGID and CAP_SETUID;"
SELF = (os.geteuid(), os.getegid())
WHO = {
    "user": Who(tuple(AS_USER), (USER, USER_GROUP), "none", ALL),
    "in a user namespace": Who(
        ("unshare", "--map-root-user"), SELF, "none",
        "the daemon's user namespace has no uid but its own (/proc/self/uid_map);",
    ),
    "root": Who((), (0, 0), "passthrough", ""),
    "root without a capability": Who(
        _without("setuid"), (0, 0), "none", "the daemon lacks CAP_SETUID;"
    ),
    "root who may not chown": Who(_without("chown"), (0, 0), "none", "the daemon lacks CAP_CHOWN;"),
    "user with capabilities": Who(
        _with_caps(*CAPS, "dac_read_search"), (USER, USER_GROUP), "passthrough", ""
    ),
    "user with too few": Who(
        _with_caps("chown", "fowner", "dac_override", "dac_read_search"), (USER, USER_GROUP),
        "none", "the daemon lacks CAP_SETGID and CAP_SETUID;",
    ),
}  # fmt: skip


@pytest.fixture(params=WHO)
def who(request: pytest.FixtureRequest) -> Who:
    who = WHO[request.param]
    if request.param not in ("user", "in a user namespace") and not IS_ROOT:
        pytest.skip("needs root")
    probe = [*who.wrapper, sys.executable, "-c", "import vhost9p"]
    done = subprocess.run(probe, cwd="/", env=environment({}), check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot be that here: {done.stderr.decode()[-200:]}")
    return who


@pytest.fixture
def place(who: Who) -> Iterator[Path]:
    """An export of the daemon's user."""
    path = Path(tempfile.mkdtemp(prefix="v9-model-"))
    os.chown(path, *who.owner)
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def daemon_of(who: Who, place: Path, *args: str) -> Daemon:
    daemon = Daemon("--path", str(place), *args, wrapper=who.wrapper)
    os.chown(daemon.directory, *who.owner)
    return daemon


def refused(who: Who, place: Path, *args: str) -> str:
    """What is said; nothing is served."""
    daemon = daemon_of(who, place, *args).start(wait=False)
    try:
        assert daemon.wait() == 2, daemon.output
        assert not os.path.lexists(daemon.socket)
        return daemon.output
    finally:
        daemon.kill()


def test_every_user_of_the_guest_can_work_with_the_default_model(who: Who, place: Path) -> None:
    """A share in which every user of the guest can work, however often."""
    with daemon_of(who, place) as daemon:
        assert f"({who.model}, multidevs warn)" in daemon.wait_line("serving")
        for uid in (0, ALICE, 0, ALICE):
            with mount(daemon, place, n_uname=uid) as share:
                client = share.client
                name = b"by-%d-%d" % (uid, len(os.listdir(place)))
                client.clunk(client.create(share.top, name, gid=uid))
                client.mkdir(share.top, name + b"-dir", gid=uid)
                client.symlink(share.top, name + b"-link", b"target", gid=uid)
                given = (uid, uid) if who.model == "passthrough" else who.owner
                for each in (name, name + b"-dir", name + b"-link"):
                    found = os.lstat(share.path(each))
                    assert (found.st_uid, found.st_gid) == given, each
                fid = client.walk_to(share.top, name)
                client.setattr(fid, UID_GID, uid=ALICE + 1, gid=ALICE + 2)
                found = os.lstat(share.path(name))
                given = (ALICE + 1, ALICE + 2) if who.chowns else who.owner
                assert (found.st_uid, found.st_gid) == given


def test_passthrough_is_refused_without_its_rights(who: Who, place: Path) -> None:
    args = ("--security-model", "passthrough")
    if who.lacks:
        assert f"{PASSTHROUGH} {who.lacks} {CHOICES}" in refused(who, place, *args)
        return
    with daemon_of(who, place, *args) as daemon:
        assert "(passthrough, " in daemon.wait_line("serving")


@pytest.mark.parametrize("who", ["user", "root"], indirect=True)
def test_passthrough_in_qemus_string_is_refused_without_its_rights(place: Path, who: Who) -> None:
    text = f"local,path={place},mount_tag=t,security_model=passthrough"
    daemon = Daemon("--virtfs", text, wrapper=who.wrapper)
    os.chown(daemon.directory, *who.owner)
    daemon.start(wait=False)
    try:
        daemon.wait_line(re.escape(f"{PASSTHROUGH} {who.lacks}" if who.lacks else "(passthrough, "))
    finally:
        daemon.kill()


@pytest.mark.parametrize("who", ["user", "in a user namespace"], indirect=True)
def test_a_read_only_export_needs_no_rights(who: Who, place: Path) -> None:
    """Nothing is created, so no owner is given, whatever the model."""
    place.chmod(0o555)
    for args in ((), ("--security-model", "passthrough")):
        with daemon_of(who, place, "--readonly", *args) as daemon:
            model = "passthrough" if args else who.model
            assert f"({model}, multidevs warn, read-only)" in daemon.wait_line("serving")


@pytest.mark.parametrize("who", ["user", "root without a capability"], indirect=True)
def test_other_models_need_no_rights(who: Who, place: Path) -> None:
    for model in ("none", "mapped-xattr", "mapped-file"):
        with daemon_of(who, place, "--security-model", model) as daemon:
            assert f"({model}, " in daemon.wait_line("serving")
            with mount(daemon, place, n_uname=ALICE) as share:
                share.client.clunk(share.client.create(share.top, model.encode(), gid=ALICE))


@pytest.mark.parametrize("who", ["user", "root who may not chown", "root"], indirect=True)
def test_an_id_map_takes_its_own_ids_only(who: Who, place: Path) -> None:
    """It names owners itself: what the daemon can keep is passthrough, else it is refused."""
    own = [
        part
        for kind, number in zip(("uid", "gid"), who.owner, strict=True)
        for part in (f"--map-{kind}=0:{number}:1", f"--forbid-{kind}=1:4294967294")
    ]
    with daemon_of(who, place, *own) as daemon:
        assert "(passthrough, " in daemon.wait_line("serving")
    if who.lacks.startswith("the daemon lacks"):
        others = [each.replace(f"0:{who.owner[0]}:1", "0:77:1") for each in own]
        assert "id_map: uid: host id 77: without CAP_" in refused(who, place, *others)


@needs_root
def test_a_directory_that_the_user_cannot_write_in() -> None:
    """It is refused unless it is read-only, or that is what somebody wants."""
    who = WHO["user"]
    if subprocess.run(
        [*who.wrapper, sys.executable, "-c", "import vhost9p"],
        cwd="/", env=environment({}), check=False, capture_output=True,
    ).returncode:  # fmt: skip
        pytest.skip("an ordinary user may not read this installation of Python")
    place = Path(tempfile.mkdtemp(prefix="v9-model-"))
    place.chmod(0o755)
    try:
        assert (
            f"{place}: the guest cannot change it: it belongs to 0:0 with mode 0o755, "
            f"and the daemon runs as {USER}:{USER_GROUP}; make it read-only (--readonly; in a "
            "file, readonly: true), change the directory, or force it"
        ) in refused(who, place)
        for option in ("--readonly", "--force"):
            with daemon_of(who, place, option):
                pass
    finally:
        place.rmdir()


@needs_root
def test_a_file_system_that_is_mounted_read_only(export: Path) -> None:
    """Not even root can write there."""
    script = f'mount -t tmpfs -o ro none {export} && exec "$@"'
    wrapper = ("unshare", "-m", "sh", "-c", script, "sh")
    daemon = Daemon("--path", str(export), wrapper=wrapper).start(wait=False)
    try:
        assert daemon.wait() == 2
        assert (
            "its file system is mounted read-only; make it read-only (--readonly" in daemon.output
        )
    finally:
        daemon.kill()
    with Daemon("--path", str(export), "--readonly", wrapper=wrapper):
        pass


@contextmanager
def idmapped(export: Path, disk: int, mounted: int, count: int, *args: str) -> Iterator[Daemon]:
    """A daemon that sees the export through a mount with other ids."""
    wrapper = ("unshare", "-m", sys.executable, "-m", "tests.system.idmapped", str(export))
    ids = [str(each) for each in (disk, mounted, count)]
    daemon = Daemon("--path", str(export), *args, wrapper=(*wrapper, *ids)).start(wait=False)
    try:
        daemon.wait_line("serving|vhost9p: |system call")
        if not daemon.alive and daemon.wait() == UNSUPPORTED:
            pytest.skip(daemon.output)
        yield daemon
    finally:
        daemon.kill()


@needs_root
def test_a_mount_with_the_daemons_id_alone(export: Path) -> None:
    """Root is not enough there: owners cannot be set, so what every user creates is root's."""
    os.chown(export, 500, 500)
    with idmapped(export, 500, 0, 1) as daemon:
        assert "(none, multidevs warn)" in daemon.wait_line("serving")
        with mount(daemon, export, n_uname=ALICE) as share:
            client = share.client
            client.clunk(client.create(share.top, b"f", gid=ALICE))
            client.mkdir(share.top, b"d", gid=ALICE)
            client.symlink(share.top, b"l", b"f", gid=ALICE)
            client.setattr(client.walk_to(share.top, b"f"), UID_GID, uid=ALICE, gid=ALICE)
            for name in ("f", "d", "l"):
                found = os.lstat(export / name)
                assert (found.st_uid, found.st_gid) == (500, 500)
        daemon.stop()
    with idmapped(export, 500, 0, 1, "--security-model", "passthrough") as daemon:
        assert daemon.wait() == 2
        assert f"{PASSTHROUGH} the file system of {export} does not let it set" in daemon.output


@needs_root
def test_a_mount_with_many_ids(export: Path) -> None:
    """Owners can be set, and are what the mount makes of them."""
    os.chown(export, 100000, 100000)
    with idmapped(export, 100000, 0, 65536) as daemon:
        assert "(passthrough, multidevs warn)" in daemon.wait_line("serving")
        with mount(daemon, export, n_uname=ALICE) as share:
            share.client.clunk(share.client.create(share.top, b"f", gid=ALICE))
            found = os.lstat(export / "f")
            assert (found.st_uid, found.st_gid) == (100000 + ALICE, 100000 + ALICE)
        daemon.stop()


@needs_root
def test_a_mount_without_the_daemons_id(export: Path) -> None:
    with idmapped(export, 0, 1000, 1) as daemon:
        assert daemon.wait() == 2
        assert "it is on an idmapped mount without the daemon's own id" in daemon.output


@needs_root
def test_each_export_has_its_own(scratch: Path) -> None:
    """The line names the model of each."""
    for name in ("one", "two"):
        (scratch / f"model-{name}").mkdir()
    daemon = Daemon(
        "--export", f"name=a,path={scratch}/model-one",
        "--export", f"name=b,path={scratch}/model-two,security_model=mapped-xattr",
    )  # fmt: skip
    with daemon:
        line = daemon.wait_line("serving")
        assert f"a: {scratch}/model-one (passthrough)" in line
        assert f"b: {scratch}/model-two (mapped-xattr)" in line
