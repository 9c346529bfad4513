"""What a check finds out about the host: the sandbox, open files, file handles, QEMU.

How far the daemon can be confined is tried out, in a process that confines itself as a worker does
and ends: the kernel has no other way to ask.
"""

import json
import os
import resource
import shutil
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial

from vhost9p import confinement
from vhost9p.config import Config, DeviceConfig, Level
from vhost9p.confinement import SandboxError
from vhost9p.findings import Finding, error, ok, warning
from vhost9p.native import descriptors, sandbox
from vhost9p.output import flush
from vhost9p.policy.rights import CAP_DAC_READ_SEARCH
from vhost9p.qemu import options, program

SANDBOX = "sandbox"
OPEN_FILES = "open files"
REMEDIES = {
    "namespaces": "run the daemon as root, or let users create namespaces (sysctl "
    "user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns)",
    "chroot": "let the daemon have CAP_SYS_CHROOT, and keep exports and state_dir below one "
    "directory",
    "a pid namespace": "run it outside of a container, or accept that",
    "a /proc of its own": "run it outside of a container, or accept that",
    "landlock": "boot a kernel from 5.19 on with landlock in lsm=",
    "seccomp": "install libseccomp2",
}
"""What gives the daemon what it lacks, by what the text about that begins with."""
PIPE_SIZE = 65536
CONSEQUENCE = "a worker that is taken over reaches more of the host (docs/threat-model.md)"


def examine(config: Config) -> Iterator[Finding]:
    """Yields what is found out; `config` is settled and has no errors. Raises OSError."""
    level = yield from _sandbox(config)
    yield _open_files(len(config.devices))
    if level is not None:
        yield _handles(config, level)


# ---- sandbox -------------------------------------------------------------------------------------


def _sandbox(config: Config) -> Generator[Finding, None, Level | None]:
    """Returns the level that is reached; None: the daemon does not start."""
    if config.sandbox is Level.NONE:
        yield warning(
            SANDBOX,
            "sandbox is none: the daemon is not confined",
            CONSEQUENCE,
            "leave sandbox out: auto confines it as far as this host allows",
        )
        return Level.NONE
    name, lacks, why = _rehearsed(config)
    if why:
        remedy = "do what it says, or set sandbox: auto"
        yield error(SANDBOX, why, "serving does not begin", remedy)
        return None
    level = Level(name)
    reached = {
        Level.NAMESPACE: "the daemon gets namespaces of its own, with the exports as only files",
        Level.CHROOT: "the daemon gets another root directory (chroot)",
        Level.NONE: "the daemon keeps the host's files",
    }
    yield ok(SANDBOX, reached[level])
    for each in lacks:
        remedy = next((REMEDIES[key] for key in REMEDIES if each.startswith(key)), "")
        yield warning(
            SANDBOX, f"it lacks {each}", CONSEQUENCE, remedy or "see docs/threat-model.md"
        )
    return level


def _rehearsed(config: Config) -> tuple[str, list[str], str]:
    """Confines a process as a worker. Returns the level that is reached, what lacks, and why it is
    impossible, if it is."""
    flush()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _rehearse(_with_existing_state(config), write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    said = b"".join(iter(partial(os.read, read_end, PIPE_SIZE), b""))
    os.close(read_end)
    os.waitpid(pid, 0)
    if not said:
        return "", [], "the trial of the confinement has ended without a result"
    level, lacks, why = json.loads(said)
    return level, lacks, why


def _rehearse(config: Config, write_end: int) -> None:
    """In a child. A grandchild is what becomes the keeper, and then a worker, of a daemon."""
    if child := confinement.fork(config):
        os.waitpid(child, 0)
        return
    level, why = "", ""
    lacks: tuple[str, ...] = ()
    try:
        config, entered = confinement.enter(config)
        level = entered.level.value
        lacks = confinement.confine(config, entered)
    except SandboxError as problem:
        why = str(problem)
    except OSError as problem:
        why = f"{problem.filename or 'the confinement'}: {problem.strerror or problem}"
    os.write(write_end, json.dumps([level, lacks, why]).encode())


def _with_existing_state(config: Config) -> Config:
    """The configuration with the nearest directory in the place of a state directory that is yet
    to be made; an export, if that is the root directory, which cannot be mounted in another."""

    def existing(device: DeviceConfig) -> DeviceConfig:
        path = device.state_dir
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        return replace(device, state_dir=path if path != "/" else device.exports[0].path)

    return replace(config, devices=tuple(map(existing, config.devices)))


# ---- limits and rights ---------------------------------------------------------------------------


def _open_files(devices: int) -> Finding:
    """The daemon raises its soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors.needed(devices, hard)
    if hard >= needed:
        return ok(
            OPEN_FILES,
            f"the hard limit is {hard:,}: of more files than that, the guest's least used ones are "
            "closed and reopened",
        )
    return warning(
        OPEN_FILES,
        f"the hard limit of {hard:,} is too low for the devices",
        "requests may fail with EMFILE",
        f"set it to {needed:,} at least (ulimit -Hn; LimitNOFILE= in a service)",
    )


def _handles(config: Config, level: Level) -> Finding:
    if confinement.opens_by_handle(config, level):
        return ok(
            OPEN_FILES, "CAP_DAC_READ_SEARCH is there: what was closed is found again by its handle"
        )
    why = "CAP_DAC_READ_SEARCH lacks, as it does without root"
    if sandbox.has_capabilities(1 << CAP_DAC_READ_SEARCH):
        why = "CAP_DAC_READ_SEARCH is given up, since there are no namespaces"
    return ok(
        OPEN_FILES,
        f"{why}: what was closed is found again by its path, or ESTALE if the host has moved it",
    )


# ---- QEMU ----------------------------------------------------------------------------------------


def examine_qemu(path: str | None) -> Finding:
    """Returns what is found out about the QEMU at a path, or else in PATH."""
    found = path or shutil.which(options.default_program())
    if not found:
        return warning(
            "QEMU",
            f"there is no {options.default_program()} in PATH",
            "whether the VM's QEMU has the device is not known",
            "name the program: vhost9p check --qemu PATH",
        )
    needed = f"QEMU {options.FIRST_VERSION} or newer is needed"
    consequence = "no guest can be connected"
    try:
        answer = program.ask([found])
    except OSError as problem:
        text = f"cannot be started: {problem.strerror or problem}"
        return error(found, text, consequence, needed)
    except ValueError as problem:
        return error(found, str(problem), consequence, needed)
    if not answer.has_frontend:
        return error(found, program.lacks_frontend(answer), consequence, "install a newer QEMU")
    return ok(found, f"QEMU {answer.version} has the device {options.FRONTEND}")
