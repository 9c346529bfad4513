"""What of a host a configuration needs, so that everything else can be taken from the daemon.

native/sandbox.py takes it. Here are the mounts (each export, and the state directories), the
capabilities that the security models use, and the configuration as it is after the root directory
has changed. All paths are real ones, as preflight.py returns them. `fork`, `enter` and `confine`
are called in this order: the first by the process that stays outside, the second by the child that
it creates, the third by each process that serves.

Each export is a mount of its own below /exports, whatever its path on the host, so that `..` ends
there and one export in another is no mount within it. State directories keep their paths.

What keeps the host's other files away is the root directory in a mount namespace of its own, which
nothing leads out of. Without one, /proc is outside of the root directory, and leads on to all of
the host for whoever has taken over the process: then Landlock has to keep them away. It refuses
what is opened by handle, so that is given up.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from vhost9p import host, procfs
from vhost9p.config import Config, DeviceConfig, ExportConfig, Level
from vhost9p.native import sandbox
from vhost9p.native.sandbox import Entered, Mount, SandboxError
from vhost9p.policy import rights, state_dir
from vhost9p.policy.mounts import MountLine, mounts_by_point

__all__ = [
    "Entered",
    "SandboxError",
    "confine",
    "enter",
    "fork",
    "fork_in",
    "mounts",
    "prepare",
    "replaced",
    "seen_inside",
    "settle",
]

EXPORTS = "/exports"


def fork(config: Config) -> int:
    """Creates the process that calls `enter`; returns as os.fork does. Raises OSError."""
    return sandbox.fork(config.sandbox)


def fork_in(namespaces: Mapping[str, int], entered: Entered) -> int:
    """Creates the process that goes on where another one, which has died, had `entered`; returns as
    os.fork does. `prepare` and `settle` follow. Raises OSError."""
    return sandbox.fork_in(namespaces, entered)


def enter(config: Config) -> tuple[Config, Entered]:
    """Changes the root directory of this process, which has one thread. Returns the configuration
    with which it serves from now on, and what was reached. Raises SandboxError, OSError, and
    UserError if a state directory cannot be made."""
    if config.sandbox is Level.NONE:
        return config, Entered(Level.NONE)
    host.remember()
    for device in config.devices:
        if device.keeps_state:
            with state_dir.opened(device.state_dir):
                pass
    entered = sandbox.enter(config.sandbox, list(mounts(config)))
    return seen_inside(config, entered), entered


def prepare(entered: Entered) -> int:
    """Begins what is left of `enter` in a process that was born where another one has entered (see
    sandbox.fork_beside): nothing changes yet for that. Returns what `settle` needs. Raises
    OSError."""
    return sandbox.create_proc(entered.level)


def settle(prepared: int) -> None:
    """Does the rest, when the other one has gone. Raises OSError."""
    sandbox.settle(prepared)


def confine(config: Config, entered: Entered) -> tuple[str, ...]:
    """Takes from this process, which has one thread, what serving does not need. `config` and
    `entered` are what `enter` returned. Returns all that lacks. Raises SandboxError if something
    lacks under Level.NAMESPACE, OSError if capabilities cannot be dropped."""
    if config.sandbox is Level.NONE:
        return entered.lacks
    exports = [each for device in config.devices for each in device.exports]
    capabilities = rights.capabilities(exports)
    if entered.level is not Level.NAMESPACE:
        capabilities = rights.without_handles(capabilities)
    files = () if opens_by_handle(config, entered.level) else tuple(_files(config))
    lacks = sandbox.confine(capabilities, files, config.seccomp)
    if lacks and config.sandbox is Level.NAMESPACE:
        raise SandboxError(f"sandbox: namespace lacks {', '.join(lacks)}")
    return (*entered.lacks, *lacks)


def opens_by_handle(config: Config, level: Level) -> bool:
    """Whether this process, if it is confined so far, opens files by handle; before `confine`."""
    if level is not Level.NAMESPACE and config.sandbox is not Level.NONE:
        return False
    return sandbox.has_capabilities(1 << rights.CAP_DAC_READ_SEARCH)


def _places(config: Config) -> Iterator[tuple[ExportConfig, str]]:
    """The exports, and where each is mounted."""
    exports = (each for device in config.devices for each in device.exports)
    for i, export in enumerate(exports):
        yield export, f"{EXPORTS}/{i if export.mount is None else export.mount}"


def _states(config: Config) -> dict[str, None]:
    """The state directories, each once."""
    return dict.fromkeys(each.state_dir for each in config.devices if each.keeps_state)


def mounts(config: Config) -> Iterator[Mount]:
    """Yields what is mounted in the daemon's root directory, if it has one of its own."""
    for export, place in _places(config):
        yield Mount(export.path, place, export.readonly)
    for path in _states(config):
        yield Mount(path, path)


def replaced(config: Config, entered: Entered, pid: int) -> frozenset[str]:
    """Returns the paths of exports with names at which another directory is now than the one that
    is mounted for this process, which has `entered`: it was renamed or removed, or is covered by a
    mount. File systems are asked only where the tables of mounts differ, since they may hang."""
    if entered.level is not Level.NAMESPACE:
        return frozenset()  # the next worker opens what is there
    exports = [(each, place) for each, place in _places(config) if each.name]
    with suppress(OSError):  # the process has ended
        inside, outside = mounts_by_point(str(pid)), mounts_by_point("self")
        return frozenset(
            each.path
            for each, place in exports
            if _where(outside, each.path) != _where(inside, place)
            and _leads_elsewhere(each.path, f"/proc/{pid}/root{place}")
        )
    return frozenset()


def _where(mounted: Mapping[bytes, MountLine], path: str) -> tuple[int, bytes]:
    """Returns the file system on which a path leads to a directory, and its path in that, by the
    table of mounts."""
    point, rest = os.fsencode(path), b""
    while point not in mounted and point != b"/":
        point, name = os.path.split(point)
        rest = os.path.join(name, rest)
    line = mounted.get(point)
    return (line.st_dev, os.path.join(line.root, rest).rstrip(b"/")) if line else (0, b"")


def _leads_elsewhere(path: str, mounted: str) -> bool:
    with suppress(OSError):  # there is no directory: then what is mounted stays
        return not os.path.samestat(os.stat(path), os.stat(mounted))
    return False


def seen_inside(config: Config, entered: Entered) -> Config:
    """Returns the configuration as it is after this confinement was entered."""
    if entered.level is Level.NONE:
        return config
    places = iter([place for _, place in _places(config)])

    def seen(device: DeviceConfig) -> DeviceConfig:
        if entered.level is Level.NAMESPACE:
            exports = [replace(each, place=next(places)) for each in device.exports]
            return replace(device, exports=tuple(exports))
        exports = [replace(each, place=_below(entered.root, each.path)) for each in device.exports]
        state = _below(entered.root, device.state_dir) if device.keeps_state else device.state_dir
        return replace(device, exports=tuple(exports), state_dir=state)

    return replace(config, devices=tuple(map(seen, config.devices)))


def _below(root: str, path: str) -> str:
    return "/" + os.path.relpath(path, root).removeprefix(".")


def _files(config: Config) -> Iterator[tuple[str, bool]]:
    """Where the process opens files, and whether it changes them."""
    for device in config.devices:
        for export in device.exports:
            yield export.place or export.path, not export.readonly
        if device.keeps_state:
            yield device.state_dir, True
    yield procfs.path("."), False
