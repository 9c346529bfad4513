"""Answers "trace": lets a client watch the requests of a VM, until it hangs up.

The first object of the answer has the format of records, and a descriptor, of memory that the
client can only read, and to which the VM's worker writes (trace/memory.py). Each reload is followed
by another one with the names that exports have then. Main itself does not look at what is in there.
It switches recording on, and off as soon as the connection of the last client has ended, however
that comes.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from vhost9p.config import DeviceConfig
from vhost9p.control import Object
from vhost9p.control.server import Client
from vhost9p.errors import UserError
from vhost9p.native.export import NOTICES
from vhost9p.trace.memory import DATA_MAX, FORMAT

if TYPE_CHECKING:
    from vhost9p.daemon import Daemon
    from vhost9p.vm import Vm


def answer(daemon: "Daemon", request: Object, client: Client) -> None:
    """Begins the answer. Raises UserError, OSError."""
    vm = daemon.vms.get(str(request.get("vm")))
    data = request.get("data", 0)
    if vm is None:
        raise UserError(f"there is no VM {str(request.get('vm'))!r:.200}")
    if type(data) is not int or not 0 <= data <= DATA_MAX:
        raise UserError(f"data: {data!r:.40} is no number from 0 to {DATA_MAX}")
    if not vm.trace.is_ready:
        raise UserError(f"{vm.name} cannot be traced: it does not serve, or by an older version")
    fd = vm.trace.open_readonly()
    try:
        client.send({"format": FORMAT, "devices": _devices(vm)}, [fd])
    finally:
        os.close(fd)
    client.ended.append(partial(vm.trace.leave, client))

    def renew() -> None:
        client.send({"devices": _devices(vm)})

    vm.trace.watch(client, data, renew, client.end)


def _devices(vm: "Vm") -> list[Object]:
    return [{"tag": each.tag, "exports": [*_names(each)]} for each in vm.config.devices]


def _names(device: DeviceConfig) -> Iterator[str]:
    """Yields the names of exports, and of the directory of notices, in the order of their indexes;
    empty where there is none."""
    names = {index: each.name for index, each in device.indexed.items()}
    if device.notify:
        names[NOTICES] = device.notify_name
    for index in range(max(names) + 1):
        yield names.get(index, "")
