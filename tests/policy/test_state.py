"""The state file: what is in it, what damage does, who may use it."""

import errno
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy.guest import open_state, remap
from vhost9p.policy.state import RECORD_SIZE, Record, StateError, StateFile

RECORDS = [Record(1, n, n * 1000, (1 << 64) - 1, n, 0) for n in range(5)]
ROOT = Path(__file__).parents[2]
U64 = st.integers(0, (1 << 64) - 1)


def fill(directory: Path, *records: Record) -> Path:
    """A closed state file with these records."""
    state = open_state(directory)
    state.append(*records)
    state.close()
    return directory / state.name


def content(directory: Path) -> tuple[list[Record], int]:
    """The records and the number of damaged ones."""
    state = open_state(directory)
    records = list(state.records())
    state.close()
    return records, state.damaged


@given(
    records=st.lists(
        st.builds(Record, st.integers(0, 255), st.integers(0, (1 << 32) - 1), U64, U64, U64, U64)
    )
)
@settings(deadline=None, max_examples=50)
def test_gives_back_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    directory = tmp_path_factory.mktemp("state")
    for record in records:
        fill(directory, record)
    assert content(directory) == (records, 0)


def test_is_private_and_has_one_file_per_key(tmp_path: Path) -> None:
    one, two = open_state(tmp_path, "/srv/a tag"), open_state(tmp_path, "/srv/b tag")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([one.name, two.name])
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    one.close()
    two.close()


def test_is_emptied_after_a_reboot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fill(tmp_path, *RECORDS)
    later = open_state(tmp_path, boot=bytes(16))
    assert list(later.records()) == []
    later.close()
    assert "earlier boot" in caplog.text
    assert content(tmp_path) == ([], 0)


def test_uses_the_boot_id_of_the_host(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for expected in ([], RECORDS):
        state = StateFile(fd, "key")
        assert list(state.records()) == expected
        state.append(*RECORDS[len(expected) :])
        state.close()
    os.close(fd)


@pytest.mark.parametrize("cut", [1, 8, RECORD_SIZE - 1])
def test_a_torn_tail_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = fill(tmp_path, *RECORDS)
    os.truncate(path, path.stat().st_size - cut)
    assert content(tmp_path) == (RECORDS[:-1], 0)
    fill(tmp_path, RECORDS[0])
    assert content(tmp_path) == ([*RECORDS[:-1], RECORDS[0]], 0)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("place", range(RECORD_SIZE))
def test_a_flipped_bit_costs_one_record(tmp_path: Path, place: int) -> None:
    path = fill(tmp_path, *RECORDS)
    flip(path, path.stat().st_size - 3 * RECORD_SIZE + place)
    assert content(tmp_path) == ([*RECORDS[:2], *RECORDS[3:]], 1)


def test_records_are_only_valid_in_their_place(tmp_path: Path) -> None:
    path = fill(tmp_path, *RECORDS)
    data = path.read_bytes()
    head = len(data) - 5 * RECORD_SIZE
    first, second = data[head:][:RECORD_SIZE], data[head + RECORD_SIZE :][:RECORD_SIZE]
    path.write_bytes(data[:head] + second + first + data[head + 2 * RECORD_SIZE :])
    assert content(tmp_path) == (RECORDS[2:], 2)


@pytest.mark.parametrize("place", [0, 8, 12, 20, 33, 38])
def test_a_damaged_header_starts_anew(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip(fill(tmp_path, *RECORDS), place)
    assert content(tmp_path) == ([], 0)
    assert "starting anew" in caplog.text
    fill(tmp_path, *RECORDS)
    assert content(tmp_path) == (RECORDS, 0)


def test_another_keys_file_is_not_used(tmp_path: Path) -> None:
    path = fill(tmp_path)
    other = open_state(tmp_path, "other")
    other.close()
    path.rename(tmp_path / other.name)
    with pytest.raises(StateError, match="belongs to 'key'"):
        open_state(tmp_path, "other")


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    with pytest.raises(StateError, match="in use: another daemon serves 'key'"):
        open_state(tmp_path)
    state.rewrite(RECORDS)
    with pytest.raises(StateError, match="in use"):
        open_state(tmp_path)
    state.close()
    assert content(tmp_path) == (RECORDS, 0)


def test_a_symlink_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to("elsewhere")
    with pytest.raises(StateError, match="symbolic link"):
        open_state(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(StateError, match="not a regular file"):
        open_state(tmp_path)


def test_a_file_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.chmod(0o640)
    with pytest.raises(StateError, match="0o640"):
        open_state(tmp_path)
    path.chmod(0o600)
    os.link(path, tmp_path / "second")
    with pytest.raises(StateError, match=r"2 link\(s\)"):
        open_state(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    os.chown(fill(tmp_path), 12345, -1)
    with pytest.raises(StateError, match="belongs to uid 12345"):
        open_state(tmp_path)


def test_rewriting_replaces_all_at_once(tmp_path: Path) -> None:
    fill(tmp_path, *RECORDS)
    state = open_state(tmp_path)
    state.rewrite(record for record in state.records() if record.device % 2)
    state.append(RECORDS[0])
    state.close()
    assert content(tmp_path) == ([RECORDS[1], RECORDS[3], RECORDS[0]], 0)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_rewriting_that_fails_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, *RECORDS)
    state = open_state(tmp_path)

    def broken() -> Iterator[Record]:
        yield RECORDS[4]
        raise OSError(errno.EIO, "")

    with pytest.raises(OSError):
        state.rewrite(broken())
    state.append(RECORDS[0])
    state.close()
    assert content(tmp_path) == ([*RECORDS, RECORDS[0]], 0)
    assert len(list(tmp_path.iterdir())) == 1


NO_SPACE = """
import os, resource, signal, sys
from pathlib import Path
from tests.policy.guest import open_state, remap
from vhost9p.policy.state import RECORD_SIZE

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = Path(sys.argv[1])
with remap(directory) as made:
    first = made.path(1, 1)
    size = next(directory.iterdir()).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + RECORD_SIZE + 7, -1))
    for _ in range(2):
        try:
            made.path(2, 1)
        except OSError as err:
            print(err.errno)
    print(made.policy.sizes()["devices"], next(directory.iterdir()).stat().st_size == size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    print(first, made.path(1, 1), made.path(2, 1))
"""


def test_a_full_disk_fails_the_request_and_is_survived(tmp_path: Path) -> None:
    # A limit on the file's size stands in for a full disk: the write comes back short, then fails.
    args = [sys.executable, "-c", NO_SPACE, str(tmp_path)]
    out = subprocess.run(args, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.split() == [str(errno.EFBIG)] * 2 + ["1", "True", "3", "3", "10"]
    with remap(tmp_path) as made:
        assert [made.path(2, 1), made.path(1, 1)] == [10, 3]
