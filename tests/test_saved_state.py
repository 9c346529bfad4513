"""The format of the saved state: its number, and which code reads it."""

from __future__ import annotations

import os

import pytest

from vhost9p import saved_state
from vhost9p.fs import lock_records
from vhost9p.native import shared_memory
from vhost9p.saved_state import FIRST_ADDRESS, Header, SavedState, Unreadable, fingerprint


def test_the_layout_has_all_that_lies_there() -> None:
    fields = {line.split()[0]: line.split()[1:] for line in shared_memory.layout()}
    for name in ("v9_device.ring", "v9_request.chain", "v9_fid.io_lru", "v9_inode.st_ino"):
        assert int(fields[name][1]) > 0
    assert fields["v9_fid.entered"] == ["0", "0"]  # a bit has no address
    assert fields["v9_fid"] == ["0", "64"]
    assert "v9_transfer.control" in fields and "v9_bucket.level" in fields
    assert fields["v9_state.V9_RUNNING"] == ["1", "0"]
    assert "v9_notifier.fd" not in fields  # only pointed at


@pytest.mark.parametrize("change", ["name", "offset", "size", "order", "constant"])
def test_every_change_shows(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    lines = shared_memory.layout()
    index = next(i for i, line in enumerate(lines) if line.startswith("v9_fid.uid "))
    name, offset, size = lines[index].split()
    changed = {
        "name": f"{name}x {offset} {size}",
        "offset": f"{name} {int(offset) + 4} {size}",
        "size": f"{name} {offset} {int(size) * 2}",
        "order": lines[index - 1],
        "constant": lines[index],
    }[change]
    if change == "order":
        lines[index - 1] = lines[index]
    lines[index] = changed
    monkeypatch.setattr(shared_memory, "layout", lambda: lines)
    if change == "constant":
        monkeypatch.setattr(lock_records, "FILES", 17)
    assert fingerprint.__wrapped__() != before


@pytest.fixture
def saved() -> SavedState:
    return SavedState.create(100, FIRST_ADDRESS)


def test_what_was_written_is_read(saved: SavedState) -> None:
    assert SavedState.open(saved.fd).header == saved.header == Header.new(100, FIRST_ADDRESS)
    parts = saved.map(anywhere=False)
    assert parts.at_home
    parts.locks[7] = 9
    assert os.pread(saved.fd, 1, saved_state.PAGE + saved.header.offsets[1] + 7) == b"\x09"
    with pytest.raises(OSError, match="the memory at 0x200000000000 is in use"):
        saved.try_map()
    assert not saved.map(anywhere=True).at_home
    shared_memory.unmap(parts.connection, saved.header.offsets[3])
    saved.try_map()
    saved.try_map()


def test_states_of_a_vm_have_places_of_their_own() -> None:
    header = Header.new(16_000_000, FIRST_ADDRESS)
    assert header.next_address >= header.address + header.offsets[3] + saved_state.ALIGNMENT
    assert header.next_address % saved_state.ALIGNMENT == 0


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "no header"),
        (b"[1]\n", "no header"),
        (b"{}\n", "no header"),
        (b'{"format": 0}\n', "has format 0, and this version reads 1 only"),
        (b'{"format": 1}\n', "is laid out otherwise than format 1 of this version"),
        (b'{"format": 1, "fingerprint": "0"}\n', "is laid out otherwise"),
    ],
)
def test_what_is_not_known_is_refused(saved: SavedState, header: bytes, why: str) -> None:
    os.pwrite(saved.fd, header.ljust(saved_state.PAGE, b"\0"), 0)
    with pytest.raises(Unreadable, match=why):
        SavedState.open(saved.fd)
