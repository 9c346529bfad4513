"""Options that no other test needs: each test fails when its option is ignored."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.machine import Machine
from tests.frontend.memory import GIB
from tests.frontend.vhost_user import REGION, U64, Request
from tests.system.share import SECURITY, fails, mounted, serve


@pytest.mark.parametrize("args,msize", [((), 1024 * 1024), (("--msize-max", "8KiB"), 8192)])
def test_msize_max_caps_the_message_size(export: Path, args: tuple[str, ...], msize: int) -> None:
    with serve(export, *args) as daemon, mounted(daemon, export) as share:
        assert share.client.version(16 * 1024 * 1024) == (msize, b"9P2000.L")


def test_max_fids_bounds_the_fids(export: Path) -> None:
    with serve(export, "--max-fids", "16") as daemon, mounted(daemon, export) as share:
        held = [share.client.walk_to(share.root) for _ in range(14)]  # two are the share's
        with fails(errno.EMFILE):
            share.client.walk_to(share.root)
        share.client.clunk(held[0])
        share.client.walk_to(share.root)


@pytest.mark.parametrize("args,holds", [((), 5), (("--max-xattr", "2"), 2)])
def test_max_xattr_bounds_the_values(export: Path, args: tuple[str, ...], holds: int) -> None:
    os.setxattr(export, "user.a", b"value")
    with serve(export, *args) as daemon, mounted(daemon, export) as share:
        client = share.client
        fids = [client.new_fid() for _ in range(6)]
        for fid in fids[:holds]:
            assert client.xattrwalk(share.root, fid, b"user.a") == 5
        if args:
            with fails(errno.ENOSPC):
                client.xattrwalk(share.root, fids[holds], b"user.a")
            client.clunk(fids[0])
            assert client.xattrwalk(share.root, fids[0], b"user.a") == 5


def test_max_guest_memory_bounds_the_regions(export: Path) -> None:
    with serve(export, "--max-guest-memory", "4GiB") as daemon, mounted(daemon, export) as share:
        fd = os.memfd_create("region")
        os.ftruncate(fd, 8 * GIB)
        refused = []
        for size in (GIB, 4 * GIB):
            region = REGION.pack(1 << 50, size, 1 << 50, 0)
            frontend = share.machine.frontend
            refused.append(frontend.ack(Request.ADD_MEM_REG, U64.pack(0) + region, [fd]))
            if not refused[-1]:
                frontend.ack(Request.REM_MEM_REG, U64.pack(0) + region)
        os.close(fd)
        assert (bool(refused[0]), bool(refused[1])) == (False, True)
        daemon.wait_line("ADD_MEM_REG refused: .*Cannot allocate memory")


@pytest.mark.parametrize("model", ["mapped-xattr", "mapped-file"])
def test_fmode_and_dmode_are_the_modes_on_the_host(export: Path, model: str) -> None:
    """What the guest sees is its own; what the host has is said by the options."""
    args = ["--path", str(export), "--security-model", model]
    for options, bits in (([], (0o600, 0o700)), (["--fmode=0640", "--dmode=0750"], (0o640, 0o750))):
        name = model + str(len(options))
        with Daemon(*args, *options) as daemon, mounted(daemon, export) as share:
            share.client.clunk(share.client.create(share.root, name.encode(), mode=0o777))
            share.client.mkdir(share.root, b"d" + name.encode(), 0o777)
            for each, found in zip((name, "d" + name), bits, strict=True):
                fid = share.client.walk_to(share.root, each.encode())
                assert stat.S_IMODE(share.client.getattr(fid).mode) == 0o777
                assert stat.S_IMODE(os.stat(export / each).st_mode) == found


def test_force_exports_the_daemons_own_socket(export: Path) -> None:
    """The daemon's socket in the export."""
    args = ["--path", str(export), *SECURITY, "--socket", str(export / "s")]
    refused = run_cli(*args)
    assert refused.returncode == 2
    assert "the export contains the daemon's socket" in refused.stderr
    with Daemon(*args, "--force", socket=False) as daemon, Machine(str(export / "s")) as machine:
        machine.boot()
        assert daemon.alive


def test_state_dir_keeps_the_identities(export: Path, tmp_path: Path) -> None:
    """Where identities are kept, and only there."""
    state = tmp_path / "elsewhere"
    with serve(export, "--multidevs", "remap", "--state-dir", str(state)) as daemon:
        with mounted(daemon, export):
            pass
        assert os.listdir(state)
        assert not (daemon.directory / "state").exists()


def test_qemus_option_string_is_obeyed(export: Path) -> None:
    """QEMU's option string says all that it says to QEMU."""
    (export / "file").write_text("stays")
    text = f"local,path={export},mount_tag=moved,security_model=mapped-xattr,id=fs0,readonly=on"
    with Daemon("--virtfs", f"{text},multidevs=remap,max_xattr=1") as daemon:
        assert daemon.wait_line(
            rf"serving {export} as 'moved' on .* \(mapped-xattr, multidevs remap, read-only\)"
        )
        with mounted(daemon, export) as share:
            assert share.machine.frontend.get_config(0, 256)[:7] == b"\x05\0moved"
            with fails(errno.EROFS):
                share.client.unlinkat(share.root, b"file")
            values = [share.client.new_fid() for _ in range(2)]
            share.client.xattrwalk(share.root, values[0])
            with fails(errno.ENOSPC):
                share.client.xattrwalk(share.root, values[1])
    assert (export / "file").read_text() == "stays"


def test_threads_are_started_while_a_guest_is_there(export: Path) -> None:
    """Each is one of the process's while a guest is there."""
    counts = []
    for number in (1, 4):
        with serve(export, "--threads", str(number)) as daemon, mounted(daemon, export) as share:
            share.client.getattr(share.root)
            counts.append(daemon.threads())
    assert counts[1] - counts[0] == 3
