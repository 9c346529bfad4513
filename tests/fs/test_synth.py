"""Made-up devices and inodes, seen through 9P requests: the figures of the multidevs policy."""

import json
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.daemon import Daemon
from tests.system.share import SECURITY, Share, mounted

VECTORS = json.loads(
    (Path(__file__).parents[1] / "policy/vectors/multidevs.json").read_text(encoding="utf-8")
)
HostFile = tuple[int, int]


def steps_of(sequence: dict[str, Any]) -> list[tuple[HostFile, int | None, int | None]]:
    """(device, inode), the path that it must get, and QEMU's; None where no path is told."""
    steps: list[tuple[HostFile, int | None, int | None]] = []
    for first, last, ino in sequence.get("prime", []):
        steps += [((dev, int(ino, 16)), None, None) for dev in range(first, last + 1)]
    for dev, ino, path, qemu in sequence["steps"]:
        steps.append(((dev, int(ino, 16)), int(path, 16), int(qemu, 16)))
    return steps


@contextmanager
def synth(directory: Path, names: dict[HostFile, bytes], multidevs: str) -> Iterator[Share]:
    """A guest of an export with these files; the name b"" stands for the export itself."""
    export = directory / "export"
    export.mkdir()
    for name in filter(None, names.values()):
        (export / name.decode()).write_bytes(name)
    table = directory / "table.json"
    table.write_text(json.dumps([(name.decode(), *host) for host, name in names.items()]))
    wrapper = [sys.executable, "-m", "tests.fs.synth_daemon", str(table)]
    daemon = Daemon(
        "--path", str(export), *SECURITY, "--multidevs", multidevs, wrapper=wrapper
    )  # fmt: skip
    with daemon, mounted(daemon, export) as share:
        yield share


@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda sequence: sequence["name"])
def test_the_figures_of_the_policy_hold_through_requests(
    tmp_path: Path, sequence: dict[str, Any]
) -> None:
    steps = steps_of(sequence)
    names: dict[HostFile, bytes] = {steps[0][0]: b""}  # attaching is the first look at a file
    for host, _, _ in steps:
        names.setdefault(host, b"f%d" % len(names))
    with synth(tmp_path, names, "remap") as share:
        client = share.client
        paths = {}
        for host, expected, _ in steps:
            name = names[host]
            fid = client.walk_to(share.root, *([name] if name else []))
            paths[host] = client.getattr(fid).qid.path
            assert expected in (None, paths[host]), f"{host}: {paths[host]:#x}"
        assert len(set(paths.values())) == len(paths)
        listed = client.listing(share.root)
        assert {name: listed[name].qid.path for name in names.values() if name} == {
            name: paths[host] for host, name in names.items() if name
        }


def test_warn_shows_the_inodes(tmp_path: Path) -> None:
    names = {(1, 77): b"", (1, 78): b"one", (2, 78): b"two"}
    with synth(tmp_path, names, "warn") as share:
        qids = [
            share.client.getattr(share.client.walk_to(share.root, name)).qid
            for name in (b"one", b"two")
        ]
        assert [qid.path for qid in qids] == [78, 78]
        share.daemon.wait_line("multidevs: remap")


def test_files_are_real(tmp_path: Path) -> None:
    names = {(1, 77): b"", (9, 1 << 63): b"one"}
    with synth(tmp_path, names, "remap") as share:
        fid = share.client.open(share.root, b"one")
        assert share.client.read(fid, 0, 100) == b"one"
        assert stat.S_ISREG(share.client.getattr(fid).mode)
