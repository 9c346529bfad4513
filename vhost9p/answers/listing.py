"""Answers "list": which VMs there are, and by what a person may name them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vhost9p.control import Object
from vhost9p.control.server import Client

if TYPE_CHECKING:
    from vhost9p.daemon import Daemon
    from vhost9p.vm import Vm


def answer(daemon: "Daemon", request: Object, client: Client) -> Iterator[Object]:
    """Yields an object for each VM: its name, its configuration file, its sockets."""
    for vm in [*daemon.vms.values()]:
        yield names_of(vm)


def names_of(vm: "Vm") -> Object:
    """Returns how a VM is named."""
    sockets = [each.socket or f"--fd {each.fd}" for each in vm.config.devices]
    return {"vm": vm.name, "config": vm.config.file, "sockets": sockets}
