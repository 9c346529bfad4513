"""User Mode Linux as a guest, and what its kernel needs to be built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import ends_with_killed_tests
from tests.frontend import PATIENCE
from tests.guest import uml_kernel
from tests.guest.apt import FetchError
from tests.guest.channel import CommandFailed, GuestLost
from tests.guest.uml import Uml
from tests.marks import needs_uml

TESTS = """
import sys, tempfile
from pathlib import Path
from tests.guest.uml import Uml
from tests.marks import needs_uml

with Uml([], Path(tempfile.mkdtemp())) as guest:
    print(guest.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Uml]:
    (tmp_path / "beside").write_text("the host's\n")
    with Uml([], tmp_path) as guest:
        yield guest


@needs_uml
@pytest.mark.guest
def test_a_guest_runs_the_hosts_programs_and_changes_nothing(guest: Uml, tmp_path: Path) -> None:
    assert guest.run("uname -r").text == uml_kernel.version(uml_kernel.kernel())
    assert guest.run("cat /mnt/beside").text == "the host's"
    for path in ("/mnt/beside", "/usr/new"):
        with pytest.raises(CommandFailed, match="Read-only"):
            guest.run(f"echo the guest\\'s > {path}")
    guest.run("echo mine > /tmp/file")
    assert (tmp_path / "beside").read_text() == "the host's\n"


@needs_uml
@pytest.mark.guest
def test_a_guest_that_ends_is_lost(guest: Uml) -> None:
    """And its console says why."""
    with pytest.raises(GuestLost, match="sysrq triggered crash"):
        guest.run("echo c > /proc/sysrq-trigger")


@needs_uml
@pytest.mark.guest
def test_a_guest_ends_with_killed_tests() -> None:
    assert ends_with_killed_tests(TESTS, timeout=PATIENCE)


def test_a_build_names_the_packages_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(uml_kernel, "PROGRAMS", {"no-such-program": "its-package", "sh": "dash"})
    uml_kernel.kernel.cache_clear()
    with pytest.raises(FetchError, match=r"apt-get install its-package$"):
        uml_kernel.kernel()
    assert not uml_kernel.is_built()


def test_only_a_source_that_can_be_mended_is_built(tmp_path: Path) -> None:
    """Or that needs it no more."""
    folder = tmp_path / "arch/um/os-Linux"
    folder.mkdir(parents=True)
    timer, signals = folder / "time.c", folder / "signal.c"
    signals.write_text("return !!(signals_pending & SIGALRM_MASK);")
    timer.write_text("sigaddset(&set, SIGALRM);\nsigaddset(&set, SIGALRM);")
    uml_kernel._mend(tmp_path)
    assert timer.read_text().count("sigaddset(&set, SIGIO);") == 2
    assert "SIGALRM_MASK | SIGIO_MASK" in signals.read_text()
    signals.write_text("SIGIO_MASK and more")
    uml_kernel._mend(tmp_path)
    assert signals.read_text() == "SIGIO_MASK and more"
    signals.write_text("nothing")
    with pytest.raises(FetchError, match=r"signal\.c has nothing of"):
        uml_kernel._mend(tmp_path)
