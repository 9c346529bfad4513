"""A trace of a real guest: what its commands ask, in Wireshark's words, and once more."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import environment
from tests.guest import fetch
from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, mounted
from tests.marks import fetched
from tests.system.share import SECURITY
from tests.system.watching import traced

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]


@pytest.fixture(scope="module")
def share(boot_shared: Boot) -> Iterator[Mounted]:
    with mounted(boot_shared, *SECURITY) as share:
        (share.export / "dir").mkdir()
        (share.export / "dir/file").write_bytes(b"text\n" * 30000)
        yield share


def types_of(lines: list[str], path: str) -> list[str]:
    return [line.split()[3] for line in lines if f" '{path}'" in line]


def test_cat_is_a_walk_an_open_reads_and_a_clunk(share: Mounted, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path, "--path", "/dir/file") as tracer:
        share.sh("cat dir/file > /dev/null")
        tracer.wait_for(lambda: "Tlopen" in tracer.text and "Tclunk" in tracer.text)
        tracer.wait_for(lambda: " = count 0" in tracer.text)
    found = types_of(tracer.text.splitlines(), "/dir/file")
    asked = [name for name in found if name in {"Twalk", "Tlopen", "Tread"}]
    assert asked[0] == "Twalk" and "Tlopen" in asked and asked[-1] == "Tread", found


WORK = """
cp dir/file copy; cat copy > /dev/null; mkdir new; mv copy new/moved; ln -s moved new/link
cat new/link > /dev/null; ls -lR . > /dev/null; chmod 600 new/moved; rm new/link
cat none 2> /dev/null || true; echo more >> new/moved; truncate -s 100 new/moved
"""


def test_a_capture_is_read_by_wireshark_and_repeated(share: Mounted, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", share.export, copy], check=True)
    capture = tmp_path / "trace.pcapng"
    with traced(share.daemon, tmp_path, "--pcap", str(capture), "--data", "65536") as tracer:
        share.sh(WORK)
        assert tracer.end() == 0
    done = subprocess.run(
        [sys.executable, "-m", "vhost9p", "replay", capture, copy, "--", *SECURITY],
        capture_output=True, text=True, timeout=120, check=False, env=environment({}),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 replies differ" in done.stdout
    assert (copy / "new/moved").read_bytes() == (share.export / "new/moved").read_bytes()
    shutil.rmtree(copy)
    tshark = fetched(fetch.tshark)
    decoded = subprocess.run(
        [*tshark.command, "-r", capture, "-T", "fields", "-e", "_ws.col.Protocol",
         "-e", "_ws.col.Info"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    lines = decoded.splitlines()
    assert all(line.startswith(("9P\t", "TCP\t")) for line in lines), decoded
    for name in ("Twalk", "Rwalk", "Tlopen", "Rread", "Twrite", "Trenameat", "Rlerror"):
        assert any(line.startswith("9P\t") and name in line for line in lines), name
    assert "Malformed" not in decoded
