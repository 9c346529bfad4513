"""remap: paths. The vectors, the properties, the limits; made-up devices on no mount."""

import errno
import json
import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy.guest import Remap, no_probe, remap
from vhost9p.native.qidmap import QidMap
from vhost9p.policy.mounts import Mount, MountTable, Probe
from vhost9p.policy.remap import MAX_FILES_LIMIT, MAX_GROUPS, RemapPolicy
from vhost9p.policy.state import RECORD_SIZE
from vhost9p.policy.suffix import suffix

TIMEOUT = 20
VECTORS = json.loads((Path(__file__).parent / "vectors" / "multidevs.json").read_text())

INODES = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 100),
    # Few low bits under any high ones: what collides where high bits get lost.
    st.builds(lambda high, low: high << 56 | low, st.integers(0, 255), st.integers(0, 3)),
)
FILES = st.lists(st.tuples(st.integers(0, 40), INODES), max_size=120)


def prime(made: Remap, vector: dict[str, Any]) -> None:
    for first, last, ino in vector.get("prime", []):
        for st_dev in range(first, last + 1):
            made.path(st_dev, int(ino, 16))


@pytest.mark.parametrize("vector", VECTORS["sequences"], ids=lambda vector: vector["name"])
def test_remap_follows_the_vectors(vector: dict[str, Any]) -> None:
    with remap() as made:
        prime(made, vector)
        for st_dev, ino, expected, _ in vector["steps"]:
            assert hex(made.path(st_dev, int(ino, 16))) == expected, (st_dev, ino)


@pytest.mark.parametrize("vector", VECTORS["sequences"], ids=lambda vector: vector["name"])
def test_vector_with_a_restart_at_each_step(vector: dict[str, Any], tmp_path: Path) -> None:
    with remap(tmp_path) as made:
        prime(made, vector)
    for st_dev, ino, expected, _ in vector["steps"]:
        with remap(tmp_path) as made:
            assert hex(made.path(st_dev, int(ino, 16))) == expected, (st_dev, ino)


@given(files=FILES, again=st.randoms(use_true_random=False), cut=st.integers(0, 120))
@settings(deadline=None, max_examples=150)
def test_paths_are_unique_stable_and_reloadable(
    files: list[tuple[int, int]], again: Any, cut: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paths: dict[tuple[int, int], int] = {}
        for part in (files[:cut], files[cut:]):
            with remap(directory) as made:
                for file in part:
                    assert paths.setdefault(file, made.path(*file)) == made.path(*file)
        assert len(set(paths.values())) == len(paths)
        assert all(0 <= path < 1 << 64 for path in paths.values())
        order = list(paths)
        again.shuffle(order)
        with remap(directory) as made:
            assert {file: made.path(*file) for file in order} == {
                file: paths[file] for file in order
            }


@given(files=FILES, more=FILES, damage=st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_damage_never_gives_a_path_to_another_file(
    files: list[tuple[int, int]], more: list[tuple[int, int]], damage: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with remap(directory) as made:
            before = {file: made.path(*file) for file in files}
        (state,) = directory.iterdir()
        data = bytearray(state.read_bytes())
        head = len(data) % RECORD_SIZE
        for at in damage if len(data) > head else []:
            data[head + at % (len(data) - head)] ^= 0xFF
        state.write_bytes(data)
        owners = {path: file for file, path in before.items()}
        for part in (more + files, files + more):
            with remap(directory) as made:
                for file in part:
                    assert owners.setdefault(made.path(*file), file) == file


def test_damage_costs_only_what_was_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with remap(tmp_path) as made:
        before = [made.path(dev, 1) for dev in range(10)]
    (state,) = tmp_path.iterdir()
    data = bytearray(state.read_bytes())
    data[-3 * RECORD_SIZE - 1] ^= 1  # the last but one device's only group
    state.write_bytes(data)
    with remap(tmp_path) as made:
        after = [made.path(dev, 1) for dev in range(10)]
    assert [dev for dev in range(10) if before[dev] != after[dev]] == [8]
    assert after[8] not in before
    assert "1 damaged records" in caplog.text
    caplog.clear()
    with remap(tmp_path) as made:
        assert [made.path(dev, 1) for dev in range(10)] == after
    assert not caplog.records


def test_more_than_256_devices_are_kept_apart() -> None:
    with remap() as made:
        files = [(st_dev, ino) for ino in (1, 2, 1 << 63) for st_dev in range(1000)]
        paths = [made.path(*file) for file in files]
        assert len(set(paths)) == len(files)
        assert [made.path(*file) for file in files] == paths
        assert made.policy.sizes() == {"devices": 1000, "groups": 1000 + 1000, "files": 0}


def test_files_get_paths_of_their_own_when_groups_run_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = suffix(MAX_GROUPS + 1)
    with remap(tmp_path, max_files=3) as made:
        paths = {(dev, 1): made.path(dev, 1) for dev in range(MAX_GROUPS)}
        assert made.policy.sizes() == {"devices": MAX_GROUPS, "groups": MAX_GROUPS, "files": 0}
        assert not caplog.records
        # A known group still serves inodes that were never seen.
        paths[7, 5] = made.path(7, 5)
        single = [(7, 1 << 63), (MAX_GROUPS, 1), (MAX_GROUPS, 2)]
        for number, file in enumerate(single, 1):
            paths[file] = made.path(*file)
            assert paths[file] == number << 33 | last.value
        assert len(set(paths.values())) == len(paths)
        for _ in range(2):
            with pytest.raises(OSError) as refused:
                made.path(MAX_GROUPS + 1, 1)
            assert refused.value.errno == errno.ENFILE
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.ERROR]
    assert "degraded performance" in caplog.text
    with remap(tmp_path, max_files=4) as made:
        assert made.policy.sizes() == {
            "devices": MAX_GROUPS + 2,
            "groups": MAX_GROUPS,
            "files": 3,
        }
        assert all(made.path(*file) == path for file, path in paths.items())
        assert made.path(MAX_GROUPS + 1, 1) == 4 << 33 | last.value


@pytest.mark.parametrize("limit", [-1, MAX_FILES_LIMIT + 1])
def test_refuses_a_limit_that_paths_cannot_hold(limit: int) -> None:
    mounts = MountTable()
    with pytest.raises(ValueError, match="max_files"):
        RemapPolicy(QidMap(), mounts, no_probe, None, max_files=limit)
    mounts.close()


def test_threads_that_ask_for_the_same_get_the_same() -> None:
    files = [(dev, ino << 60 | 1) for dev in range(20) for ino in range(16)]
    seen: list[list[int]] = []
    with remap() as made:
        start = threading.Barrier(4)

        def ask() -> None:
            start.wait()
            seen.append([made.path(*file) for file in files])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made.policy.sizes()["devices"] == 20
    assert len(seen) == 4
    assert all(paths == seen[0] for paths in seen)
    assert len(set(seen[0])) == len(files)


def test_a_mount_that_hangs_holds_up_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deciding on a device waits for a file system; files of others are numbered meanwhile."""
    hangs, goes_on = threading.Event(), threading.Event()

    def identify(self: MountTable, mnt_id: int, fd: int, probe: Probe) -> Mount:
        hangs.set()
        assert goes_on.wait(TIMEOUT)
        return Mount(mnt_id, mnt_id, 0, 0)

    with remap() as mine, tempfile.TemporaryFile() as file:
        path = mine.path(7, 5)
        monkeypatch.setattr(MountTable, "identify", identify)
        device = threading.Thread(target=mine.policy.device, args=(8, 1, file.fileno()))
        device.start()
        assert hangs.wait(TIMEOUT)
        group = threading.Thread(target=mine.policy.group, args=(0, 1 << 63))
        group.start()
        group.join(5)
        held_up = group.is_alive()
        goes_on.set()
        device.join()
        group.join()
        assert not held_up
        assert mine.path(7, 5) == path
