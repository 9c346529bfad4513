"""What main takes over from the main process before it: another version of the code, in the same
process (upgrade.py), or one that has died, if a service manager has kept what it had
(fd_store.py)."""

import logging
import os
import socket
from collections.abc import Collection, Mapping
from typing import Any

from vhost9p import __version__, copies
from vhost9p.fd_store import FdStore, Kept
from vhost9p.handover import Handover
from vhost9p.log_record import about
from vhost9p.native.process import set_name
from vhost9p.notify import HandedOver, Manager
from vhost9p.output import start_log
from vhost9p.parcel import Parcel
from vhost9p.saved_state import SavedState, Unreadable
from vhost9p.vhost_user.listener import Listener
from vhost9p.vm import HANG, Vm

log = logging.getLogger(__name__)

_SHARED = "report", "progress", "inventory", "bell"
"""Descriptors that every VM has."""

# ---- another version -----------------------------------------------------------------------------


def read_vms(received: Handover) -> list[Vm]:
    """Returns the VMs of the version before. If this process only tries, it ends here. Raises
    Unreadable, OSError."""
    vms = [_vm_before(each) for each in received.written["vms"]]
    for vm in vms:
        vm.code_is_new = True
    if received.only_tries:
        for vm in vms:
            vm.rehearse()
        received.answer()
    start_log(received.written["log_level"], *received.written.get("log_form", ()))
    set_name("vhost9p")
    return vms


def _vm_before(written: dict[str, Any]) -> Vm:
    """Raises OSError, Unreadable."""
    vm = Vm.read(written)
    if written.get("copies"):  # older versions leave none
        same = {number: number for number in map(int, os.listdir("/proc/self/fd"))}
        vm.copies.read(written["copies"], same, set())
        vm.parcel = _parcel_of(written, same)
        for fd in vm.all_descriptors:
            os.set_inheritable(fd, False)
    return vm


def store_of(written: Mapping[str, Any]) -> FdStore:
    """Returns the store of the version before, which may have had none. Raises OSError."""
    manager = Manager(written.get("manager", ""), written.get("watchdog_s", 0))
    return FdStore(manager, written.get("store"))


def listener_of(written: Mapping[str, Any]) -> Listener | None:
    """Returns the control socket of the version before; None if it had none. Raises OSError."""
    if not (control := written.get("control")):
        return None
    listener = Listener.read(socket.socket(fileno=control["fd"]), control)
    os.set_inheritable(listener.fileno(), False)
    return listener


# ---- one that has died ---------------------------------------------------------------------------


def receive(store: FdStore, kept: Collection[HandedOver]) -> Kept | None:
    """Returns what a main process has left that has died, of which the service manager has `kept`
    this; None if there is none, or it is refused, which is said. Raises OSError."""
    try:
        return store.receive(kept)
    except Unreadable as error:
        log.error(
            "what the service manager has kept is refused: %s: %s", error, HANG, extra=about()
        )
        store.clear()
        return None


def vms_of(kept: Kept) -> list[Vm]:
    """Returns the VMs that go on after the death of the main process before; the others are
    refused, which is said."""
    vms = []
    # A worker can have listed any descriptor that it has, also one of the VM's own.
    taken = {number for each in kept.written["vms"] for number in _own(each, kept.numbers)}
    for written in kept.written["vms"]:
        try:
            vm = _vm_of(written, kept.numbers, taken)
            vm.code_is_new = kept.written.get("version") != __version__
            vms.append(vm)
        except (OSError, Unreadable) as error:
            name = str(written.get("name"))
            log.error("%s cannot go on: %s: %s", name, error, HANG, extra=about(vm=name))
    used = {fd for vm in vms for fd in vm.all_descriptors}
    copies.refuse({*kept.numbers.values()} - used)
    return vms


def _own(written: Mapping[str, Any], numbers: Mapping[int, int]) -> set[int]:
    """The descriptors of a VM but for its copies, as far as they were kept."""
    one = [written.get(key, -1) for key in (*_SHARED, "trace", "log")]
    sockets = [each["fd"] for each in written.get("sockets", ())]
    rings = [fd for each in written.get("rings", ()) if each for fd in each]
    parcel = (written.get("parcel") or {"fds": ()})["fds"]
    each = (*one, *written.get("states", ()), *sockets, *rings, *parcel)
    return {numbers[fd] for fd in each if fd in numbers}


def _vm_of(written: dict[str, Any], numbers: Mapping[int, int], taken: set[int]) -> Vm:
    """`taken` are the descriptors that something has already. Raises OSError, Unreadable."""
    try:
        one = {key: numbers[written[key]] for key in _SHARED}
        more: dict[str, Any] = {
            "states": [numbers[fd] for fd in written["states"]],
            "sockets": [{**each, "fd": numbers[each["fd"]]} for each in written["sockets"]],
            "log": numbers[written["log"]] if written["log"] >= 0 else -1,
            "trace": numbers.get(written.get("trace", -1), -1),  # older versions have none
            "rings": [each and [numbers[fd] for fd in each] for each in written.get("rings", ())],
        }
        for fd in more["states"]:
            SavedState.open(fd)  # before anything is taken over
        vm = Vm.read({**written, **one, **more})
    except KeyError as error:
        raise Unreadable(f"descriptor {error} was not kept") from None
    try:
        vm.copies.read(written["copies"], numbers, taken)
    except KeyError as error:  # the manager's store is full: the VM begins anew, with its sockets
        log.error(
            "%s: descriptor %s of its session was not kept",
            *(vm.name, error),
            extra=about(vm=vm.name),
        )
    vm.parcel = _parcel_of(written, numbers) if vm.copies.has_namespaces else None
    vm.supervise()
    return vm


def _parcel_of(written: Mapping[str, Any], numbers: Mapping[int, int]) -> Parcel | None:
    """Returns what has been left of the keeper's descriptors; None if that is not all there."""
    parcel = written.get("parcel")  # older versions leave none
    if not parcel or any(fd not in numbers for fd in parcel["fds"]):
        return None
    return Parcel([numbers[fd] for fd in parcel["fds"]], parcel["count"], parcel["end"])
