"""How many identities of files the policies for several file systems have used (policy/remap.py): a
worker writes it for each of its devices, behind what it has reached (progress.py), and main reads
it for whoever asks. A worker that an attacker controls can write anything."""

import struct
from typing import NamedTuple

from vhost9p.progress import SIDE

_NUMBERS = struct.Struct("=II")  # SIDE bytes


class Identities(NamedTuple):
    """Of a device."""

    groups: int
    """Groups of inodes, with a suffix of their qid.path."""
    files: int
    """Files that are numbered one by one, since no group was left."""


def write(memory: memoryview, device: int, identities: Identities) -> None:
    """A device, by its number, has used so many."""
    _NUMBERS.pack_into(memory, device * SIDE, *identities)


def read(memory: memoryview, device: int) -> Identities:
    """Returns that."""
    return Identities(*_NUMBERS.unpack_from(memory, device * SIDE))
