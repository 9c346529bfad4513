"""Answers "status": what the daemon serves, to whom, and how it fares."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from vhost9p import __version__, identities
from vhost9p.answers import listing
from vhost9p.config import DeviceConfig, ExportConfig
from vhost9p.control import Object
from vhost9p.control.server import Client
from vhost9p.policy.remap import MAX_GROUPS
from vhost9p.vm_facts import VmFacts

if TYPE_CHECKING:
    from vhost9p.daemon import Daemon
    from vhost9p.vm import Vm


def answer(daemon: "Daemon", request: Object, client: Client) -> Iterator[Object]:
    """Yields an object for the daemon, and one for each VM; for one only, if "vm" names it."""
    name = request.get("vm")
    yield {"daemon": os.getpid(), "version": __version__, "vms": len(daemon.vms)}
    for vm in [*daemon.vms.values()]:
        if name in (None, vm.name):
            yield status_of(daemon, vm)


def status_of(daemon: "Daemon", vm: "Vm") -> Object:
    """Returns what there is to say of a VM."""
    facts = vm.facts
    worker, deaths = facts.worker(), facts.progress.deaths
    return {
        **listing.names_of(vm),
        "state": _state(vm),
        "keeper": facts.keeper,
        "worker": worker and worker._asdict(),
        "deaths": {"count": deaths.count, "at": deaths.at, "last": facts.why_last},
        "confinement": {"level": facts.confinement, "lacks": facts.lacks},
        "devices": [
            {**_device(facts, i, each), "notify": _notify(daemon, vm, i)}
            for i, each in enumerate(facts.config.devices)
        ],
    }


def _state(vm: "Vm") -> str:
    if vm.stopped_at is not None:
        return "ending"
    if vm.next_start is not None:
        return "waiting"
    return "serving" if vm.has_served else "starting"


def _device(facts: VmFacts, number: int, config: DeviceConfig) -> Object:
    found = facts.device(number)
    described = {
        "tag": config.tag,
        "socket": config.socket,
        "msize_max": config.msize_max,
        "max_fids": config.max_fids,
        "multidevs": config.multidevs,
        "state_dir": config.state_dir,
        "exports": [_export(each) for each in config.exports],
    }
    if config.multidevs == "remap":
        used = identities.read(facts.progress.identities, number)
        described["qid_groups"], described["qid_groups_limit"] = used.groups, MAX_GROUPS
        described["qid_single_files"] = used.files
    if not found:
        return {**described, "connected": False, "mounted": False}
    view = {**asdict(found.view), "dialect": found.view.dialect_name}
    mounted = found.is_connected and found.view.fids > 0
    return {**described, "connected": found.is_connected, "mounted": mounted, **view}


def _notify(daemon: "Daemon", vm: "Vm", number: int) -> Object | None:
    """Returns how the host's changes are watched for a device; None: they are not reported."""
    if not vm.rings[number]:
        return None
    if vm.marks_dirs:
        return {"watched": "directories", "lacks": []}
    lacks = daemon.watchers.lacks(vm.name, number)
    return {"watched": "nothing" if lacks is None else "file systems", "lacks": lacks or []}


def _export(config: ExportConfig) -> Object:
    quota = config.quota and {"bytes": config.quota.bytes, "inodes": config.quota.inodes}
    return {
        "name": config.name,
        "path": config.path,
        "security_model": config.model,
        "readonly": config.readonly,
        "throttled": config.throttling is not None,
        "quota": quota,
    }
