"""`vhost9p status`: what daemons serve, to whom, and how they fare (answers/status.py).

What a worker has written is only shown: cut and escaped, like all that a table prints."""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from vhost9p.control import Object, client, shapes
from vhost9p.control.client import ControlError
from vhost9p.errors import EXIT_FAILURE
from vhost9p.escapes import name_bytes, to_json
from vhost9p.log_record import one_line
from vhost9p.output import say

SUMMARY = "show what daemons serve, to whom, and how they fare"
DETAILS = (
    "Exits with 0 if all is well, and with 1 if no daemon answers, or one of them, or there is no "
    "such VM. Root sees the daemons of everybody."
)
EXAMPLE = "vhost9p status vm1\nvhost9p status --json"
SMALL_MSIZE = 128 * 1024
"""Bytes; below that each request carries so little that reading and writing are slow."""
DEVICE_TITLES = "VM TAG GUEST DIALECT MSIZE FIDS RUNNING OPEN MEMORY DEATHS WATCHED"
CELL_MAX = 200
"""Characters of a cell, of which the end says most."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the VM."""
    parser.add_argument(
        "vm", nargs="?", metavar="VM", help="its name, configuration file or socket (default: all)"
    )
    client.add_place_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


NAMES = {"config", "socket", "sockets", "path"}
"""Keys of names of files."""


def _with_names(found: Any) -> Any:
    """Makes bytes of what names files, for to_json."""
    if isinstance(found, list):
        return [*map(_with_names, found)]
    if not isinstance(found, dict):
        return found
    return {
        key: _as_bytes(value) if key in NAMES else _with_names(value)
        for key, value in found.items()
    }


def _as_bytes(name: Any) -> Any:
    if isinstance(name, list):
        return [*map(_as_bytes, name)]
    return name_bytes(name) if isinstance(name, str) else name


def run(options: argparse.Namespace) -> int:
    """Prints what the daemons say; returns the exit code."""
    try:
        places, only = client.places(options.control_socket), {}
        if options.vm is not None:
            target = client.find_vm(options.vm, places)
            places, only = [target.place], {"vm": target.vm}
    except ControlError as error:
        say(str(error))
        return EXIT_FAILURE
    code, found = 0, []
    for place in places:
        try:
            found.append(_status(place, only))
        except ControlError as error:
            say(str(error))
            code = EXIT_FAILURE
    for daemon in found:
        for vm in daemon[1:]:
            _add_usage(vm)
    if options.json:
        print(to_json([{**head, "vms": _with_names(vms)} for head, *vms in found], indent=2))
    elif found:
        print("\n\n".join("\n".join(_lines(head, vms)) for head, *vms in found))
    return code


def _status(place: client.Place, only: Object) -> list[Object]:
    """Returns the object of the daemon and those of its VMs. Raises ControlError."""
    head, *vms = [*client.ask(place, {"command": "status", **only})] or [{}]
    if not shapes.daemon(head) or not all(map(shapes.vm, vms)):
        raise ControlError(f"{place} does not say first which daemon it is")
    return [head, *vms]


def _add_usage(vm: Object) -> None:
    """Adds what quotas are used, from the file that the worker keeps (policy/usage.py)."""
    from vhost9p.policy.usage import peek

    for device in vm["devices"]:
        for export in device["exports"]:
            with suppress(OSError):
                if export["quota"] and (used := peek(device["state_dir"], export["path"])):
                    export["quota"]["used"] = {"bytes": used.bytes, "inodes": used.inodes}


# ---- for people ----------------------------------------------------------------------------------


def _lines(head: Object, vms: Sequence[Object]) -> Iterator[str]:
    count = len(vms)
    yield f"daemon {head['daemon']}, version {one_line(str(head['version']))}: " + (
        "1 VM" if count == 1 else f"{count} VMs"
    )
    if not vms:
        return
    yield ""
    yield from table(
        tuple(DEVICE_TITLES.split()),
        [_device_row(vm, device) for vm in vms for device in vm["devices"]],
        right=range(4, 10),
    )
    yield ""
    yield from table(
        ("VM", "TAG", "EXPORT", "MODEL", "PATH", ""),
        [
            (vm["vm"], device["tag"], f"/{export['name']}", export["security_model"],
             export["path"], ", ".join(_traits(export)))
            for vm in vms for device in vm["devices"] for export in device["exports"]
        ],
    )  # fmt: skip
    if notes := [f"{vm['vm']}: {note}" for vm in vms for note in _notes(vm)]:
        yield ""
        yield from (f"! {one_line(note)}" for note in notes)


def _device_row(vm: Object, device: Object) -> tuple[Any, ...]:
    worker = vm["worker"] or {}
    guest = "mounted" if device["mounted"] else "connected" if device["connected"] else "none"
    mounted: tuple[Any, ...] = ("", "", "")
    if device["mounted"]:
        mounted = device["dialect"], size(device["msize"]), device["fids"]
    return (
        *(vm["vm"], device["tag"], guest if vm["state"] == "serving" else vm["state"], *mounted),
        device.get("inflight", "") if device["connected"] else "",
        worker.get("descriptors") or "",
        size(worker["memory"]) if worker else "",
        vm["deaths"]["count"] or "",
        (device.get("notify") or {}).get("watched", ""),
    )


def _traits(export: Object) -> Iterator[str]:
    if export["readonly"]:
        yield "read-only"
    if export["throttled"]:
        yield "throttled"
    quota = export["quota"] or {}
    used = quota.get("used", {})
    for key, write in (("bytes", size), ("inodes", str)):
        if quota.get(key) is not None:
            what = write(used[key]) if used else "?"
            yield f"{what} of {write(quota[key])}{' files' if key == 'inodes' else ''} used"


def _notes(vm: Object) -> Iterator[str]:
    """What a person should look at."""
    for device in vm["devices"]:
        if device["mounted"] and device["msize"] < SMALL_MSIZE:
            yield (
                f"{device['tag']} is mounted with msize {device['msize']}, which makes reading and "
                f"writing slow: mount it with -o msize={min(device['msize_max'], 512 * 1024)}"
            )
        if device.get("broken"):
            yield f"{device['tag']}: the ring is broken: restart the guest (the log says more)"
        if device.get("dead"):
            yield f"{device['tag']}: {device['dead']} requests hang in a file system of the host"
        notify = device.get("notify") or {"watched": "", "lacks": []}
        if notify["watched"] == "nothing":
            yield f"{device['tag']}: changes by the host are not watched now (the log says more)"
        for lack in notify["lacks"]:
            yield f"{device['tag']}: changes by the host are not reported to the guest: {lack}"
    deaths = vm["deaths"]
    if deaths["count"]:
        times = "once" if deaths["count"] == 1 else f"{deaths['count']} times"
        yield f"the worker has died {times}, last {_when(deaths['at'])}: it {deaths['last']}"
    if lacks := vm["confinement"]["lacks"]:
        yield f"confined without {', '.join(map(str, lacks))}"
    if vm["confinement"]["level"] == "none":
        yield "is not confined (sandbox: none)"


def _when(at: float) -> str:
    with suppress(ValueError, OverflowError, OSError):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return "at an unknown time"


def size(count: int) -> str:
    """Returns a number of bytes in three digits or so."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):  # noqa: B007
        if number < 1024:
            break
        number /= 1024
    return (
        f"{number:.0f} {unit}" if number >= 10 or number == int(number) else f"{number:.1f} {unit}"
    )


def table(
    titles: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()
) -> Iterator[str]:
    """Yields the lines of a table, without columns that are empty. Cells of columns in `right`
    end at the right."""
    cells = [[_cell(each) for each in row] for row in rows]
    kept = [i for i in range(len(titles)) if any(row[i] for row in cells) or i < 3]
    widths = {i: max(len(titles[i]), *(len(row[i]) for row in cells)) for i in kept}
    for row in (titles, *cells):
        padded = (row[i].rjust(widths[i]) if i in right else row[i].ljust(widths[i]) for i in kept)
        yield "  ".join(padded).rstrip()


def _cell(value: Any) -> str:
    text = one_line(str(value))
    return text if len(text) <= CELL_MAX else "…" + text[-CELL_MAX + 1 :]
