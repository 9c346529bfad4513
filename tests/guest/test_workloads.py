"""What people do with a file system, done by a guest and checked on the host as well."""

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.vhost_user import RING_PACKED_BIT
from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, mounted

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]


@pytest.fixture(scope="module")
def share(boot_shared: Boot) -> Iterator[Mounted]:
    with mounted(boot_shared, "--multidevs", "remap") as share:
        yield share


@pytest.fixture(autouse=True)
def tidy(share: Mounted) -> Iterator[None]:
    """Each test begins with an empty export and cache=none, which the host may change at will."""
    yield
    subprocess.run(["find", share.export, "-mindepth", "1", "-delete"], check=True)
    share.remount()


def digest(tree: Path) -> dict[str, tuple[int, str]]:
    """Mode and content of every entry below a directory."""
    found = {}
    for path in sorted(tree.rglob("*")):
        mode = path.lstat().st_mode
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(tree))] = (mode, content)
    return found


def test_the_ring_is_packed(share: Mounted) -> None:
    assert RING_PACKED_BIT in share.features()


@pytest.mark.parametrize("folders", [8, pytest.param(40, marks=pytest.mark.full)])
def test_tar_of_folders_of_fifty_files(share: Mounted, folders: int) -> None:
    tree = share.export / "tree"
    for i in range(folders):
        folder = tree / f"d{i}"
        folder.mkdir(parents=True)
        for j in range(48):
            (folder / f"f{j}").write_bytes(os.urandom(i * j % 3000))
        os.symlink("f0", folder / "link")
        os.link(folder / "f1", folder / "hard")
    share.sh("tar cf all.tar tree; mkdir out; tar xf all.tar -C out")
    assert digest(share.export / "out" / "tree") == digest(tree)
    out = share.export / "out" / "tree"
    assert all(os.path.samefile(d / "f1", d / "hard") for d in out.iterdir())


def test_two_processes_share_an_sqlite_database(share: Mounted) -> None:
    share.sh("sqlite3 db 'create table t(who, n);'")
    inserts = "for i in $(seq 30); do sqlite3 -cmd '.timeout 60000' db \"insert into t values"
    writers = [
        share.vm.popen(f"cd /mnt; {inserts} ('{who}', $i);\" || exit 1; done") for who in "ab"
    ]
    for writer in writers:
        assert writer.wait(timeout=300).returncode == 0
    assert share.sh("sqlite3 db 'select count(*) from t; pragma integrity_check;'") == "60\nok"
    with sqlite3.connect(share.export / "db") as host:
        assert host.execute("select count(*), count(distinct n) from t").fetchone() == (60, 30)


def test_git_keeps_a_repository_whole(share: Mounted) -> None:
    share.sh(
        """git init -q -b main r; cd r; git config user.email a@b; git config user.name n
        for i in 1 2 3 4 5; do seq $i 200 > f$i; git add f$i; git commit -qm $i; done
        git checkout -qb side HEAD~2; echo side > s; git add s; git commit -qm s
        git checkout -q main; git merge -q side -m m; git gc -q; git fsck --strict"""
    )
    log = ["git", "-c", "safe.directory=*", "log", "--oneline"]
    found = subprocess.run(log, cwd=share.export / "r", capture_output=True, check=True)
    assert len(found.stdout.splitlines()) == 7


def test_rsync_copies_hard_links(share: Mounted) -> None:
    share.sh(
        """mkdir -p a/b; seq 1000 > a/one; ln a/one a/b/two; ln -s b/two a/three; mkfifo a/fifo
        touch -d 2001-02-03T04:05:06 a/one; chmod 2751 a/b; chown 1000:1001 a/b
        rsync -aH a/ copy/; rsync -aHn --itemize-changes a/ copy/"""
    )
    copy = share.export / "copy"
    assert os.path.samefile(copy / "one", copy / "b" / "two")
    assert digest(copy / "b") == digest(share.export / "a" / "b")
    there = (copy / "b").stat()
    assert (there.st_mode & 0o7777, there.st_uid, there.st_gid) == (0o2751, 1000, 1001)
    assert int((copy / "one").stat().st_mtime) == int((share.export / "a" / "one").stat().st_mtime)
    assert share.sh("find a -samefile a/one | sort") == "a/b/two\na/one"
    assert share.sh("find copy -links 2 -type f | wc -l") == "2"


def test_disk_usage_counts_a_hard_link_once(share: Mounted) -> None:
    share.sh("mkdir d; dd if=/dev/urandom of=d/a bs=64k count=16 status=none; ln d/a d/b; sync")
    guest = int(share.sh("du -sk d").split()[0])
    host = subprocess.run(["du", "-sk", share.export / "d"], capture_output=True, check=True)
    assert guest == int(host.stdout.split()[0])


def test_concurrent_writers_lose_nothing(share: Mounted) -> None:
    share.sh("truncate -s 400000 f")
    write = "dd if=/dev/zero bs=100 count=1000 status=none | tr '\\0' {} | dd of=f bs=100"
    writers = [
        share.vm.popen(f"cd /mnt; {write.format(who)} seek={i * 1000} conv=notrunc status=none")
        for i, who in enumerate("wxyz")
    ]
    for writer in writers:
        assert writer.wait(timeout=300).returncode == 0
    expected = b"".join(who * 100_000 for who in (b"w", b"x", b"y", b"z"))
    assert (share.export / "f").read_bytes() == expected


def test_a_file_beyond_four_gigabytes_is_written_and_read(share: Mounted) -> None:
    share.sh("echo here | dd of=big bs=1 seek=5368709123 conv=notrunc status=none")
    with (share.export / "big").open("r+b") as big:
        big.seek(5368709123)
        assert big.read() == b"here\n"
        big.seek(4294967290)
        big.write(b"there")
    assert share.sh("dd if=big bs=1 skip=4294967290 count=5 status=none") == "there"
    assert os.stat(share.export / "big").st_blocks < 100
    assert share.sh("stat -c '%s' big; du -k big | cut -f1").split()[0] == "5368709128"


def test_a_hundred_thousand_entries_are_listed(share: Mounted) -> None:
    folder = share.export / "many"
    folder.mkdir()
    for i in range(100_000):
        os.mknod(folder / f"entry{i:06}")
    assert share.sh("ls -f many | sort | sha256sum; ls -f many | wc -l").split()[2] == "100002"
    names = sorted([".", "..", *os.listdir(folder)])
    text = "".join(name + "\n" for name in names).encode()
    listed = share.sh("ls -f many | LC_ALL=C sort | sha256sum").split()[0]
    assert listed == hashlib.sha256(text).hexdigest()


def test_names_of_any_bytes_are_created_and_listed(share: Mounted) -> None:
    names = [b"\xff\xfe", b"n" * 255, "ünïcödé".encode(), b"new\nline", b" ", b"-rf", b"\\", b"'\""]
    for name in names[:4]:
        (share.export / os.fsdecode(name)).write_text("host")
    for name in names[4:]:
        path = b"/mnt/" + name
        share.vm.run(["/bin/busybox", "touch", path])
    listed = share.result("find . -mindepth 1 -print0").stdout.split(b"\0")[:-1]
    assert sorted(listed) == sorted(b"./" + name for name in names)
    assert sorted(os.listdir(os.fsencode(share.export))) == sorted(names)


# What a program may still do with a file whose name is gone, or belongs to another file by now.
UNLINKED = """
import os
fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"0123456789")
os.unlink("f")
assert os.fstat(fd).st_size == 10, os.fstat(fd)
assert os.fstat(fd).st_nlink == 0, os.fstat(fd)
with open("f", "w") as other:
    other.write("other")
os.chmod("f", 0o644)
os.ftruncate(fd, 4)
os.fchmod(fd, 0o640)
os.fchown(fd, 1000, 1001)
os.utime(fd, (10, 20))
os.setxattr(fd, "user.mine", b"yes")
os.fsync(fd)
s = os.fstat(fd)
assert (s.st_size, s.st_mode & 0o7777, s.st_uid, s.st_gid) == (4, 0o640, 1000, 1001), s
assert s.st_mtime == 20, s
assert os.getxattr(fd, "user.mine") == b"yes"
os.lseek(fd, 0, 0)
assert os.read(fd, 100) == b"0123"
os.rename("f", "g")
os.open("g", os.O_RDONLY)
os.open("f", os.O_CREAT | os.O_WRONLY, 0o600)
print("held", flush=True)
input()
"""


@pytest.mark.newest
@pytest.mark.parametrize("cache", ["none", "mmap"])
def test_open_files_without_a_name(share: Mounted, cache: str) -> None:
    share.remount(cache=cache)
    program = share.vm.popen(["python3", "-c", UNLINKED], cwd="/mnt", stdin=None)
    program.expect(b"held")
    gone = [target for target in share.daemon.fds().values() if target.endswith(" (deleted)")]
    assert f"{share.export}/f (deleted)" in gone
    other = share.export / "g"
    assert other.read_text() == "other"
    assert (other.stat().st_size, other.stat().st_mode & 0o7777) == (5, 0o644)
    assert (other.stat().st_uid, os.listxattr(other)) == (0, [])
    program.write(b"\n")
    assert program.wait().returncode == 0
    share.vm.run("sync; echo 3 > /proc/sys/vm/drop_caches")

    def let_go() -> bool:
        return not [target for target in share.daemon.fds().values() if "/f (deleted)" in target]

    share.daemon.wait_until(let_go, "the daemon keeps a file that nobody has open")


def test_extended_attributes_are_set_and_read(share: Mounted) -> None:
    share.sh(
        """touch f; setfattr -n user.colour -v blue f; setfattr -n user.empty f
        setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\\0' x)" f
        cp /usr/bin/true prog; setcap cap_net_raw+ep prog; getcap prog"""
    )
    path = share.export / "f"
    assert os.getxattr(path, "user.colour") == b"blue"
    assert os.getxattr(path, "user.empty") == b""
    assert os.getxattr(path, "user.long") == b"x" * 3000
    assert os.getxattr(share.export / "prog", "security.capability")
    os.setxattr(path, "user.host", b"\0\xff")
    assert share.sh("getfattr -n user.host -e hex --only-values f | od -An -tx1").strip() == "00 ff"
    assert "cap_net_raw=ep" in share.sh("getcap prog")
    share.sh("setfattr -x user.colour f")
    assert "user.colour" not in os.listxattr(path)


@pytest.mark.newest
@pytest.mark.parametrize("cache", ["mmap", "loose"])
def test_cached_mounts_show_what_was_written(share: Mounted, cache: str) -> None:
    share.remount(cache=cache)
    share.sh(
        """dd if=/dev/urandom of=f bs=1M count=8 status=none; sha256sum f > sum; cp f g
        sqlite3 db 'pragma journal_mode=wal; create table t(x); insert into t values (1), (2);'
        sqlite3 db 'insert into t select x from t;' 'select count(*) from t;' > count
        printf abc > s; truncate -s 6 s; printf d >> s; sync"""
    )
    sha = hashlib.sha256((share.export / "f").read_bytes()).hexdigest()
    assert (share.export / "sum").read_text().split()[0] == sha
    assert (share.export / "g").read_bytes() == (share.export / "f").read_bytes()
    assert (share.export / "count").read_text() == "4\n"
    assert (share.export / "s").read_bytes() == b"abc\0\0\0d"
    share.remount(cache=cache)
    assert share.sh("sha256sum -c sum; cat count") == "f: OK\n4"


def test_a_mount_can_be_remounted_again_and_again(share: Mounted) -> None:
    for i in range(5):
        share.sh(f"echo {i} > f{i}; exec 5<f{i}; cat <&5")
        share.remount()
    assert share.sh("cat f?").split() == list("01234")


def test_a_read_only_export_refuses_changes(boot: Boot) -> None:
    with mounted(boot, "--readonly") as share:
        (share.export / "f").write_text("data")
        assert share.sh("cat f") == "data"
        for change in ("touch g", "rm f", "mkdir d", "echo x >> f", "chmod 600 f", "mv f g"):
            failed = share.result(change, check=False)
            assert failed.returncode != 0
            assert b"Read-only file system" in failed.stderr
        assert os.listdir(share.export) == ["f"]
