"""Cases that mount: `python -m tests.policy.namespace_cases CASE DIRECTORY`, run by test_namespace
in a mount namespace of its own. The files are real, and so are the attribute reader and the mounts.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.policy.guest import lookup, open_state
from vhost9p.native.export import Export
from vhost9p.native.qidmap import FileKey
from vhost9p.policy.forbid import why_not_forbid
from vhost9p.policy.mounts import MountTable
from vhost9p.policy.remap import RemapPolicy

UNSUPPORTED = 77
"""Exit status where this kernel or user cannot mount what the case needs."""


def run(*args: str | Path) -> None:
    """A command that must succeed."""
    subprocess.run([str(arg) for arg in args], check=True)


def mount(fs_type: str, point: Path, options: str = "") -> None:
    """Mounts a new file system, or ends the case where that is not supported."""
    point.mkdir(exist_ok=True)
    command = ["mount", "-t", fs_type, *(["-o", options] if options else []), fs_type, str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"cannot mount {fs_type}: {done.stderr.strip()}")
        sys.exit(UNSUPPORTED)


def mount_reusing(fs_type: str, point: Path, st_dev: int) -> None:
    """Mounts until the kernel gives the new file system this freed number."""
    for attempt in range(100):
        mount(fs_type, point)
        if point.stat().st_dev == st_dev:
            return
        # Another process got it: holding this one, the next try gets a lower number.
        held = point.parent / f"held{attempt}"
        held.mkdir()
        run("mount", "--move", point, held)
    sys.exit(UNSUPPORTED)


class Daemon:
    """An export of `root` under remap, with the state file in `state`."""

    def __init__(self, root: Path, state: Path, probe: Callable[[int], FileKey] | None = None):
        fd = os.open(root, os.O_PATH)
        self.root = root
        self.export = Export(fd, readonly=False, stat_entries=True)
        os.close(fd)
        self.policy = RemapPolicy(
            self.export.qidmap, MountTable(), probe or self.export.probe, open_state(state)
        )
        self.export.policy = self.policy

    def path(self, name: str) -> int:
        """qid.path of a file below the root."""
        directory, _, last = name.rpartition("/")
        fd = os.open(self.root / directory, os.O_PATH)
        try:
            return self.export.attr(fd, last.encode()).qid_path
        finally:
            os.close(fd)

    def close(self) -> None:
        """Ends it."""
        self.policy.close()
        self.export.close()


@contextmanager
def serving(base: Path) -> Iterator[Daemon]:
    """A daemon that serves base/export."""
    (base / "export").mkdir(exist_ok=True)
    (base / "state").mkdir(exist_ok=True)
    daemon = Daemon(base / "export", base / "state")
    yield daemon
    daemon.close()


def bind_mounts_share(base: Path) -> None:
    """Hard links across bind mounts are one file; other file systems' files are others."""
    export = base / "export"
    export.mkdir()
    for name in ("one", "two"):
        mount("tmpfs", export / name)
        (export / name / "dir").mkdir()
        (export / name / "dir" / "file").touch()
        os.link(export / name / "dir" / "file", export / name / "link")
    ino = (export / "one" / "link").stat().st_ino
    assert (export / "two" / "link").stat().st_ino == ino, "the case needs equal inode numbers"
    with serving(base) as daemon:
        first, other = daemon.path("one/link"), daemon.path("two/link")
        assert first != other
        for name, source in (("all", "one"), ("part", "one/dir"), ("elsewhere", "two/dir")):
            (export / name).mkdir()
            run("mount", "--bind", export / source, export / name)
        (export / "leaf").touch()
        run("mount", "--bind", export / "one" / "link", export / "leaf")
        assert {daemon.path(n) for n in ("all/link", "all/dir/file", "part/file", "leaf")} == {
            first
        }
        assert daemon.path("elsewhere/file") == other
        # The first mount goes, the file system stays.
        run("umount", export / "one")
        (export / "late").mkdir()
        run("mount", "--bind", export / "all" / "dir", export / "late")
        assert daemon.path("late/file") == first
        paths = [daemon.path(n) for n in ("all/link", "elsewhere/file", ".")]
    with serving(base) as daemon:
        assert [daemon.path(n) for n in ("late/file", "elsewhere/file", ".")] == paths


def reused_number_is_new(base: Path, fs_type: str = "tmpfs") -> None:
    """A file system that got a freed st_dev, seen by the same daemon and by the next one."""
    export = base / "export"
    export.mkdir()
    point = export / "mnt"
    mount(fs_type, point)
    st_dev = point.stat().st_dev
    paths = []
    for restarting in (False, False, True):
        with serving(base) as daemon:
            paths.append(daemon.path("mnt/."))
            if not restarting:
                run("umount", point)
                mount_reusing(fs_type, point, st_dev)
                paths.append(daemon.path("mnt/."))
    with serving(base) as daemon:
        assert daemon.path("mnt/.") == paths[-1]
        run("umount", point)
    mount_reusing(fs_type, point, st_dev)
    with serving(base) as daemon:
        paths.append(daemon.path("mnt/."))
    # Mounted: 1, 2 | 2, 3 | 3 | 4.
    assert paths[1] == paths[2]
    assert paths[3] == paths[4]
    assert len({paths[0], paths[1], paths[3], paths[5]}) == 4


def reused_number_is_new_on_ramfs(base: Path) -> None:
    """ramfs has no birth times, and its file system id is made from the number."""
    reused_number_is_new(base, "ramfs")


def identities_survive_a_copied_namespace(base: Path) -> None:
    """The daemon is restarted in a new mount namespace, where every mount has a new id."""
    export = base / "export"
    export.mkdir()
    mount("tmpfs", export / "one")
    (export / "one" / "file").touch()
    with serving(base) as daemon:
        before = [daemon.path(name) for name in (".", "one/file", "one/.")]
    again = [sys.executable, "-m", "tests.policy.namespace_cases", "print_paths", str(base)]
    done = subprocess.run(["unshare", "-m", *again], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(path) for path in before]


def print_paths(base: Path) -> None:
    """The other half of the case above."""
    with serving(base) as daemon:
        print(*(daemon.path(name) for name in (".", "one/file", "one/.")))


def reusable_ids_are_watched(base: Path) -> None:
    """As on kernels that reuse mount ids: what the map knows of a mount ends with the mount."""
    (base / "state").mkdir()
    export = base / "export"
    export.mkdir()
    point = export / "mnt"
    mount("tmpfs", point)
    st_dev = point.stat().st_dev
    table = MountTable()

    def probe(fd: int) -> FileKey:
        key = real.probe(fd)
        return FileKey(table.number_of(fd), key.ino, key.btime)

    daemon = Daemon(export, base / "state", probe)
    real = daemon.export
    seen = set()
    for _ in range(3):
        fd = os.open(point, os.O_PATH)
        number = table.number_of(fd)
        daemon.policy.device(st_dev, number, fd)
        os.close(fd)
        seen.add(device_of(daemon, st_dev, number))
        run("umount", point)
        deadline = time.monotonic() + 30
        while device_of(daemon, st_dev, number) is not None:
            assert time.monotonic() < deadline, "the map still knows the mount"
            time.sleep(0.01)
        mount_reusing("tmpfs", point, st_dev)
    assert len(seen) == 3
    daemon.close()
    table.close()


def device_of(daemon: Daemon, st_dev: int, mnt_id: int) -> int | None:
    """What the map knows, without asking the policy."""
    try:
        return lookup(daemon.export.qidmap, st_dev, mnt_id, 1)[0]
    except LookupError as unknown:
        return getattr(unknown, "device", None)


def odd_names_and_covered_mounts(base: Path) -> None:
    """Mount points with blanks and backslashes are found; one that is covered is none."""
    export = base / "export"
    export.mkdir()
    odd = export / "a b\\040\tc\nd"
    mount("tmpfs", odd)
    (odd / "dir").mkdir()
    (odd / "dir" / "file").touch()
    table = MountTable()
    fd = os.open(odd, os.O_PATH)
    line = table.read()[table.number_of(fd)]
    assert line.point == os.fsencode(odd)
    assert (line.fs_type, line.root, line.st_dev) == (b"tmpfs", b"/", odd.stat().st_dev)
    with serving(base) as daemon:
        seen = table.identify(daemon.export.probe(fd).mnt_id, fd, daemon.export.probe)
        assert seen.root_ino == odd.stat().st_ino
        assert table.is_mounted(seen, daemon.export.probe)
        first = daemon.path(f"{odd.name}/dir/file")
        (export / "bind").mkdir()
        run("mount", "--bind", odd / "dir", export / "bind")
        assert daemon.path("bind/file") == first
        mount("tmpfs", odd)
        assert not table.is_mounted(seen, daemon.export.probe)
        hidden = table.identify(seen.mnt_id, fd, daemon.export.probe)
        assert hidden == (seen.mnt_id, seen.number, 0, 0)
    os.close(fd)
    table.close()


def mounts_are_found_after_every_change(base: Path) -> None:
    """A mount table that has been read knows what came, what went, and what is elsewhere now."""
    above = base / "above"
    above.mkdir()
    table = MountTable()
    before = table.read()
    mount("tmpfs", above / "one")
    (above / "one" / "file").touch()
    fd = os.open(above / "one" / "file", os.O_PATH)
    with serving(base) as daemon:
        probe = daemon.export.probe
        seen = table.identify(probe(fd).mnt_id, fd, probe)
        assert seen.root_ino == (above / "one").stat().st_ino
        assert set(table.read()) - set(before) == {seen.number}
        above.rename(base / "renamed")
        assert table.identify(seen.mnt_id, fd, probe) == seen
        above.mkdir()
        (above / "one").mkdir()  # what is where the mount was is not taken for it
        assert table.identify(seen.mnt_id, fd, probe) == seen
        mount("tmpfs", above / "one")
        other = os.open(above / "one", os.O_PATH)
        assert table.identify(probe(other).mnt_id, other, probe).number not in (0, seen.number)
        os.close(other)
        run("umount", "--lazy", base / "renamed" / "one")
        assert not table.is_mounted(seen, probe)
        assert seen.number not in table.read()
    os.close(fd)
    table.close()


def forbid_is_refused_on_overlayfs(base: Path) -> None:
    """One overlay of two file systems shows several numbers; a bind mount below it is no reason."""
    layers = [base / name for name in ("lower", "upper")]
    for layer in layers:
        mount("tmpfs", layer)
        for name in ("tree", "work"):
            (layer / name).mkdir()
    (layers[0] / "tree" / "dir").mkdir()
    lower, upper = (layer / "tree" for layer in layers)
    export = base / "export"
    options = f"lowerdir={lower},upperdir={upper},workdir={layers[1] / 'work'},xino=off"
    mount("overlay", export, options)
    (export / "mnt").mkdir()
    mount("tmpfs", export / "mnt")
    assert why_not_forbid(os.fsencode(export)) is None, "there are only directories yet"
    (export / "dir" / "file").touch()
    why = why_not_forbid(os.fsencode(export))
    assert why is not None
    for said in ("overlay", repr(str(export / "dir" / "file")), "Use remap"):
        assert said in why, why
    assert why_not_forbid(os.fsencode(upper)) is None


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    globals()[sys.argv[1]](Path(sys.argv[2]))
