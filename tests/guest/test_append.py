"""O_APPEND: what is appended ends up at the end, once, whatever the client caches.

With cache=mmap and loose, kernels from 6.4 on open write-only files for reading and writing and
write pages back by offset; a server that honoured O_APPEND there would append whole pages.
"""

import os
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import mounted, scratch_export

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

# Appends to a file whose page is on the host already, and so written back from where it begins:
# where the server appends what is written by offset, the file grows by what it has. One of the
# two descriptors is opened for writing only, which the client turns into reading and writing.
REWRITE = """
import mmap, os, sys
name, mode = sys.argv[1:]
fd = os.open(name, os.O_CREAT | os.O_APPEND | getattr(os, mode), 0o644)
os.write(fd, b"x" * 100)
os.fsync(fd)
os.write(fd, b"y" * 100)
os.fsync(fd)
with open(name, "r+b") as file, mmap.mmap(file.fileno(), 200) as page:
    page[0:4] = b"MMMM"
    page.flush()
os.write(fd, b"z" * 5000)
os.fsync(fd)
with open(name, "r+b") as file, mmap.mmap(file.fileno(), 5200) as page:
    page[4096:4100] = b"NNNN"
    page.flush()
os.close(fd)
"""
REWRITTEN = b"MMMM" + b"x" * 96 + b"y" * 100 + b"z" * 3896 + b"NNNN" + b"z" * 1100


def test_appending_in_every_cache_mode(boot: Boot) -> None:
    with mounted(boot) as share:
        for cache in ("none", "mmap", "loose"):
            share.remount(cache=cache)
            share.sh(
                f"""for i in $(seq 50); do echo $i >> {cache}; done
                exec 5>>{cache}.open; for i in $(seq 1000); do echo line $i >&5; done; exec 5>&-
                printf head > {cache}.both; exec 6<>{cache}.both; exec 7>>{cache}.both
                echo over >&6; echo tail >&7; exec 6>&- 7>&-; sync"""
            )
            modes = ("O_WRONLY", "O_RDWR") if cache != "none" else ()  # it maps nothing shared
            for mode in modes:
                share.vm.run(["python3", "-c", REWRITE, f"/mnt/{cache}.{mode}", mode])
            share.vm.umount("/mnt")
            share.vm.mount("host0", "/mnt")
            for mode in modes:
                assert (share.export / f"{cache}.{mode}").read_bytes() == REWRITTEN
            text = "".join(f"{i}\n" for i in range(1, 51))
            assert (share.export / cache).read_text() == text
            text = "".join(f"line {i}\n" for i in range(1, 1001))
            assert (share.export / f"{cache}.open").read_text() == text
            assert (share.export / f"{cache}.both").read_text() == "over\ntail\n"


# Appends numbered lines, saying so at the hundredth, until there is a file "stop".
APPENDER = """
exec 5>>/mnt/log; i=0
while ! test -e /mnt/stop; do
    i=$((i + 1)); echo $1 $i >&5
    if test $i = 100; then echo hundred; fi
done
echo $i
"""


def test_two_guests_append_to_one_file(boot: Boot) -> None:
    """Neither stops before both have written a lot, so they do write at the same time."""
    with ExitStack() as stack:
        export = stack.enter_context(scratch_export())
        vms = []
        for _ in "ab":
            daemon = stack.enter_context(Daemon("--path", str(export)))
            vm = boot("full", [Path(daemon.socket)])
            stack.callback(vm.kill)
            vm.mount("host0", "/mnt")
            vms.append(vm)
        writers = {
            who: vm.popen(["sh", "-c", APPENDER, "sh", who])
            for who, vm in zip("ab", vms, strict=True)
        }
        for writer in writers.values():
            writer.expect(b"hundred")
        (export / "stop").touch()
        counts = {who: int(writer.wait().text.split()[-1]) for who, writer in writers.items()}
        lines = (export / "log").read_text().splitlines()
    assert min(counts.values()) >= 100
    for who, count in counts.items():
        mine = [line for line in lines if line.startswith(who)]
        assert mine == [f"{who} {i}" for i in range(1, count + 1)]
    assert len(lines) == sum(counts.values())
    turns = sum(before[0] != after[0] for before, after in pairwise(lines))
    assert turns > 1, "their lines must be mixed"
