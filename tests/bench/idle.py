"""What VMs cost that do nothing: `python -m tests.bench.idle`.

One daemon serves a folder with a file for each. Printed are the time until all are served, the time
from SIGHUP until one more is, and the private memory of a keeper and a worker (Private_Clean and
Private_Dirty of proc_pid_smaps(5)), which is what a VM adds; the rest is shared with main.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.frontend.daemon import Daemon, worker_of

PATIENCE_S = 600


def private_kib(pid: int) -> int:
    """The memory that is this process's alone."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))


def add(daemon: Daemon, folder: Path, name: str) -> None:
    """A file for another VM."""
    export = folder / "exports" / name
    export.mkdir(parents=True)
    (folder / "vms" / f"{name}.yaml").write_text(
        f"socket: {daemon.directory}/{name}\npath: {export}\nmultidevs: remap\n"
    )


def measure(count: int, more: Sequence[str]) -> None:
    """Prints what so many VMs cost. `more` are options of the daemon."""
    with tempfile.TemporaryDirectory(prefix="v9-idle-") as temporary:
        folder = Path(temporary)
        (folder / "vms").mkdir()
        daemon = Daemon("--config-dir", str(folder / "vms"), *more, socket=False)
        for i in range(count - 1):
            add(daemon, folder, f"vm{i:04}")
        daemon.ready = "INFO: .*/vms: .* VMs"
        begin = time.monotonic()
        with daemon:
            serves = ": serving "
            daemon.wait_until(
                lambda: sum(serves in line for line in daemon.lines) == count - 1,
                "not all are served",
                PATIENCE_S,
            )
            print(f"{count - 1} VMs served after: {time.monotonic() - begin:.2f} s")
            add(daemon, folder, "vm-last")
            begin = time.monotonic()
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_line("vm-last: serving ", PATIENCE_S)
            print(f"one more, after SIGHUP:  {1000 * (time.monotonic() - begin):.0f} ms")
            keepers = daemon.keepers
            for kind, pids in (
                ("main", [daemon.pid]),
                ("keeper", keepers),
                ("worker", [worker_of(keeper) for keeper in keepers]),
            ):
                sizes = [private_kib(pid) for pid in pids]
                print(
                    f"{kind + ':':8} {len(sizes):4}, private memory: "
                    f"median {statistics.median(sizes):.0f} KiB, most {max(sizes)} KiB"
                )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--vms", type=int, default=100, metavar="N", help="how many (100)")
    parser.add_argument("options", nargs="*", help="options of the daemon, behind --")
    options = parser.parse_args()
    measure(options.vms, options.options)


if __name__ == "__main__":
    main()
