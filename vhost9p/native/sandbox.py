"""What a process calls to lose rights (csrc/sandbox): in this order, and each for good.

`fork` creates the process of a VM in a pid namespace, whose init it is: when it ends, the kernel
ends all others in it. An ordinary user may do that only in a user namespace, which has no ids but
the user's own: files of others appear as owned by 65534 in it.

`enter` gives this process, and those that it creates, files of their own: nothing but the mounts
that it is given. It comes before the first descriptor of an export is opened, since a descriptor of
the host's mounts and one of these cannot be mixed in a rename or a link.

`confine` takes the rest from a process that serves, before it starts threads, which inherit it.

This module decides nothing about exports: see vhost9p/confinement.py.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vhost9p import host, procfs
from vhost9p.config import Level, Seccomp
from vhost9p.native.library import check, ffi, lib

CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
OWNER_CAPS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 7
"""CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SETGID, SETUID: who has one of them may do more
with files than a user namespace would let it."""

_has_own_user_namespace = False
"""Whether this process is in a user namespace that this module has made."""


class SandboxError(Exception):
    """The confinement that was asked for is not to be had; the text says what is lacking, and
    why."""


class _Impossible(Exception):
    """Namespaces are not to be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host, and where it is in the new root."""

    source: str
    target: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Entered:
    """What has been reached."""

    level: Level
    lacks: tuple[str, ...] = ()
    """Each: what, and in brackets why it is not to be had."""
    root: str = "/"
    """The host's directory that is the root now, under Level.CHROOT."""


# ---- namespaces ----------------------------------------------------------------------------------


def _with_interpreter() -> Callable[..., Any]:
    """v9_namespaces_fork, called without releasing the interpreter, as cffi's calls do: the child
    must be the thread that has it."""
    pointer = ctypes.c_void_p
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_uint32, pointer, pointer, pointer)
    return prototype(int(ffi.cast("uintptr_t", ffi.addressof(lib, "v9_namespaces_fork"))))


_fork = _with_interpreter()
_HOOKS = tuple(
    ctypes.cast(getattr(ctypes.pythonapi, f"PyOS_{name}"), ctypes.c_void_p)
    for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child")
)


def has_capabilities(mask: int) -> bool:
    """Whether this process has one of the capabilities, given as bits."""
    return bool(lib.v9_caps_effective() & mask)


def _map_ids(uid: int, gid: int) -> None:
    """Gives a new user namespace its only ids (user_namespaces(7)). Raises OSError."""
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(procfs.path(f"self/{file}"), "w", encoding="ascii") as entry:
            entry.write(text)


def _enter_user_namespace() -> None:
    global _has_own_user_namespace  # noqa: PLW0603
    ids = os.geteuid(), os.getegid()
    check(lib.v9_namespaces_unshare(lib.V9_NEW_USER))
    _map_ids(*ids)
    _has_own_user_namespace = True


def _try_user_namespace() -> None:
    """Enters namespaces in a child, since a process that is in a user namespace without ids cannot
    leave it. Raises OSError."""
    pid = os.fork()
    if pid == 0:
        try:
            _enter_user_namespace()
            check(lib.v9_namespaces_unshare(lib.V9_NEW_MOUNTS | lib.V9_NEW_PID))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or errno.EIO)
        finally:
            os._exit(errno.EIO)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(abs(code), os.strerror(abs(code)))


def _needs_user_namespace() -> bool:
    """Whether namespaces are to be had within a new user namespace only. Raises _Impossible if not
    even there."""
    if has_capabilities(1 << CAP_SYS_ADMIN):
        return False
    if has_capabilities(OWNER_CAPS):
        raise _Impossible("the daemon has capabilities, but not CAP_SYS_ADMIN")
    try:
        _try_user_namespace()
    except OSError as error:
        raise _Impossible(f"this user may create none: {error.strerror}") from error
    return True


def fork(level: Level) -> int:
    """Creates the process that calls `enter`, in namespaces that it can only be born in; returns as
    os.fork does. This process must have no other thread. Raises OSError."""
    if level not in (Level.AUTO, Level.NAMESPACE):
        return os.fork()
    try:
        in_user_namespace = _needs_user_namespace()
    except _Impossible:
        return os.fork()  # `enter` says why
    return _fork_inside(in_user_namespace=in_user_namespace)


def _fork_inside(*, in_user_namespace: bool) -> int:
    global _has_own_user_namespace  # noqa: PLW0603
    ids = os.geteuid(), os.getegid()
    namespaces = lib.V9_NEW_PID | (lib.V9_NEW_USER if in_user_namespace else 0)
    pid: int = _fork(namespaces, *_HOOKS)
    if pid < 0:
        return os.fork()
    if pid == 0 and in_user_namespace:
        _map_ids(*ids)
        _has_own_user_namespace = True
    return pid


def fork_beside(pid: int, pidfd: int) -> int:
    """Creates the process that goes on where another one has entered, in a pid namespace of its own
    if that has one. Returns as os.fork does; it is a child of this process's parent. This process
    enters the other's namespaces itself, and must have no other thread. Raises OSError."""
    global _has_own_user_namespace  # noqa: PLW0603
    host.remember()
    lib.v9_syscalls_load()
    own = {name for name in _NAMESPACES if _namespace("self", name) != _namespace(str(pid), name)}
    has_own_root = not os.path.samefile(f"/proc/{pid}/root", "/")
    check(lib.v9_namespaces_join(pidfd, sum(_NAMESPACES[name] for name in own - {"pid"})))
    _has_own_user_namespace = "user" in own
    if has_own_root and "mnt" not in own:
        check(lib.v9_root_change(f"/proc/{pid}/root".encode()))
        procfs.is_here()
    new = lib.V9_NEW_PID if "pid" in own else 0
    return check(_fork(lib.V9_AS_SIBLING | new, *_HOOKS))


def open_namespaces(pid: int) -> dict[str, int]:
    """Returns descriptors of a process's namespaces, by name, but for those that this process is
    in, too. They stay while the descriptors are open; a pid namespace does not outlive its init, so
    only its name counts. Raises OSError."""
    found: dict[str, int] = {}
    try:
        for name in (*_NAMESPACES, "uts"):
            if _namespace("self", name) != _namespace(str(pid), name):
                path = f"/proc/{pid}/ns/{name}"
                found[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def fork_in(namespaces: Mapping[str, int], entered: Entered) -> int:
    """The same as `fork_beside`, where the other process has died: in namespaces that
    `open_namespaces` has returned, and where that had `entered`."""
    global _has_own_user_namespace  # noqa: PLW0603
    host.remember()
    lib.v9_syscalls_load()
    for name in sorted(namespaces, key=lambda name: name != "user"):  # it gives the right to others
        if name != "pid":
            check(lib.v9_namespaces_enter(namespaces[name]))
    _has_own_user_namespace = "user" in namespaces
    if entered.level is Level.CHROOT:
        check(lib.v9_root_change(os.fsencode(entered.root)))
        procfs.is_here()
    new = lib.V9_NEW_PID if "pid" in namespaces else 0
    return check(_fork(lib.V9_AS_SIBLING | new, *_HOOKS))


_NAMESPACES = {
    "user": lib.V9_NEW_USER,
    "pid": lib.V9_NEW_PID,
    "mnt": lib.V9_NEW_MOUNTS,
    "net": lib.V9_NEW_NET,
    "ipc": lib.V9_NEW_IPC,
}


def _namespace(process: str, name: str) -> str:
    return os.readlink(f"/proc/{process}/ns/{name}")


def create_proc(level: Level) -> int:
    """In the process that `fork_beside` has created: a /proc of its own, which nobody else sees
    yet; -1 if the one that there is shows it already. Returns a descriptor. Raises OSError."""
    if level is Level.NAMESPACE and not os.path.exists("/proc/self"):
        return check(lib.v9_root_create_proc())
    return -1


def settle(proc: int) -> None:
    """Puts what `create_proc` has returned, and closes, in its place, also for all others in this
    mount namespace; and leaves this process no rights in a user namespace. Raises OSError."""
    if proc >= 0:
        check(lib.v9_root_replace_proc(proc))
        os.close(proc)
    if _has_own_user_namespace:
        check(lib.v9_caps_keep(0))


# ---- files ---------------------------------------------------------------------------------------


def enter(level: Level, mounts: Sequence[Mount]) -> Entered:
    """Makes the mounts the only files there are, as far as the level asks and the host allows. This
    process has one thread. Raises SandboxError if something lacks under Level.NAMESPACE, or
    Level.CHROOT is not to be had."""
    lacks: tuple[str, ...] = ()
    lib.v9_syscalls_load()  # if that fails, `confine` says so
    if level in (Level.AUTO, Level.NAMESPACE):
        try:
            entered = Entered(Level.NAMESPACE, tuple(_enter_namespaces(mounts)))
        except _Impossible as error:
            entered = None
            lacks = (f"namespaces ({error})",)
        missing = entered.lacks if entered else lacks
        if level is Level.NAMESPACE and missing:
            raise SandboxError(f"sandbox: namespace lacks {', '.join(missing)}")
        if entered:
            return entered
    if level is Level.NONE:
        return Entered(level)
    return _enter_chroot(level, [each.source for each in mounts], lacks)


def _enter_namespaces(mounts: Sequence[Mount]) -> Iterable[str]:
    """Returns what lacks; raises _Impossible."""
    if _needs_user_namespace():
        _enter_user_namespace()
    try:
        check(lib.v9_namespaces_unshare(lib.V9_NEW_MOUNTS | lib.V9_NEW_NET | lib.V9_NEW_IPC))
    except OSError as error:
        raise _Impossible(f"mounts, network, IPC: {error.strerror}") from error
    own_proc = _pivot(mounts) == lib.V9_PROC_OWN
    if _has_own_user_namespace:
        check(lib.v9_caps_keep(0))  # they are of no use outside, and look as if they were
    lacks = []
    if os.getpid() != 1:
        lacks.append("a pid namespace (this process was not born in one)")
    if not own_proc:
        lacks.append("a /proc of its own (the host's is covered in part, as in a container)")
    return lacks


def _pivot(mounts: Sequence[Mount]) -> int:
    step = ffi.new("const char **")
    texts = [
        (ffi.new("char[]", os.fsencode(each.source)), ffi.new("char[]", os.fsencode(each.target)))
        for each in mounts
    ]
    native = ffi.new("struct v9_sandbox_mount[]", len(texts))
    for each, (source, target), mount in zip(native, texts, mounts, strict=True):
        each.source, each.target, each.readonly = source, target, mount.readonly
    try:
        return check(lib.v9_root_pivot(native, len(native), step))
    except OSError as error:
        what = os.fsdecode(ffi.string(step[0]))
        raise _Impossible(f"{what}: {error.strerror}") from error


def _enter_chroot(level: Level, sources: list[str], lacks: tuple[str, ...]) -> Entered:
    """What all sources are below becomes the root."""
    root = os.path.commonpath(sources)
    why = ""
    if root == "/":
        why = "exports and state directory have no directory below / in common"
    elif not has_capabilities(1 << CAP_SYS_CHROOT):
        why = "the daemon has no CAP_SYS_CHROOT"
    else:
        try:
            check(lib.v9_root_change(os.fsencode(root)))
        except OSError as error:
            why = f"{root}: {error.strerror}"
    if not why:
        procfs.is_here()
        return Entered(Level.CHROOT, lacks, root)
    if level is Level.CHROOT:
        raise SandboxError(f"sandbox: chroot is not to be had: {why}")
    return Entered(Level.NONE, (*lacks, f"chroot ({why})"))


# ---- changes of files that are in use -----------------------------------------------------------


def enter_to_copy() -> None:
    """Gives this process, which has one thread, the right to call `copy_tree`, if it lacks it and
    may have it. Raises OSError."""
    if not has_capabilities(1 << CAP_SYS_ADMIN):
        _enter_user_namespace()
        check(lib.v9_namespaces_unshare(lib.V9_NEW_MOUNTS))


def copy_tree(mount: Mount) -> int:
    """Returns a descriptor of a copy of a mount's source, which is mounted nowhere yet. Raises
    OSError."""
    return check(lib.v9_root_copy_tree(os.fsencode(mount.source), mount.readonly))


def join_files(pid: int, pidfd: int) -> None:
    """Moves this process, which has one thread, to the files of another one, with the rights that
    made them: for `attach`, `detach` and `set_readonly`, where namespaces were entered. Raises
    OSError."""
    other = [
        name for name in ("user", "mnt") if _namespace("self", name) != _namespace(str(pid), name)
    ]
    check(lib.v9_namespaces_join(pidfd, sum(_NAMESPACES[name] for name in other)))


def attach(tree: int, target: str) -> None:
    """Mounts what `copy_tree` has returned. Raises OSError."""
    check(lib.v9_root_attach(tree, os.fsencode(target)))


def detach(target: str) -> None:
    """Takes away what is mounted at a target, if anything is. Raises OSError."""
    check(lib.v9_root_detach(os.fsencode(target)))


def set_readonly(target: str, readonly: bool) -> None:
    """Changes whether files of a mount can be changed. Raises OSError EBUSY where one is open for
    that."""
    check(lib.v9_root_set_readonly(os.fsencode(target), readonly))


# ---- what serves ---------------------------------------------------------------------------------


def confine(
    capabilities: Collection[int],
    files: Collection[tuple[str, bool]],
    seccomp: Seccomp,
    folders: Collection[str] = (),
) -> tuple[str, ...]:
    """Takes from this process all but `capabilities` (numbers), all files but those below the paths
    in `files`, each with whether it may be changed, and but the directories below those in
    `folders` (no path at all: files stay as they are), the network, other processes, core dumps,
    and all system calls that serving does not take. Returns what lacks. Raises OSError if
    capabilities cannot be dropped."""
    check(lib.v9_caps_keep(sum(1 << each for each in capabilities)))
    check(lib.v9_caps_forbid_gain())
    lacks = []
    try:
        _restrict_files(files, folders)
    except OSError as error:
        lacks.append(f"landlock ({_reason(error)})")
    try:
        _limit_system_calls(seccomp)
    except OSError as error:
        is_missing = error.errno == errno.ENOENT
        why = "libseccomp.so.2 is not installed" if is_missing else _reason(error)
        lacks.append(f"seccomp ({why})")
    return tuple(lacks)


def load() -> None:
    """Loads what `confine` needs, before the files of this process change."""
    lib.v9_syscalls_load()


def become(uid: int, gid: int) -> None:
    """Makes this process, which has one thread, another user's, with the capabilities that it has.
    Raises OSError."""
    check(lib.v9_caps_become(uid, gid))


def drop_rights() -> None:
    """Takes all capabilities from this process, and the right to gain any by execve(2). Raises
    OSError."""
    check(lib.v9_caps_keep(0))
    check(lib.v9_caps_forbid_gain())


def _restrict_files(files: Collection[tuple[str, bool]], folders: Collection[str]) -> None:
    may_change = {False: lib.V9_LANDLOCK_READ, True: lib.V9_LANDLOCK_CHANGE}
    paths = [(path, may_change[writable]) for path, writable in files]
    paths += [(path, lib.V9_LANDLOCK_LIST) for path in folders]
    texts = [ffi.new("char[]", os.fsencode(path)) for path, _ in paths]
    native = ffi.new("struct v9_landlock_path[]", len(texts))
    for each, text, (_, access) in zip(native, texts, paths, strict=True):
        each.path, each.access = text, access
    check(lib.v9_landlock(native, len(native)))


def _limit_system_calls(seccomp: Seccomp) -> None:
    action = lib.V9_SYSCALLS_LOG if seccomp is Seccomp.LOG else lib.V9_SYSCALLS_KILL
    check(lib.v9_syscalls_limit(action))


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
        return "the kernel has none, or too old a one"
    return error.strerror or str(error)
