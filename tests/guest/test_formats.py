"""mapped-xattr and mapped-file are QEMU's formats: what one server writes the other one reads.

One guest mounts two directories, each through QEMU's own server and through vhost9p. The same
commands make a tree in each, by one server in the first and by the other in the second, and go on
to change it. Then the two trees must be the same byte for byte on the host, and each must look the
same through the other server, which has not made it. What host processes have put into both
beforehand, which has no metadata, belongs to it.
"""

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import scratch_export
from tests.guest.vm import VM, Virtfs

pytestmark = [
    pytest.mark.guest,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="the host's device nodes and owners need root"),
]

MODELS = ("mapped-xattr", "mapped-file")
SERVERS = ("qemu", "vhost9p")
OTHERS = SERVERS[::-1]

MAKE = """
umask 022
echo data > regular; : > empty; mkdir dir dir/sub; echo deep > dir/sub/f
ln -s /some/where link; ln -s "$(head -c 4000 /dev/zero | tr '\\0' x)" long
ln -s regular dir/sub/link; ln -s nowhere dangling
mknod char c 5 300; mknod high c 511 1048575; mknod block b 259 4097; mknod zero c 0 0
mkfifo fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
modes="0 1 7 70 400 644 755 1777 2711 4755 6711 7777"
mkdir $(printf "dir%s " $modes)
for mode in $modes; do echo $mode > file$mode; chmod $mode file$mode dir$mode; done
echo x > owned; chown 1234:5678 owned; chown 4000000000:4294967294 dir1777
chown -h 13:14 link; chown 1:2 char fifo; chown :77 empty
echo x > hard1; ln hard1 hard2; ln hard1 dir/hard3; chmod 640 hard2; chown 3 dir/hard3
ln char hardchar; ln link hardlink
setfacl -m u:1000:rwx,g:1001:r,m:rx regular
setfacl -m u:1000:rwx dir; setfacl -d -m u:1001:rx,g::r dir
echo inherits > dir/acl; mkdir dir/acldir; echo x > dir/acldir/f
echo gone > noacl; setfacl -m u:1:r noacl; setfacl -b noacl
setfattr -n user.one -v value regular
setfattr -n user.two -v "$(head -c 300 /dev/zero | tr '\\0' y)" dir
mkdir -m 2775 setgid; chown 0:1001 setgid; echo x > setgid/f; mkdir setgid/d
echo odd > "$(printf 'odd\\nname \\377')"; echo x > .hidden
"""
MAKE_AS_ALICE = "umask 077; mkdir dir7777/a; echo x > dir7777/a/f; ln -s x dir7777/l; ls -R dir7777"
CHANGE = """
echo x > r1; chown 7 r1; mv r1 r2; mv r2 dir/r3; mkdir moved; echo x > moved/f; mv moved dir/
echo a > over; chown 8 over; echo b > target; chown 9 target; mv over target
ln -s x l1; mv l1 l2; mknod n1 c 1 3; mv n1 dir/n2; mkdir e1 e2; mv e1 e2; mkdir e3 e4; mv -T e3 e4
echo x > u; rm u; mkdir gone; touch gone/f; rm gone/f; rmdir gone; mkdir twice; rmdir twice
echo x > again; chown 10 again; rm again; echo y > again
chown 21:22 byhost; chmod 4700 byhost; chmod 750 hostdir; echo x > hostdir/f; mv hostfile2 renamed
rm hard2; echo more >> regular; : > file644; truncate -s 100 owned; touch -d @1000000 empty
chmod 600 .; chown 5:6 .; chmod 755 .
"""
LOOK = """
entries() { find . "$@" -print0 | sort -z; }
find . -printf '%y %P\\n' | sort
find . -printf '%p|%y|%m|%U|%G|%s|%n|%l\\n' | sort
entries | xargs -0 stat -c '%n|%F|%t:%T'
entries ! -type l | xargs -0 getfacl -npE
entries ! -type l | xargs -0 getfattr -d
entries -type f | xargs -0 md5sum
"""
"""Types as listings tell them, attributes, device numbers, access lists, user.*, contents."""


def seed(root: Path) -> None:
    """What host processes have left: the same in both directories."""
    (root / "byhost").write_text("host")
    (root / "byhost").chmod(0o4711)
    (root / "hostfile2").write_text("more")
    os.chown(root / "hostfile2", 1000, 1001)
    (root / "hostdir").mkdir(mode=0o711)
    (root / "hostdir" / "inside").write_text("x")
    os.symlink("byhost", root / "hostlink")
    os.mkfifo(root / "hostfifo", 0o640)
    os.mknod(root / "hostchar", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(root)
        sock.bind("hostsock")
        os.chdir(here)


class Entry(NamedTuple):
    """What the host has of one entry."""

    kind: str
    owner: tuple[int, int]
    links: int
    content: bytes
    attributes: dict[str, bytes]


def entries(root: Path) -> dict[str, Entry]:
    """A whole tree as the host has it, metadata files included."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in (b".", *folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            names = os.listxattr(path, follow_symlinks=False)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = Entry(
                stat.filemode(status.st_mode),
                (status.st_uid, status.st_gid),
                status.st_nlink,
                content,
                {each: os.getxattr(path, each, follow_symlinks=False) for each in names},
            )
    return found


class Both:
    """A guest with both directories of one model."""

    def __init__(self, vm: VM, roots: dict[str, Path]) -> None:
        self.vm = vm
        self.roots = roots

    def run(self, maker: str, script: str, reader: str = "", uid: int = 0) -> str:
        """Runs a script in `maker`'s directory, through the server `reader` (else its maker)."""
        where = f"/mnt/{maker}-by-{reader or maker}"
        words = ("/usr/bin/bash", "-c", f"set -e; cd {where}; {script}")
        return self.vm.run(words, uid=uid, gid=uid, timeout=300).text


@pytest.fixture(scope="module", params=MODELS)
def both(boot_shared: Boot, request: pytest.FixtureRequest) -> Iterator[Both]:
    model = request.param
    with scratch_export() as top:
        roots = {name: top / name for name in SERVERS}
        for root in roots.values():
            root.mkdir()
            root.chmod(0o755)
            seed(root)
        options = ("--security-model", model, "--multidevs", "remap")
        with (
            Daemon("--path", str(roots["qemu"]), *options, "--tag", "a") as one,
            Daemon("--path", str(roots["vhost9p"]), *options, "--tag", "b") as other,
        ):
            vm = boot_shared.qemu(
                "full",
                [Path(one.socket), Path(other.socket)],
                [Virtfs(roots["qemu"], "c", model), Virtfs(roots["vhost9p"], "d", model)],
            )
            mounts = {
                "a": "qemu-by-vhost9p",
                "b": "vhost9p-by-vhost9p",
                "c": "qemu-by-qemu",
                "d": "vhost9p-by-qemu",
            }
            for tag, where in mounts.items():
                vm.mount(tag, f"/mnt/{where}", options="posixacl")
            yield Both(vm, roots)
            vm.kill()


def same_trees(both: Both, readers: Sequence[str]) -> None:
    """Neither what a guest sees in QEMU's directory and in ours, through these servers, nor what
    the host has differs."""
    looks = {
        (maker, reader): both.run(maker, LOOK, reader)
        for maker, reader in zip(SERVERS, readers, strict=True)
    }
    first = looks["qemu", readers[0]]
    assert first.count("# owner: ") > 50
    for key, look in looks.items():
        assert look.splitlines() == first.splitlines(), key
    trees = {name: entries(root) for name, root in both.roots.items()}
    assert sorted(trees["vhost9p"]) == sorted(trees["qemu"])
    differing = {
        name: (trees["vhost9p"][name], entry)
        for name, entry in trees["qemu"].items()
        if trees["vhost9p"][name] != entry
    }
    assert differing == {}


def test_what_each_server_makes_is_the_same(both: Both) -> None:
    for maker in SERVERS:
        both.run(maker, MAKE)
        both.run(maker, MAKE_AS_ALICE, uid=1000)
    same_trees(both, OTHERS)
    for maker in SERVERS:
        both.run(maker, CHANGE)
    same_trees(both, ["vhost9p", "vhost9p"])
    # And each goes on with what the other one has made.
    for maker, other in zip(SERVERS, OTHERS, strict=True):
        both.run(maker, SWAPPED, other)
    same_trees(both, OTHERS)


SWAPPED = """
chmod 604 owned; chown -h 31:32 link char fifo sock; mv link dir/link2; mv dir/sub dir/sub2
ln hard1 hard4; chmod 611 hard4; rm hard1; rm -r dir/moved dir7; rmdir dir70
setfacl -m u:1002:r regular; setfacl -x u:1000 dir; rm file7777; echo x > dir/sub2/new
mknod dir/chr2 c 4 64; mv target file755; ln -s y file7x; mv file7x file70
"""
