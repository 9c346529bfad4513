"""Lines that report changes were lost: what a guest sees then of files that its programs have open,
whose names its kernel does not drop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.frontend.daemon import children
from tests.frontend.deaths import kill
from tests.guest.following import Following, following
from tests.guest.test_guest_late_agent import Place, what_it_reads
from tests.marks import needs_root, needs_uml

pytestmark = [needs_root, needs_uml, pytest.mark.guest]

OLD, NEW = "old", "new, and longer"


def change_unseen(guest: Following, place: Place) -> None:
    """The host changes files while nobody watches, which the next watcher says."""
    overflows = guest.agent.stderr.count(b"changes were lost")
    (watcher,) = children(guest.daemon.pid, "vhost9p-watcher")
    kill(watcher)
    (place.host / "file").write_text(NEW)
    (place.host / "program").write_text(NEW)
    (place.host / "next").write_text(NEW)
    (place.host / "next").rename(place.host / "replaced")
    guest.daemon.wait_until(
        lambda: guest.agent.stderr.count(b"changes were lost") > overflows, "an overflow"
    )
    guest.await_change()


@pytest.mark.parametrize("cache", ["mmap", "loose"])
def test_what_is_open_is_renewed(cache: str) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder:
        Path(folder).chmod(0o755)
        with following(Path(folder), cache) as guest:
            place = Place(guest, "place")
            for name in ("file", "program", "replaced"):
                place.write(name, OLD)
            (place.host / "program").chmod(0o755)
            guest.await_change()
            opened = place.opened("file")
            held = [place.opened(name) for name in ("program", "replaced")]
            change_unseen(guest, place)
            assert place.read("file") == NEW
            assert place.read("program") == NEW
            if cache == "loose":  # else the name in use is not looked up (docs/changes.md)
                assert place.read("replaced") == NEW
            assert what_it_reads(opened) == NEW
            for program in held:
                what_it_reads(program)
