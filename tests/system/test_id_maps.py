"""Ids of guest and host in every request that carries one."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.system.share import USER, USER_GROUP, Share, as_user, fails, mounted, needs_root

NOBODY = 65534
NONE = 0xFFFFFFFF
ONE = ["--map-uid", f"0:{USER}:1", "--map-gid", f"0:{USER_GROUP}:1"]
ONE += ["--forbid-uid", f"1:{NONE - 1}", "--forbid-gid", f"1:{NONE - 1}"]
UID, GID = 1 << 1, 1 << 2  # Tsetattr's valid bits

# Guest 0 to 9 are 100000 on; guest 1000 is 500. Groups elsewhere, to tell the two apart. REST is
# the guest's other ids: each has to be in a range, forbidden, or squashed.
MAP = (
    *("--map-uid", "0:100000:10", "--map-uid", "1000:500:1"),
    *("--map-gid", "0:200000:10", "--map-gid", "1000:600:1"),
)
REST_UID = ("--forbid-uid", "10:990", "--forbid-uid", f"1001:{NONE - 1001}")
REST_GID = ("--forbid-gid", "10:990", "--forbid-gid", f"1001:{NONE - 1001}")
REST = (*REST_UID, *REST_GID)
SQUASH = ("--squash-uid", "7777", "--squash-gid", "8888")


@contextmanager
def mapped(
    path: Path, *args: str, n_uname: int = 0, speaks: type[Client] = Client
) -> Iterator[Share]:
    """A guest whose ids are mapped, on an empty directory of the host."""
    export = path / "export"
    export.mkdir(exist_ok=True)
    with Daemon("--path", str(export), "--multidevs", "remap", *args) as daemon:  # noqa: SIM117
        with mounted(daemon, export, n_uname=n_uname, speaks=speaks) as share:
            yield share


def owner(share: Share, name: bytes) -> tuple[int, int]:
    """The host's."""
    status = os.lstat(share.path(name))
    return status.st_uid, status.st_gid


def shown(share: Share, name: bytes) -> tuple[int, int]:
    """The guest's."""
    fid = share.client.walk_to(share.top, name)
    attr = share.client.getattr(fid)
    share.client.clunk(fid)
    return attr.uid, attr.gid


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid", "host"),
    [(0, 0, (100000, 200000)), (9, 3, (100009, 200003)), (1000, 1000, (500, 600))],
)
def test_what_is_created(tmp_path: Path, uid: int, gid: int, host: tuple[int, int]) -> None:
    with mapped(tmp_path, *MAP, *REST, n_uname=uid) as share:
        os.chmod(share.export, 0o777)
        client, top = share.client, share.top
        client.clunk(client.create(top, b"create", gid=gid))
        client.mkdir(top, b"mkdir", gid=gid)
        client.mknod(top, b"mknod", stat.S_IFIFO | 0o600, gid=gid)
        client.symlink(top, b"symlink", b"target", gid=gid)
        for name in (b"create", b"mkdir", b"mknod", b"symlink"):
            assert owner(share, name) == host
            assert shown(share, name) == (uid, gid)


@needs_root
def test_groups_that_the_guest_does_not_have(tmp_path: Path) -> None:
    with mapped(tmp_path, *MAP, *REST) as share:
        client, top = share.client, share.top
        for gid in (10, 999, NOBODY, 200000):
            with fails(errno.EPERM):
                client.create(top, b"n", gid=gid)
            with fails(errno.EPERM):
                client.mkdir(top, b"n", gid=gid)
            with fails(errno.EPERM):
                client.mknod(top, b"n", stat.S_IFIFO, gid=gid)
            with fails(errno.EPERM):
                client.symlink(top, b"n", b"t", gid=gid)
        assert os.listdir(share.export) == []


@needs_root
def test_users_that_the_guest_does_not_have(tmp_path: Path) -> None:
    with mapped(tmp_path, *MAP, *REST) as share:
        for uid in (10, 999, 1001, 100000, NOBODY, NONE - 1):
            with fails(errno.EPERM):
                share.client.attach(share.client.new_fid(), uid)
        for uid in (0, 9, 1000, NONE):
            share.client.attach(share.client.new_fid(), uid)


@needs_root
def test_unmapped_ids_are_squashed(tmp_path: Path) -> None:
    squash = (*MAP, *SQUASH, "--forbid-uid", "55:2", "--forbid-gid", "66:1")
    with mapped(tmp_path, *squash, n_uname=4321) as share:
        os.chmod(share.export, 0o777)
        share.client.mkdir(share.top, b"d", gid=4321)
        assert owner(share, b"d") == (7777, 8888)
        assert shown(share, b"d") == (NOBODY, NOBODY)
        with fails(errno.EPERM):
            share.client.attach(share.client.new_fid(), 56)
        with fails(errno.EPERM):
            share.client.mkdir(share.top, b"e", gid=66)


@needs_root
@pytest.mark.parametrize(
    ("args", "host"),
    [
        ((*MAP, *REST), (100000, 200000)),
        ((*MAP, "--map-uid", "20:0:1", "--map-gid", "20:0:1", *SQUASH), (0, 0)),
        (("--map-uid", "5:500:1", "--map-gid", "5:600:1", *SQUASH), (7777, 8888)),
        (("--map-uid", "5:500:1", "--forbid-uid", "0:5", "--squash-uid", "7777"), None),
    ],
)
def test_nobody_named_is_nobody_else(
    tmp_path: Path, args: tuple[str, ...], host: tuple[int, int] | None
) -> None:
    """A guest that names no user does not become the host's root, whom its map does not have."""
    groups = () if host else ("--map-gid", f"0:0:{NONE}")
    with mapped(tmp_path, *args, *groups, n_uname=NONE) as share:
        os.chmod(share.export, 0o777)
        client, top = share.client, share.top
        if host is None:
            with fails(errno.EPERM):
                client.create(top, b"f", mode=0o4755, gid=0)
            assert os.listdir(share.export) == []
        else:
            client.clunk(client.create(top, b"f", mode=0o6755, gid=NONE))
            assert owner(share, b"f") == host


@needs_root
def test_hosts_ids_that_no_range_has(tmp_path: Path) -> None:
    with mapped(tmp_path, *MAP, *REST) as share:
        for host, guest in (
            ((0, 0), (NOBODY, NOBODY)),
            ((99999, 200010), (NOBODY, NOBODY)),
            ((100000, 200009), (0, 9)),
            ((200000, 100000), (NOBODY, NOBODY)),
            ((500, 600), (1000, 1000)),
        ):
            os.chown(share.put("f"), *host)
            assert shown(share, b"f") == guest


@needs_root
def test_chown_maps_ids(tmp_path: Path) -> None:
    with mapped(tmp_path, *MAP, *REST) as share:
        share.put("f")
        fid = share.client.walk_to(share.top, b"f")
        share.client.setattr(fid, UID | GID, uid=9, gid=1000)
        assert owner(share, b"f") == (100009, 600)
        share.client.setattr(fid, GID, uid=5555, gid=2)
        assert owner(share, b"f") == (100009, 200002)
        share.client.setattr(fid, UID | GID, uid=0, gid=NONE)
        assert owner(share, b"f") == (100000, 200002)
        for valid, ids in ((UID, (10, 0)), (GID, (0, 10)), (UID | GID, (0, 1001)), (UID, (500, 0))):
            with fails(errno.EPERM):
                share.client.setattr(fid, valid, uid=ids[0], gid=ids[1])
        assert owner(share, b"f") == (100000, 200002)


@needs_root
def test_ids_are_mapped_in_9p2000u(tmp_path: Path) -> None:
    """Numbers and texts of Tstat and of directories, and Twstat. Tcreate names no group."""
    with mapped(tmp_path, *MAP, *REST, n_uname=1000, speaks=DialectUClient) as share:
        os.chmod(share.export, 0o777)
        client = share.client
        assert isinstance(client, DialectUClient)
        client.make(share.top, b"f")
        assert owner(share, b"f") == (500, 200000)
        os.chown(share.path("f"), 100003, 200004)
        opened = client.walk_open(share.top)
        listed = [each for each in client.stats(opened) if each.name == b"f"]
        for found in (client.stat(share.top, b"f"), listed[0]):
            assert (found.n_uid, found.n_gid, found.uid, found.gid) == (3, 4, b"3", b"4")
        fid = client.walk_to(share.top, b"f")
        client.wstat(fid, n_uid=0, n_gid=1000)
        assert owner(share, b"f") == (100000, 600)
        client.wstat(fid, uid=b"9")
        assert owner(share, b"f") == (100009, 600)
        for wanted in ({"n_uid": 10}, {"n_gid": 10}, {"gid": b"10"}):
            with fails(errno.EPERM):
                client.wstat(fid, **wanted)
        with fails(errno.EPERM):
            client.attach(client.new_fid(), 10)
        assert owner(share, b"f") == (100009, 600)


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def with_named(user: int, group: int) -> bytes:
    return access_list(
        (1, 7, NONE), (2, 6, user), (4, 5, NONE), (8, 4, group), (0x10, 7, NONE), (0x20, 0, NONE)
    )


@needs_root
def test_ids_in_access_lists_are_mapped(tmp_path: Path) -> None:
    with mapped(tmp_path, *MAP, *REST) as share:
        os.mkdir(share.path("d"))
        fid = share.client.walk_to(share.top, b"d")
        for name in ("system.posix_acl_access", "system.posix_acl_default"):
            share.client.setxattr(fid, name.encode(), with_named(1000, 3))
            assert os.getxattr(share.path("d"), name) == with_named(500, 200003)
            assert share.client.getxattr(fid, name.encode()) == with_named(1000, 3)
            with fails(errno.EPERM):
                share.client.setxattr(fid, name.encode(), with_named(1000, 10))
            os.setxattr(share.path("d"), name, with_named(7, 8))
            assert share.client.getxattr(fid, name.encode()) == with_named(NOBODY, NOBODY)
            share.client.removexattr(fid, name.encode())


@needs_root
def test_a_guests_root_gives_capabilities_for_itself_only(tmp_path: Path) -> None:
    """On the host they hold where the guest's root is root, not for everybody."""
    name = b"security.capability"
    plain = struct.pack("<I16s", 0x02000001, bytes([0, 4, *bytes(14)]))
    rooted = struct.pack("<I", 0x03000001) + plain[4:]
    with mapped(tmp_path, *MAP, *REST) as share:
        share.put("f")
        fid = share.client.walk_to(share.top, b"f")
        share.client.setxattr(fid, name, plain)
        assert os.getxattr(share.path("f"), name) == rooted + struct.pack("<I", 100000)
        assert share.client.getxattr(fid, name) == plain
        os.setxattr(share.path("f"), name, plain)
        assert share.client.getxattr(fid, name) == rooted + struct.pack("<I", NOBODY)


@needs_root
def test_the_guests_root_is_who_keeps_set_ids_when_it_writes(tmp_path: Path) -> None:
    """Whoever it is on the host; and root of the host is nobody in particular in the guest."""
    for uid, left in ((0, 0o4755), (1000, 0o755)):
        maps = ["--map-uid", "0:500:1", "--map-uid", "1000:0:1", "--map-gid", "0:0:1"]
        maps += ["--squash-uid", "7777", "--squash-gid", "8888"]
        with mapped(tmp_path, *maps, n_uname=uid) as share:
            os.chmod(share.put("f"), 0o4755)
            fid = share.client.open(share.top, b"f", os.O_WRONLY)
            share.client.write(fid, 0, b"x")
            assert stat.S_IMODE(os.stat(share.path("f")).st_mode) == left


SEVERAL = """
state_dir: {folder}/state
socket: {socket}
exports:
  - name: one
    path: {folder}/one
    id_map: {{uid: [{{guest: 0, host: 100, count: 1}}], squash_to: {{uid: 7, gid: 8}}}}
  - name: two
    path: {folder}/two
    id_map:
      uid: [{{guest: 0, host: 200, count: 1}}]
      gid: [{{guest: 0, host: 300, count: 1}}]
      forbid: {{uid: [{{guest: 1, count: {rest}}}], gid: [{{guest: 1, count: {rest}}}]}}
"""


@needs_root
def test_each_of_several_exports_has_its_map(tmp_path: Path) -> None:
    config = tmp_path / "vm.yaml"
    daemon = Daemon("--config", str(config), socket=False)
    config.write_text(SEVERAL.format(folder=tmp_path, socket=daemon.socket, rest=NONE - 1))
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        folder.chmod(0o777)
    with daemon, mounted(daemon, tmp_path, n_uname=0) as share:
        client = share.client
        for name, host in ((b"one", (100, 8)), (b"two", (200, 300))):
            client.mkdir(client.walk_to(share.top, name), b"d")
            assert owner(share, name + b"/d") == host
        other = client.new_fid()
        client.attach(other, 5)  # the whole: each export's map holds below its directory
        client.mkdir(client.walk_to(other, b"one"), b"e")
        assert owner(share, b"one/e") == (7, 8)
        with fails(errno.EPERM):
            client.walk_to(other, b"two")
        client.attach(client.new_fid(), 5, aname=b"one")
        with fails(errno.EPERM):
            client.attach(client.new_fid(), 5, aname=b"two")


FORBIDDEN = 5
WAYS_IN = [(b"two",), (b"one", b"..", b"two"), (b"two", b"d"), (b"two", b".."), (b"two", b"lost")]


@contextmanager
def several(folder: Path, speaks: type[Client]) -> Iterator[tuple[Share, Client, int]]:
    """A guest with two exports, of which "two" forbids a user, and his fid of the top."""
    config = folder / "vm.yaml"
    daemon = Daemon("--config", str(config), socket=False)
    config.write_text(SEVERAL.format(folder=folder, socket=daemon.socket, rest=NONE - 1))
    for name in ("one", "two"):
        (folder / name / "d").mkdir(parents=True)
    with daemon, mounted(daemon, folder, n_uname=0, speaks=speaks) as share:
        top = share.client.new_fid()
        share.client.attach(top, FORBIDDEN)
        yield share, share.client, top


@needs_root
@pytest.mark.parametrize("speaks", [Client, DialectUClient])
@pytest.mark.parametrize("names", WAYS_IN, ids=lambda names: b"-".join(names).decode())
def test_no_walk_leads_a_forbidden_user_in(
    tmp_path: Path, speaks: type[Client], names: tuple[bytes, ...]
) -> None:
    """From the top, and from a neighbour's root; at once, and name by name; to a new fid and to
    the same. A walk tells nothing of what lies behind, not even whether it is there."""
    with several(tmp_path, speaks) as (_, client, top):
        crossing = names.index(b"two")
        if crossing:
            assert len(client.walk(top, client.new_fid(), *names)) == crossing
        else:
            with fails(errno.EPERM):
                client.walk(top, client.new_fid(), *names)
        fid = client.walk_to(top)
        for name in names[:crossing]:
            assert len(client.walk(fid, fid, name)) == 1
        for newfid in (fid, client.new_fid()):
            with fails(errno.EPERM):
                client.walk(fid, newfid, *names[crossing:])
        client.clunk(fid)
        for aname in (b"two", b"/two", b"./two", b"../two", b"two/d", b"two/lost", b"one/../two"):
            with fails(errno.EPERM, errno.EXDEV):
                client.attach(client.new_fid(), FORBIDDEN, aname=aname)
        with fails(errno.EPERM):
            client.attach(client.new_fid(), FORBIDDEN, aname=b"two/lost")
        assert client.walk_to(share_root := client.walk_to(top, b"one"), b"d") != share_root


@needs_root
@pytest.mark.parametrize("speaks", [Client, DialectUClient])
def test_a_forbidden_user_sees_the_name_and_nothing_of_the_export(
    tmp_path: Path, speaks: type[Client]
) -> None:
    with several(tmp_path, speaks) as (share, client, top):
        os.chmod(share.path("two"), 0o1771)
        (qid,) = client.walk(share.root, client.new_fid(), b"two")
        for user, same in ((share.root, True), (top, False)):
            if isinstance(client, DialectUClient):
                stats = {each.name: each for each in client.stats(client.walk_open(user))}
                assert sorted(stats) == [b".", b"..", b"one", b"two"]
                assert (stats[b"two"].mode & 0o777 == 0o771) is same
                assert (stats[b"two"].qid.path == qid.path) is same
            else:
                listed = client.listing(user)
                assert sorted(listed) == [b"one", b"two"]
                assert (listed[b"two"].qid.path == qid.path) is same
                assert listed[b"two"].type == listed[b"one"].type


def test_mapped_models_keep_the_hosts_ids() -> None:
    """Beside the files of an ordinary user, who may not give them to anybody."""
    with as_user("--security-model", "mapped-xattr", *MAP, *REST) as share:
        client, top = share.client, share.top

        def kept() -> tuple[int, int]:
            values = (
                os.getxattr(share.path("d"), f"user.virtfs.{kind}") for kind in ("uid", "gid")
            )
            uid, gid = (int.from_bytes(value, "little") for value in values)
            return uid, gid

        client.mkdir(top, b"d", gid=1000)
        assert kept() == (100000, 600)
        assert shown(share, b"d") == (0, 1000)
        client.setattr(client.walk_to(top, b"d"), UID, uid=1000)
        assert kept() == (500, 600)
        with fails(errno.EPERM):
            client.setattr(client.walk_to(top, b"d"), GID, gid=10)
        os.setxattr(share.path("d"), "user.virtfs.uid", (1).to_bytes(4, "little"))
        assert shown(share, b"d") == (NOBODY, 1000)


@pytest.mark.parametrize("model", ["passthrough", "none"])
def test_one_guest_id_to_oneself(model: str) -> None:
    """What an ordinary user can have: guest root's files are the daemon's user's."""
    with as_user("--security-model", model, *ONE) as share:
        client, top = share.client, share.top
        client.clunk(client.create(top, b"f", mode=0o4755))
        client.mkdir(top, b"d")
        client.symlink(top, b"l", b"f")
        client.mknod(top, b"p", stat.S_IFIFO | 0o600)
        for name in (b"f", b"d", b"l", b"p"):
            assert owner(share, name) == (USER, USER_GROUP)
            assert shown(share, name) == (0, 0)
        assert stat.S_IMODE(os.stat(share.path(b"f")).st_mode) == 0o4755
        fid = client.walk_to(top, b"f")
        client.setattr(fid, UID | GID, uid=0, gid=0)
        for other in (1, USER):
            with fails(errno.EPERM):
                client.setattr(fid, UID, uid=other)
            with fails(errno.EPERM):
                client.attach(client.new_fid(), other)
