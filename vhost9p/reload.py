"""What a changed configuration means to a VM that runs: which changes there are, and which of them
have to wait until it begins anew.

A reload is a death of the VM's worker whose successor has another configuration: a new keeper takes
the place of the old one, as in an upgrade (takeover.py), and everything that a worker makes of its
configuration is made anew. So whatever no guest or VMM has seen can change at once: the schema says
of each key whether it can (`at_once`), and everything here follows that.

An export keeps its *index*, by which the guest's fids refer to it, and its place in the daemon's
root directory, whatever is added before it or removed. It is the same export if it has the same
name and path, and that still leads to the same directory. What is added gets an index that none of
the others has, nor one that is removed at the same time, since the saved state still refers to that
until a worker has taken it over. For the same reason the device's own state keeps its name.

This module decides, and changes nothing (reloading.py does).
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from vhost9p import confinement
from vhost9p.config import EXPORTS_MAX, Config, DeviceConfig, ExportConfig, IdMap, Level
from vhost9p.config_export import EXPORT_KEYS
from vhost9p.config_schema import OWN_KEYS, TOP_KEYS
from vhost9p.config_shapes import Leaf, Shape
from vhost9p.confinement import Entered
from vhost9p.errors import UserError
from vhost9p.exports import state_key
from vhost9p.native.sandbox import Mount

SHAPE = "the guest has mounted a single directory, and exports are names below another one"


@dataclass(frozen=True)
class Plan:
    """What a reload does."""

    config: Config
    """With which the VM is served then."""
    changes: tuple[str, ...]
    """Each in words; none: it is served like this already."""
    added: tuple[Mount, ...] = ()
    """What is to be mounted in the daemon's root directory before."""
    readonly: tuple[Mount, ...] = ()
    """Mounts whose attribute changes."""


def plan(served: Config, wanted: Config, entered: Entered, replaced: Collection[str] = ()) -> Plan:
    """Returns how a VM that is served with one checked configuration comes to be served with
    another, where its processes have `entered`. `replaced` are the paths of exports at which
    another directory is by now. Raises UserError with one line that names what cannot change while
    the guest runs."""
    changes: list[str] = []
    refused: list[str] = []
    _compare("", served, wanted, TOP_KEYS, changes, refused)
    devices = tuple(_devices(served, wanted, replaced, changes, refused))
    config = replace(wanted, devices=devices)
    if not refused:
        refused += _unreachable(served, config, entered)
    if refused:
        where = f"{wanted.file}: " if wanted.file else ""
        raise UserError(
            f"{where}cannot change while the guest runs, so nothing changes: {'; '.join(refused)}. "
            "Set it back, or let it take effect by restarting VM and daemon"
        )
    if entered.level is not Level.NAMESPACE or not changes:
        return Plan(config, tuple(changes))
    before = {each.target: each for each in confinement.mounts(served)}
    after = list(confinement.mounts(config))
    return Plan(
        config,
        tuple(changes),
        tuple(each for each in after if each.target not in before),
        tuple(
            each
            for each in after
            if each.target in before and each.readonly != before[each.target].readonly
        ),
    )


# ---- values --------------------------------------------------------------------------------------


def _compare(
    whose: str,
    before: Any,
    after: Any,
    keys: dict[str, Any],
    changes: list[str],
    refused: list[str],
) -> None:
    """Compares the values of these keys, which are fields of both; but for those that one of them
    does not have as a field."""
    for key, shape in keys.items():
        old, new = getattr(before, key, None), getattr(after, key, None)
        if old == new:
            continue
        text = f"{whose}{key}{_values(shape, old, new)}"
        if shape.at_once:
            changes.append(text)
        else:
            refused.append(f"{text} ({shape.fixed})")


def _refuse_users(whose: str, old: IdMap | None, new: IdMap | None, refused: list[str]) -> None:
    """Users whom a map forbids may not enter (policy/idmap.py), but some may be there already."""
    before = IdMap() if old is None else old
    after = IdMap() if new is None else new
    for first, count in after.forbid_uid:
        if not any(start <= first and first + count <= start + n for start, n in before.forbid_uid):
            last = first + count - 1
            refused.append(
                f"{whose}id_map.forbid.uid: {first} to {last} (users who were not forbidden before "
                "may have files open)"
            )


def _values(shape: Shape, old: Any, new: Any) -> str:
    """What was and what is, if that is short."""
    if not isinstance(shape, Leaf):
        return ""
    texts = ["unset" if each in (None, "", ()) else shape.parse.write(each) for each in (old, new)]
    return f" from {texts[0]} to {texts[1]}"


# ---- devices -------------------------------------------------------------------------------------


def _place(device: DeviceConfig) -> tuple[str | None, int | None]:
    return device.socket, device.fd


def _devices(
    served: Config,
    wanted: Config,
    replaced: Collection[str],
    changes: list[str],
    refused: list[str],
) -> Iterator[DeviceConfig]:
    """Yields the devices in the order in which they are served."""
    asked = {_place(each): each for each in wanted.devices}
    if len(served.devices) == len(wanted.devices) == 1:
        asked = {_place(served.devices[0]): wanted.devices[0]}
    known = {_place(each) for each in served.devices}
    refused += [
        f"the device on {each.place} is new" for at, each in asked.items() if at not in known
    ]
    taken = {each.mount for each in _with_numbers(served)}
    for device, numbered in zip(served.devices, _numbered(served), strict=True):
        new = asked.get(_place(device))
        if new is None:
            refused.append(f"the device on {device.place} is gone")
            continue
        whose = "" if len(served.devices) == 1 else f"{device.tag}: "
        keys = {**OWN_KEYS}
        if _is_single(device) != _is_single(new):
            del keys["multidevs"]  # which follows from that
        _compare(whose, device, new, keys, changes, refused)
        if device.state_dir != new.state_dir and (device.keeps_state or new.keeps_state):
            refused.append(f"{whose}state_dir ({TOP_KEYS['state_dir'].fixed})")
        exports = _exports(whose, numbered, new.exports, replaced, taken, changes, refused)
        yield replace(new, exports=exports, state_key=state_key(device), state_dir=device.state_dir)


def _is_single(device: DeviceConfig) -> bool:
    """Whether the mount is one export."""
    return not device.exports[0].name


def _numbered(config: Config) -> Iterator[tuple[ExportConfig, ...]]:
    """Yields the exports of each device with their numbers."""
    count = 0
    for device in config.devices:
        found = []
        for index, export in device.indexed.items():
            mount = count if export.mount is None else export.mount
            found.append(replace(export, index=index, mount=mount))
            count += 1
        yield tuple(found)


def _with_numbers(config: Config) -> Iterator[ExportConfig]:
    for exports in _numbered(config):
        yield from exports


# ---- exports -------------------------------------------------------------------------------------


def _exports(
    whose: str,
    before: Collection[ExportConfig],
    after: Collection[ExportConfig],
    replaced: Collection[str],
    taken: set[int | None],
    changes: list[str],
    refused: list[str],
) -> tuple[ExportConfig, ...]:
    """Returns the exports of a device with their numbers. `taken` are the places of the VM's mounts
    that are in use, to which those of new exports are added."""
    known = {each.name: each for each in before}
    if ("" in known) != any(not each.name for each in after):
        refused.append(f"{whose}exports: {SHAPE}")
        return tuple(before)
    indexes: set[int | None] = {each.index for each in before}
    found = []
    for export in after:
        old = known.get(export.name)
        name = f"{whose}export {export.name}: " if export.name else whose
        if old and not export.name and old.path != export.path:
            refused.append(f"{name}path ({EXPORT_KEYS['path'].fixed})")
        is_listed = old is not None and old.path == export.path
        if old and is_listed and export.path not in replaced:
            keys = {key: shape for key, shape in EXPORT_KEYS.items() if key != "path"}
            _compare(name, old, export, keys, changes, refused)
            _refuse_users(name, old.id_map, export.id_map, refused)
            found.append(replace(export, index=old.index, mount=old.mount))
        elif export.name and (new := _numbered_anew(export, indexes, taken)) is None:
            refused.append(f"{name}there is no room for it until the next reload")
        elif export.name and new:
            found.append(new)
            what = f"export {export.name} ({export.path}) added"
            other = f"export {export.name}: another directory is at {export.path} now"
            changes.append(f"{whose}{other if is_listed else what}")
    listed = {(each.name, each.path) for each in found}
    for old in before:
        if old.name and (old.name, old.path) not in listed:
            changes.append(f"{whose}export {old.name} ({old.path}) removed")
    return tuple(found)


def _numbered_anew(
    export: ExportConfig, indexes: set[int | None], taken: set[int | None]
) -> ExportConfig | None:
    """Returns a new export with numbers, which are taken then; None: none is free."""
    index, place = _lowest_free(indexes, 1), _lowest_free(taken, 0)
    if index > EXPORTS_MAX:
        return None
    indexes.add(index)
    taken.add(place)
    return replace(export, index=index, mount=place)


def _lowest_free(taken: Collection[int | None], first: int) -> int:
    return next(number for number in range(first, first + len(taken) + 1) if number not in taken)


# ---- files ---------------------------------------------------------------------------------------


def _unreachable(served: Config, config: Config, entered: Entered) -> Iterator[str]:
    """What the processes of the VM could not open, since they see a part of the host only."""
    if entered.level is not Level.CHROOT:
        return
    known = {each.source for each in confinement.mounts(served)}
    for mount in confinement.mounts(config):
        if mount.source not in known and not _is_below(mount.source, entered.root):
            yield (
                f"{mount.source} is not below {entered.root}, which is the root directory of the "
                "VM's processes (sandbox: chroot)"
            )


def _is_below(path: str, root: str) -> bool:
    return os.path.commonpath((path, root)) == root
