"""What a check finds out about each export and device: rights, file systems, quota, socket, state.

Nothing is changed, and a daemon that serves the same notices nothing: sockets and locks are looked
up in the kernel's tables, not tried. What serving itself checks comes from preflight.py.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

from vhost9p import procfs
from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.exports import state_key
from vhost9p.findings import Finding, ok, warning
from vhost9p.native import fanotify
from vhost9p.policy import rights
from vhost9p.policy.mounts import MountLine, MountTable
from vhost9p.policy.state import state_name
from vhost9p.policy.usage import Usage, peek, usage_name
from vhost9p.preflight import mounts_below

MODELS = {
    "passthrough": "the guest's owners and modes are the host's",
    "none": "what the guest creates belongs to the daemon's user",
    "mapped-xattr": "the guest's owners and modes are kept in extended attributes",
    "mapped-file": "the guest's owners and modes are kept in files beside the data",
}
SHOWN = 3
"""Mounts that are named."""
LISTENS = 0x10000
"""__SO_ACCEPTCON among the flags of /proc/net/unix."""


def examine(asked: Config, settled: Config, table: MountTable) -> Iterator[Finding]:
    """Yields what is found out about a configuration without errors, as it was written and as
    preflight settled it. Raises OSError."""
    for device, as_served in zip(asked.devices, settled.devices, strict=True):
        yield from _device(as_served)
        for written, export in zip(device.exports, as_served.exports, strict=True):
            yield _access(export)
            yield _model(written, export)
            yield from _attributes(export)
            yield from _file_systems(as_served, export, table)
            yield _handles(export)
            if device.notify:
                yield _notices(export)
            yield from _quota(as_served, export)


# ---- a device ------------------------------------------------------------------------------------


def _device(device: DeviceConfig) -> Iterator[Finding]:
    if device.socket is not None:
        yield _socket(device.socket)
    else:
        yield warning(
            device.place,
            "it has no socket",
            "only vhost9p run can serve it, which makes one",
            "name a socket, if QEMU is started by itself",
        )
    if device.cpus:
        cpus = ", ".join(map(str, device.cpus))
        yield ok(device.place, f"the serving threads run on CPU {cpus}")
    if device.keeps_state:
        yield _state(device)


def _socket(path: str) -> Finding:
    if _is_listening(path):
        return warning(
            path,
            "a process listens on the socket already",
            "a daemon that is started now ends at once, with exit code 1",
            "nothing, if that is this VM's daemon; else choose another socket",
        )
    if os.path.lexists(path):
        return ok(path, "the socket was left behind, and will be replaced")
    return ok(path, "the socket can be created")


def _is_listening(path: str) -> bool:
    """Looks for the path in the list of sockets (proc_net_unix(5)); a connection would look like a
    frontend."""
    real = os.path.realpath(path)
    with open(procfs.path("net/unix"), errors="surrogateescape") as lines:
        next(lines)
        for line in lines:
            *fields, name = [*line.rstrip("\n").split(None, 7), ""][:8]
            listens = int(fields[3], 16) & LISTENS
            if listens and name.startswith("/") and os.path.realpath(name) == real:
                return True
    return False


def _state(device: DeviceConfig) -> Finding:
    folder = device.state_dir
    names = [usage_name(each.path) for each in device.exports if each.quota]
    if device.multidevs == "remap":
        names.append(state_name(state_key(device)))
    for name in names:
        if pid := _locked_by(os.path.join(folder, name)):
            return warning(
                folder,
                f"the state of these exports is in use, by process {pid}",
                "a second daemon for them ends at once, with exit code 1",
                "nothing, if that is this VM's daemon; else give this one another state_dir",
            )
    if not os.path.isdir(folder):
        return ok(folder, "the state directory is missing, and will be made")
    return ok(folder, "the state directory can be used")


def _locked_by(path: str) -> int:
    """The process that has locked a file (proc_locks(5)); 0 if there is none."""
    with suppress(OSError):
        found = os.stat(path)
        major, minor = os.major(found.st_dev), os.minor(found.st_dev)
        wanted = f"{major:02x}:{minor:02x}:{found.st_ino}"
        with open(procfs.path("locks"), encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
                    return int(fields[4])
    return 0


# ---- an export -----------------------------------------------------------------------------------


def _access(export: ExportConfig) -> Finding:
    user = f"{os.geteuid()}:{os.getegid()}"
    if export.readonly:
        return ok(export.path, f"{user} can read it; the guest cannot change it (readonly)")
    if reason := rights.why_not_write(export.path):
        return warning(
            export.path,
            f"the guest cannot change it: {reason}",
            "the guest's changes fail with EACCES, EROFS or EOVERFLOW",
            "set readonly: true, or change the directory",
        )
    return ok(export.path, f"{user} can read and change it")


def _model(written: ExportConfig, export: ExportConfig) -> Finding:
    text = f"security model {export.model}: {MODELS[export.model]}"
    if written.security_model or export.model != "none" or export.readonly:
        return ok(export.path, text)
    return warning(
        export.path,
        f"{text}, since {rights.why_not_owners(export)}",
        "a chown in the guest changes nothing on the host",
        "set security_model: none if that is meant, or mapped-xattr, or run the daemon as root",
    )


def _attributes(export: ExportConfig) -> Iterator[Finding]:
    if rights.has_xattrs(export.path, readonly=export.readonly):
        tried = "" if not export.readonly else " (not tried: the export is read-only)"
        yield ok(export.path, f"the file system has user.* attributes{tried}")
    else:
        yield warning(
            export.path,
            "the file system has no user.* attributes",
            "setfattr in the guest fails with EOPNOTSUPP",
            "export a directory of another file system if programs of the guest need them",
        )


def _file_systems(
    device: DeviceConfig, export: ExportConfig, table: MountTable
) -> Iterator[Finding]:
    below = mounts_below(table, export.path)
    root = os.stat(export.path)
    others = [each for each in below if each.st_dev != root.st_dev]
    if not others:
        yield ok(export.path, "its files are on one file system")
        return
    named = ", ".join(map(_shown, others[:SHOWN])) + (", …" if len(others) > SHOWN else "")
    count = 1 + len({each.st_dev for each in others})
    text = f"its files are on {count} file systems, with {named} below{_collision(others)}"
    if device.multidevs == "remap":
        yield ok(export.path, f"{text}; remap gives each file an inode number of its own")
    elif device.multidevs == "forbid":
        yield ok(export.path, f"{text}; forbid denies the guest all but the first")
    else:
        yield warning(
            export.path,
            text,
            "under multidevs: warn, files may look like one file to the guest, so that tar, cp -a "
            "and rsync -H copy the wrong data",
            "set multidevs: remap",
        )


def _shown(mount: MountLine) -> str:
    return f"{os.fsdecode(mount.point)} ({mount.fs_type.decode(errors='replace')})"


def _collision(mounts: list[MountLine]) -> str:
    """Names a collision that can be seen at once: of the roots' inode numbers."""
    seen: dict[int, MountLine] = {}
    for mount in mounts:
        with suppress(OSError):
            number = os.stat(mount.point).st_ino
            if (other := seen.setdefault(number, mount)).st_dev != mount.st_dev:
                points = f"{os.fsdecode(other.point)} and {os.fsdecode(mount.point)}"
                return f"; {points} have the same inode number, {number}"
    return ""


def _handles(export: ExportConfig) -> Finding:
    if fanotify.has_handles(export.path):
        return ok(export.path, "its files have handles (name_to_handle_at(2))")
    return warning(
        export.path,
        "the file system has no file handles (name_to_handle_at(2))",
        "files that the daemon has closed to spare descriptors are found again by their path only: "
        "those that the host has moved answer ESTALE",
        "export a directory of a file system with handles, as ext4, XFS, Btrfs and tmpfs have "
        "them, if the host moves files while the guest uses them",
    )


def _notices(export: ExportConfig) -> Finding:
    """Asks as whoever runs the check; a daemon of another user may get another answer."""
    if fanotify.can_mark_file_system(export.path):
        return ok(export.path, "notify reports all changes of its file system")
    if fanotify.can_mark_directory(export.path):
        return ok(
            export.path,
            "notify reports changes in directories that the guest has looked at (the user may not "
            "watch the file system as a whole, or it cannot be)",
        )
    return warning(
        export.path,
        "the kernel reports no changes of its file system",
        "notify reports nothing of what the host changes there",
        "export a directory of a file system with file handles, as ext4, XFS, Btrfs and tmpfs "
        "have them",
    )


def _quota(device: DeviceConfig, export: ExportConfig) -> Iterator[Finding]:
    quota = export.quota
    if not quota:
        return
    known = None if quota.rescan else peek(device.state_dir, export.path)
    when = (
        f"{known.bytes:,} bytes in {known.inodes:,} inodes are used"
        if known
        else ("its files are counted when it is next served")
    )
    limits = [f"{quota.bytes:,} bytes"] if quota.bytes is not None else []
    limits += [f"{quota.inodes:,} inodes"] if quota.inodes is not None else []
    text = f"quota of {' and '.join(limits)}: {when}"
    free = os.statvfs(export.path)
    room = free.f_bavail * free.f_frsize
    if known and _is_exceeded(known, quota.bytes, quota.inodes):
        yield warning(
            export.path,
            text,
            f"the guest gets {quota.error} for each file that it makes or extends",
            "remove files, or raise the quota",
        )
    elif quota.bytes is not None and quota.bytes > room + (known.bytes if known else 0):
        yield warning(
            export.path,
            f"{text}; the host has {room:,} bytes free",
            "the guest gets ENOSPC before its quota is used, as df shows it",
            "lower the quota, or free space on the host",
        )
    else:
        yield ok(export.path, text)


def _is_exceeded(known: Usage, size: int | None, inodes: int | None) -> bool:
    return (size is not None and known.bytes > size) or (
        inodes is not None and known.inodes > inodes
    )
