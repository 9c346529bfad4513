"""Answers "counts": all that is counted, for metrics (metrics/) and whoever watches."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vhost9p.answers import status
from vhost9p.control import Object
from vhost9p.control.server import Client

if TYPE_CHECKING:
    from vhost9p.daemon import Daemon


def answer(daemon: "Daemon", request: Object, client: Client) -> Iterator[Object]:
    """Yields the status of each VM, and then an object for each export of each of its devices."""
    for vm in [*daemon.vms.values()]:
        yield status.status_of(daemon, vm)
        for number, device in enumerate(vm.config.devices):
            for name, each in vm.facts.counts(number):
                types = [one._asdict() for one in each.types]
                counted = {**each._asdict(), "types": types}
                yield {"vm": vm.name, "tag": device.tag, "export": name, "counts": counted}
