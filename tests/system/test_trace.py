"""`vhost9p trace`: a running device's requests, watched from outside."""

from __future__ import annotations

import os
from pathlib import Path

from tests.system.share import Share
from tests.system.watching import traced


def read_file(share: Share) -> None:
    """What a guest's `cat dir/file` does."""
    fid = share.client.open(share.top, [b"dir", b"file"])
    assert share.client.read(fid, 0, 4096) == b"secret"
    share.client.clunk(fid)


def fill(share: Share) -> None:
    os.mkdir(share.path("dir"))
    share.put("dir/file", b"secret")


def test_a_read_is_shown_with_the_path_of_the_guest(share: Share, tmp_path: Path) -> None:
    fill(share)
    with traced(share.daemon, tmp_path) as tracer:
        read_file(share)
        tracer.wait_for(lambda: "Tclunk" in tracer.text)
    lines = tracer.text.splitlines()
    print(tracer.text, tracer.err.read_text())
    assert [line.split()[3] for line in lines] == ["Twalk", "Tlopen", "Tread", "Tclunk"]
    assert all("/dir/file'" in line for line in lines)
    assert "secret" not in tracer.text
