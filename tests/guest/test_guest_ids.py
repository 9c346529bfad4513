"""Mapped ids and stored attributes, as a guest's users and programs meet them."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, Mounted, scratch_export
from tests.guest.test_posix import AS_USER, USER

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
]

ALICE, BOB, CAROL = 1000, 1001, 1002
NOBODY = 65534
NONE = 0xFFFFFFFF
MAKE = "cd {0}; echo x > f; mkdir d; ln -s f l; mkfifo p; stat -c '%u %g' f d l p | sort -u"


@contextmanager
def shared(boot: Boot, *args: str, user: bool = False) -> Iterator[Mounted]:
    """A guest with an export mounted so that it keeps access lists; `user`: served by a daemon of
    an ordinary user, whose the export is."""
    with scratch_export() as export:
        daemon = Daemon(
            "--path", str(export), "--multidevs", "remap", *args, wrapper=AS_USER if user else ()
        )
        for path in (export, daemon.directory):
            os.chown(path, USER if user else 0, USER if user else 0)
        with daemon:
            vm = boot("full", [Path(daemon.socket)])
            vm.mount("host0", MOUNT, options="posixacl")
            yield Mounted(daemon, export, vm)
            vm.kill()


def owners(folder: Path) -> set[tuple[int, int]]:
    """Of all entries, on the host."""
    return {(entry.stat(follow_symlinks=False).st_uid, entry.stat(follow_symlinks=False).st_gid)
            for entry in os.scandir(folder)}  # fmt: skip


def test_users_of_a_guest_are_others_on_the_host(boot: Boot) -> None:
    """Root and two users are mapped, owners and groups differently; the third user is not."""
    maps = [
        "--map-uid",
        "0:100000:1",
        "--map-uid",
        f"{ALICE}:500:2",
        "--map-gid",
        f"0:200000:{CAROL}",
    ]
    maps += ["--forbid-uid", "1:999", "--forbid-uid", f"{CAROL}:{NONE - CAROL}"]
    maps += ["--forbid-gid", f"{CAROL}:{NONE - CAROL}"]
    with shared(boot, *maps) as share:
        for user, host in ((0, (100000, 200000)), (ALICE, (500, 201000)), (BOB, (501, 201001))):
            (share.export / str(user)).mkdir(mode=0o777)
            os.chown(share.export / str(user), *host)
            said = share.vm.run(MAKE.format(f"{MOUNT}/{user}"), uid=user, gid=user).text
            assert said == f"{user} {user}"
            assert owners(share.export / str(user)) == {host}
        assert share.vm.run(f"ls {MOUNT}", uid=CAROL, gid=CAROL, check=False).returncode != 0
        assert share.sh("stat -c '%u %g' .") == f"{NOBODY} {NOBODY}"  # the host's root is no one
        share.sh(f"cd 0; chown {ALICE}:{BOB} f")
        status = os.stat(share.export / "0" / "f")
        assert (status.st_uid, status.st_gid) == (500, 201001)
        for owner in (f"{CAROL}", f":{CAROL}", "500", "100000"):
            assert "not permitted" in share.sh(f"chown {owner} 0/f 2>&1 || :")
        share.sh(f"setfacl -m u:{BOB}:rw,g:{ALICE}:r {ALICE}/f")
        kept = os.getxattr(share.export / str(ALICE) / "f", "system.posix_acl_access")
        named = {(tag, number) for tag, _, number in struct.iter_unpack("<HHI", kept[4:])}
        assert {(2, 501), (8, 201000)} <= named
        share.remount(options="posixacl")
        listed = share.sh(f"getfacl -n {ALICE}/f")
        assert f"user:{BOB}:rw-" in listed and f"group:{ALICE}:r--" in listed
        assert "not permitted" in share.sh(f"setfacl -m u:{CAROL}:rw 0/f 2>&1 || :")


def test_guest_roots_files_are_the_daemon_users(boot: Boot) -> None:
    """Guest root's files are the daemon's user's, and its privileged attributes are kept."""
    rules = ("security.=store:user.guest.security.", "trusted.=store:user.guest.trusted.")
    args = ["--map-uid", f"0:{USER}:1", "--map-gid", f"0:{USER}:1"]
    args += ["--forbid-uid", f"1:{NONE - 1}", "--forbid-gid", f"1:{NONE - 1}"]
    args += [word for rule in rules for word in ("--xattr-rule", rule)]
    with shared(boot, *args, user=True) as share:
        share.sh("mkdir own")
        assert share.vm.run(MAKE.format(f"{MOUNT}/own")).text == "0 0"
        assert owners(share.export / "own") == {(USER, USER)}
        share.sh("mkdir t; cp -a /usr/bin/true t/true; chown -R 0:0 t; tar cf t.tar t")
        share.sh("mkdir out; tar xf t.tar -C out; cmp out/t/true /usr/bin/true")
        assert "not permitted" in share.sh(f"chown {ALICE} t 2>&1 || :")
        share.sh("git init -q r; cd r; git config user.email a@b; git config user.name n")
        share.sh("cd r; echo 1 > f; git add f; git commit -qm x; git fsck --strict")

        share.sh("setfattr -n trusted.x -v 1 t/true; setcap cap_net_raw+ep t/true")
        program = share.export / "t" / "true"
        stored = {"user.guest.trusted.x", "user.guest.security.capability"}
        assert set(os.listxattr(program)) == stored
        assert share.sh("getfattr -d -m trusted t/true | grep x=") == 'trusted.x="1"'
        assert "cap_net_raw" in share.sh("getcap t/true")
        assert share.sh("getcap t/true", uid=0) and share.sh("t/true && echo runs") == "runs"
        share.sh("echo >> t/true")
        assert set(os.listxattr(program)) == {"user.guest.trusted.x"}
        assert share.sh("getcap t/true") == ""
