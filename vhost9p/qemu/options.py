"""QEMU's options for a configuration: shared memory, and a device for each socket.

QEMU hands the guest's memory to the daemon as descriptors, so it has to be a backend with share=on.
Its generic vhost-user device gets from the command line what a device of its own would know:
virtio-id 9 (9P transport, virtio 1.3, 5), one queue, 128 entries (what Linux's client can use), and
256 bytes of configuration space for the mount tag. (docs/system/devices/vhost-user.rst of QEMU)
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from vhost9p.config import Config

FRONTEND = "vhost-user-test-device-pci"
"""The device that connects a guest to a vhost-user socket."""
FIRST_VERSION = "10.2"
"""The first QEMU in which users may create it."""
MEMORY_ID = "vhost9p-mem"
MIB = 2**20
DEFAULT_MEMORY = 1024 * MIB
"""Bytes for a guest of which nobody says how many: QEMU's own default is too small for Linux."""
HEADS = {
    "machine": "type",
    "memory": "size",
    "object": "qom-type",
    "chardev": "backend",
    "device": "driver",
}
"""Groups of options, and the key of the value that stands first, without its key."""
WORDS = {"memory": "m"}
"""Groups whose option has another name on the command line."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: the value that stands first (see HEADS), and further keys with values."""

    group: str
    head: str
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> tuple[str, str]:
        """The option as two words of a command line."""
        values = [escaped(self.head)] if self.head else []
        values += [f"{key}={escaped(value)}" for key, value in self.pairs]
        return f"-{WORDS.get(self.group, self.group)}", ",".join(values)


def escaped(value: str) -> str:
    """Returns a value as it stands among QEMU's comma-separated ones."""
    return value.replace(",", ",,")


def default_machine() -> str:
    """Returns the type of machine, with PCI, that suits this host's processor."""
    return "q35" if platform.machine() in ("x86_64", "i686") else "virt"


def default_program() -> str:
    """Returns the name of the QEMU for this host's processor."""
    return f"qemu-system-{platform.machine()}"


def size(number: int) -> str:
    """Returns a size in bytes, a whole number of MiB, as QEMU's options take it."""
    return f"{number // 1024 // MIB}G" if number % (1024 * MIB) == 0 else f"{number // MIB}M"


def shared_memory(text: str) -> Option:
    """The backend of a guest's memory, whose size is given as QEMU has it."""
    pairs = (("id", MEMORY_ID), ("size", text), ("share", "on"))
    return Option("object", "memory-backend-memfd", pairs)


def machine(name: str, memory: str) -> tuple[Option, ...]:
    """A machine with shared memory, whose size is given as QEMU has it."""
    return (
        Option("machine", name, (("memory-backend", MEMORY_ID),)),
        Option("memory", memory),
        shared_memory(memory),
    )


def device(number: int, socket: str, *, pluggable: bool = False) -> Iterator[Option]:
    """The device that is connected to a socket, with `pluggable` on a PCIe port of its own."""
    yield Option("chardev", "socket", (("id", chardev_id(number)), ("path", socket)))
    bus: tuple[tuple[str, str], ...] = ()
    if pluggable:
        port, slot = f"vhost9p-port{number}", str(number + 1)
        yield Option("device", "pcie-root-port", (("id", port), ("chassis", slot), ("slot", slot)))
        bus = (("bus", port),)
    pairs = (
        ("id", device_id(number)),
        ("chardev", chardev_id(number)),
        ("virtio-id", "9"),
        ("num_vqs", "1"),
        ("vq_size", "128"),
        ("config_size", "256"),
    )
    yield Option("device", FRONTEND, (*pairs, *bus))


def chardev_id(number: int) -> str:
    """Returns the id of a device's connection, by which QMP's chardev-remove names it."""
    return f"vhost9p-c{number}"


def device_id(number: int) -> str:
    """Returns the id of a device, by which QMP's device_del names it."""
    return f"vhost9p-d{number}"


def sockets(config: Config) -> list[str]:
    """Returns where the devices' sockets are."""
    return [each.socket for each in config.devices if each.socket is not None]


def of_config(
    config: Config, memory: int, machine_name: str, *, pluggable: bool = False
) -> list[Option]:
    """Returns all options for a VM whose devices have sockets."""
    options = [*machine(machine_name, size(memory))]
    for number, socket in enumerate(sockets(config)):
        options += device(number, socket, pluggable=pluggable)
    return options
