"""The process that watches: what it opens and gives up first, and what it does then.

It sees the files that the VM's processes see, so it joins their mount namespace, and opens the
exports and the mounts below them. Where exports are not mounts of that namespace, it takes what the
worker has open (roots.py). What hangs is left out (apart.py). Then it has one group for all of
their file systems, becomes a user who owns nothing, and keeps of root's rights only the one to open
directories by handles. What it reads comes from the kernel: names of files, which anybody may have
chosen.

Nothing of this changes while it runs. If the VM's keeper ends, mounts come or go below an export,
or another worker has opened other directories, the process ends, and main starts the next one: that
begins with an overflow for the guest, since nobody has watched in between. Where mounts change
again and again, or something hangs, it goes on with what it has for a while (`Watch.until`). One at
a time writes to a ring: the next one waits for the end of the one before.
"""

import fcntl
import json
import logging
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import NamedTuple, NoReturn

from vhost9p import confinement, procfs
from vhost9p.changes.ring import Ring
from vhost9p.config import Config, Level
from vhost9p.confinement import Entered
from vhost9p.log_record import about
from vhost9p.native import sandbox
from vhost9p.native.process import close_others, end_with, set_name
from vhost9p.policy.mounts import MountTable
from vhost9p.policy.rights import CAP_DAC_READ_SEARCH
from vhost9p.stop_signals import STOP
from vhost9p.watcher.file_systems import FileSystems
from vhost9p.watcher.roots import Roots
from vhost9p.watcher.watch import Watch

log = logging.getLogger(__name__)

MOUNTS_HAVE_CHANGED = b"mounts have changed"
"""The last word of a process that ends for this reason."""
NOBODY = 65534
"""The user and the group that own nothing (overflowuid of proc_sys_kernel(5))."""


class Job(NamedTuple):
    """What is to be watched."""

    name: str
    """Of the VM."""
    config: Config
    entered: Entered
    """How far the VM's processes are confined."""
    keeper: int
    pidfd: int
    """Of the keeper."""
    rings: Sequence[Ring | None]
    """Of the devices."""
    rest: float
    """Seconds that it watches at least before mounts that come or go end it."""
    hung_rest: float
    """The same where something hangs."""


def run(job: Job, channel: socket.socket, parent: int) -> NoReturn:
    """Runs the child, in the process that main has forked, and ends it. `channel` is where it says
    what it watches, and ends when main does."""
    try:
        _settle(job, channel)
        children = os.open(
            f"/proc/{job.keeper}/task/{job.keeper}/children", os.O_RDONLY | os.O_CLOEXEC
        )
        _join(job)
        wanted = [bool(ring) for ring in job.rings]
        roots = Roots(job.config, job.rings)
        config, held = job.config, list[int]()
        has_mounts = job.entered.level is Level.NAMESPACE
        if has_mounts:
            config = confinement.seen_inside(config, job.entered)
        else:
            config, held = roots.take(job.pidfd)
        with closing(MountTable()) as table:
            found = FileSystems(config, wanted, table, held, has_mounts=has_mounts)
            for fd in held:
                os.close(fd)
            _give_up_rights(config, parent)
            _take_turn(job)
            channel.send(json.dumps({"lacks": found.lacks, "hangs": found.hangs}).encode())
            watch = Watch(found, job.rings, children, roots)
            rest = job.hung_rest if found.hangs else job.rest
            if watch.until(channel, job.pidfd, rest):
                channel.send(MOUNTS_HAVE_CHANGED)
    except (ProcessLookupError, FileNotFoundError, BrokenPipeError):
        pass  # main or the keeper has ended
    except OSError as error:
        with suppress(OSError):
            channel.send(json.dumps({"failure": str(error)}).encode())
    except BaseException:
        log.critical(
            "%s: the watcher ends by an error of its own: a bug, report it",
            job.name,
            exc_info=True,
            extra=about(vm=job.name),
        )
    finally:
        os._exit(0)


def _settle(job: Job, channel: socket.socket) -> None:
    """Takes what the process inherits, and no more. Raises OSError."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)  # it ends with main, which ends last
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends a system call, and the process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP, signal.SIGALRM})
    set_name("vhost9p-watcher", f"vhost9p: watcher of {job.name}")
    rings = [ring for ring in job.rings if ring]
    own = [fd for ring in rings for fd in (ring.fd, ring.bell)]
    close_others((0, 1, 2, channel.fileno(), job.pidfd, *own))


def _take_turn(job: Job) -> None:
    """Waits for the end of the process before, if that still writes. Raises OSError."""
    for ring in filter(None, job.rings):
        fcntl.lockf(ring.fd, fcntl.LOCK_EX)


def _join(job: Job) -> None:
    """Sees the VM's files, but the /proc of main. Raises OSError."""
    sandbox.load()
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if job.entered.level is Level.NAMESPACE:
        sandbox.join_files(job.keeper, job.pidfd)
    os.fchdir(proc)
    os.close(proc)
    procfs.is_here()


def _give_up_rights(config: Config, parent: int) -> None:
    """Takes from this process what it does not need. Raises OSError."""
    sandbox.become(NOBODY, NOBODY)
    end_with(parent)
    proc = procfs.path("."), False
    sandbox.confine({CAP_DAC_READ_SEARCH}, (proc,), config.seccomp, folders=("/",))
