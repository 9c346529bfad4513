"""`vhost9p run`: serves a configuration and runs its VM, as one command that ends with QEMU.

Sockets that the configuration leaves out are in a directory that only this user can enter. It is
named after what is served, since identities of files belong to a socket (exports.py): they are the
same the next time.
"""

import argparse
import hashlib
import logging
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from vhost9p import config as c
from vhost9p.cli_config import absolute
from vhost9p.config_file import load
from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.output import say, start_log
from vhost9p.qemu import agent_unit, command_line, options, program
from vhost9p.qemu.options import Option

SUMMARY = "serve a configuration and run its VM, until QEMU ends"
DETAILS = (
    "Adds the devices, and shared memory if QEMU's line has none, and says so. A configuration "
    "needs no socket for this. Exits with QEMU's exit code (127: QEMU is missing; 128 and a "
    "signal's number: QEMU was ended by it), or with 1 or 2 if serving cannot begin."
)
USAGE = "vhost9p run VM.yaml -- QEMU…"
FILE_SUFFIXES = (".yaml", ".yml")
EXAMPLE = """vhost9p run vm.yaml -- qemu-system-x86_64 -m 4G -accel kvm -hda disk.qcow2
vhost9p run --agent --path /srv/data -- qemu-system-x86_64 -hda disk.qcow2"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options to a parser."""
    parser.usage = "vhost9p run [-h] [--agent] (VM.yaml | --path DIR) -- QEMU…"
    parser.add_argument(
        "--agent",
        action="store_true",
        help="have the guest's systemd (257 or newer) mount what it does not mount itself, and run "
        "the agent of devices with notify; --path gets it",
    )
    parser.add_argument(
        "--path", metavar="DIR", help="a directory to serve as host0, instead of a file's"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="VM.yaml -- QEMU…",
        help="configuration of the VM; the command that starts QEMU",
    )


def run(chosen: argparse.Namespace) -> int:
    """Serves until QEMU ends, and returns its exit code. Raises UserError, OSError."""
    command = chosen.words
    if chosen.path is None:
        file, *command = command or [None]
        if file is None:
            raise UserError(f"name a configuration or a --path; {USAGE}")
    elif command and command[0].endswith(FILE_SUFFIXES):
        raise UserError(f"a configuration ({command[0]}) and --path exclude each other; {USAGE}")
    if not command:
        raise UserError(f"name the command that starts QEMU, after --; {USAGE}")
    if chosen.path is None:
        config = load(file, socket_needed=False)
    else:
        export = c.ExportConfig(absolute(chosen.path))
        config = c.Config((c.DeviceConfig((export,), notify=chosen.agent),))
    unit = [*agent_unit.smbios(config)] if chosen.agent else []
    if unit:
        command_line.check_smbios(command)
    with private_sockets(config) as complete:
        return _run(complete, command, unit)


def _run(config: c.Config, command: list[str], unit: list[Option]) -> int:
    from vhost9p import preflight, supervisor

    added = command_line.needed(command, options.sockets(config))
    config = preflight.check(config)
    start_log(config.log_level, config.log_format, config.log_time)
    words = [word for option in added for word in option.words]
    if words:
        say(f"QEMU gets {shlex.join(words)}", logging.INFO)
    if unit:
        say(f"the guest gets {agent_unit.NAME}", logging.INFO)
    command = [*command, *words, *(word for option in unit for word in option.words)]
    code = supervisor.run(config, [*command, *supervisor.END_WITH_PARENT])
    if code == EXIT_FAILURE and (why := program.why_no_frontend(command[0])):
        say(why)
    return code


# ---- sockets -------------------------------------------------------------------------------------


@contextmanager
def private_sockets(config: c.Config) -> Iterator[c.Config]:
    """Yields the configuration with a socket for each device; afterwards those that it lacked are
    gone. Raises UserError if the directory of these is somebody else's, OSError."""
    if not any(each.place_is_open for each in config.devices):
        yield config
        return
    folder = os.path.join(_runtime_folder(), f"vhost9p-{_digest(config)}")
    _make_private(folder)
    try:
        devices = (
            replace(device, socket=device.socket or os.path.join(folder, f"{i}.sock"))
            for i, device in enumerate(config.devices)
        )
        yield replace(config, devices=tuple(devices))
    finally:
        with suppress(OSError):  # another VM of the same configuration has its sockets there
            os.rmdir(folder)


def _runtime_folder() -> str:
    """Where short-lived files of this user belong (XDG base directories). The variable may be that
    of who has become this user (su(1)); he could replace what is in his directory."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    with suppress(OSError):
        if os.path.isabs(folder) and os.stat(folder).st_uid == os.geteuid():
            return folder
    return tempfile.gettempdir()


def _digest(config: c.Config) -> str:
    """Names what is served, and for which user."""
    parts = [str(os.geteuid()), config.file or ""]
    for device in config.devices:
        parts += [device.tag, *(os.path.realpath(each.path) for each in device.exports)]
    return hashlib.sha256(os.fsencode("\0".join(parts))).hexdigest()[:16]


def _make_private(folder: str) -> None:
    """Creates a directory that only this user can enter, or takes the one that a run before has
    left."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise UserError(
            f"{folder} cannot hold the sockets: it is not a directory that only this user can "
            "enter; remove it, or name a socket in the configuration"
        )
