"""Runs a daemon and QEMU as children of one process, which ends with QEMU (`vhost9p run`).

QEMU stays in the process group of the terminal, so that keys such as ^C and ^Z reach it as if it
had been started alone. This process leaves them to it, and passes on what another process sends to
it alone. The daemon is in a session of its own, where no key of the terminal reaches it, and serves
until QEMU has ended. If this process is killed, the kernel ends the daemon (prctl(2),
PR_SET_PDEATHSIG), and QEMU ends itself (-run-with exit-with-parent=on).
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from vhost9p import signals, single_vm
from vhost9p.config import Config
from vhost9p.errors import EXIT_FAILURE
from vhost9p.native.process import end_with
from vhost9p.output import flush, say
from vhost9p.progress import Progress
from vhost9p.stop_signals import STOP

EXIT_NOT_STARTED, EXIT_NOT_FOUND = 126, 127
"""Of a program that cannot be executed, and of one that is missing, as of env(1)."""
EXIT_SIGNAL = 128
"""And the signal's number, if QEMU was ended by one, as of a shell."""
LOOK_S = 0.02
"""Seconds between two looks whether the daemon serves."""
PATIENCE_S = 5.0
"""Seconds for the daemon's end, which it needs one of."""
PASSED_ON = (*STOP, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SENT = 0
"""The largest si_code of a signal that a process has sent (SI_USER, sigaction(2)); the terminal's
are the kernel's."""
END_WITH_PARENT = ("-run-with", "exit-with-parent=on")


class Stopped(Exception):
    """A signal has arrived before QEMU was started; the argument is its number."""


@contextmanager
def signals_held() -> Iterator[set[int]]:
    """Blocks the signals that this process waits for; yields those that were blocked before."""
    before = {*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [*PASSED_ON, signal.SIGCHLD]))}
    # What is ignored would not even be pending, and children would leave no status.
    for number in {signal.SIGCHLD, *(signals.ignored & {*PASSED_ON})}:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Daemon:
    """A daemon for one VM, as a child of this process."""

    def __init__(self, config: Config, mask: set[int]) -> None:
        """Starts it. `mask` are the signals that it has blocked. Raises OSError."""
        self._progress = Progress(len(config.devices))
        self.code: int | None = None
        flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _be_daemon(config, self._progress, parent, mask)

    def wait_until_it_serves(self) -> bool:
        """Returns whether it serves; if not, it has ended, and said why. Raises Stopped."""
        while not self._progress.has_served:
            info = signal.sigtimedwait([*PASSED_ON, signal.SIGCHLD], LOOK_S)
            if self.has_ended():
                return False
            if info and info.si_signo != signal.SIGCHLD:
                raise Stopped(info.si_signo)
        return True

    def has_ended(self) -> bool:
        """Looks whether it has ended, without waiting."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def end(self) -> None:
        """Ends it, and waits for that."""
        if self.has_ended():
            return
        os.kill(self.pid, signal.SIGTERM)
        for _ in range(int(PATIENCE_S / LOOK_S)):
            signal.sigtimedwait([signal.SIGCHLD], LOOK_S)
            if self.has_ended():
                return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.code = -signal.SIGKILL


def _be_daemon(config: Config, progress: Progress, parent: int, mask: set[int]) -> None:
    """What the child does; it never comes back."""
    code = EXIT_FAILURE
    try:
        end_with(parent)
        os.setsid()
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        signals.ignore()
        signals.leave_on_stop()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = single_vm.run(config, load=single_vm.reading(config), progress=progress)
    except OSError as error:
        say(f"{error.filename or 'serving cannot begin'}: {error.strerror or error}")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        flush()
        os._exit(code)


def run(config: Config, command: Sequence[str]) -> int:
    """Serves a configuration while a command runs, which starts QEMU. Returns its exit code. The
    process has one thread. Raises OSError."""
    with signals_held() as mask:
        served = Daemon(config, mask)
        try:
            if not served.wait_until_it_serves():
                return served.code if served.code and served.code > 0 else EXIT_FAILURE
            pid = _start(command, mask)
            return _wait(pid, served)
        except Stopped as error:
            return EXIT_SIGNAL + int(error.args[0])
        except FileNotFoundError as error:
            say(f"{command[0]} cannot be started: {error.strerror}")
            return EXIT_NOT_FOUND
        except PermissionError as error:
            say(f"{command[0]} cannot be started: {error.strerror}")
            return EXIT_NOT_STARTED
        finally:
            served.end()


def _start(command: Sequence[str], mask: set[int]) -> int:
    """Starts QEMU as if this process were not there. Raises OSError."""
    return os.posix_spawnp(
        command[0], [*command], os.environ, setsigmask=mask, setsigdef=signals.ignored
    )


def _wait(pid: int, served: Daemon) -> int:
    """Waits for the end of QEMU, and returns the exit code."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else EXIT_SIGNAL - code
        if served.code is None and served.has_ended():
            say("the daemon has ended: the guest's mounts hang from now on")
        info = signal.sigwaitinfo([*PASSED_ON, signal.SIGCHLD])
        if info.si_signo != signal.SIGCHLD and info.si_code <= SENT:
            with suppress(ProcessLookupError):
                os.kill(pid, info.si_signo)
