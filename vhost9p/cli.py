"""The command line: from arguments to a Config, and the process's exit code.

Exit codes: 0 after SIGTERM, SIGINT or --once; 1 when something fails while serving begins; 2 for a
mistake in the options, the configuration or the paths.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from vhost9p import __version__
from vhost9p import config as c
from vhost9p.errors import UserError

EXIT_USAGE = 2
CAPABILITIES = {"type": "9p", "features": []}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (vhost9p --help lists the options)")


def _typed(parser: c.Parser) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return parser(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _descriptor(text: str) -> int:
    if not text.isdigit() or int(text) < 3:
        raise argparse.ArgumentTypeError(f"{text!r} is no inherited descriptor (3 or above)")
    return int(text)


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="vhost9p",
        description="Serves virtio-9p to a virtual machine over a vhost-user socket.",
        epilog="With --socket alone: the configuration named after the socket is taken "
        "(9p.sock: 9p.yaml in ~/.config/vhost9p or /etc/vhost9p), else the current directory is "
        "exported.",
        allow_abbrev=False,
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--socket",
        "--socket-path",
        metavar="PATH",
        type=_typed(c.parse_socket),
        help="listen on this unix socket",
    )
    where.add_argument(
        "--fd", metavar="N", type=_descriptor, help="take this inherited unix socket instead"
    )
    where.add_argument("--config", metavar="FILE", help="serve what this YAML file says")
    what = parser.add_argument_group("what (instead of --config)")
    what.add_argument("--path", metavar="DIR", help="the directory to export")
    what.add_argument("--tag", type=_typed(c.parse_tag), help="the mount tag (default: host0)")
    what.add_argument(
        "--security-model",
        metavar="MODEL",
        type=_typed(c.OPTIONS["security_model"]),
        help=" | ".join(c.SECURITY_MODELS) + " (default: passthrough)",
    )
    what.add_argument(
        "--multidevs",
        metavar="POLICY",
        type=_typed(c.OPTIONS["multidevs"]),
        help=" | ".join(c.MULTIDEVS) + ": files of several host devices (default: warn)",
    )
    what.add_argument("--readonly", action="store_true", default=None, help="refuse all changes")
    what.add_argument(
        "--msize-max",
        metavar="SIZE",
        type=_typed(c.OPTIONS["msize_max"]),
        help="the largest message a guest may ask for (default: 1MiB)",
    )
    what.add_argument(
        "--max-fids",
        metavar="N",
        type=_typed(c.OPTIONS["max_fids"]),
        help="files that a guest may hold at a time (default: 1000000)",
    )
    what.add_argument(
        "--threads",
        metavar="N",
        type=_typed(c.OPTIONS["threads"]),
        help="requests served at a time (default: 1)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--once", action="store_true", help="end when the first VMM has left")
    how.add_argument(
        "--force", action="store_true", help="serve overlapping exports, or the daemon's own files"
    )
    how.add_argument(
        "--state-dir",
        metavar="DIR",
        type=_typed(c.parse_path),
        help="where identities are kept (default: /var/lib/vhost9p, ~/.local/state/vhost9p)",
    )
    how.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=_typed(c.TOP_OPTIONS["log_level"]),
        help=" | ".join(c.LOG_LEVELS) + " (default: info)",
    )
    parser.add_argument(
        "--print-capabilities", action="store_true", help="print what this backend is, and end"
    )
    parser.add_argument("--version", action="version", version=f"vhost9p {__version__}")
    return parser


WHAT = (
    "path",
    "tag",
    "security_model",
    "multidevs",
    "readonly",
    "msize_max",
    "max_fids",
    "threads",
)


def find_config(socket: str) -> str | None:
    """The configuration named after a socket: the user's, then the system's."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    name = os.path.splitext(os.path.basename(socket))[0] + ".yaml"
    for folder in (home, "/etc"):
        file = os.path.join(folder, "vhost9p", name)
        if os.path.isfile(file):
            return file
    return None


def _from_file(file: str, options: argparse.Namespace) -> c.Config:
    config = c.load(file, socket_needed=options.socket is None and options.fd is None)
    if options.socket is not None or options.fd is not None:
        if len(config.devices) != 1:
            raise UserError(f"{file}: has several devices, so --socket or --fd cannot name theirs")
        device = replace(config.devices[0], socket=_absolute(options.socket), fd=options.fd)
        config = replace(config, devices=(device,))
    changes: dict[str, Any] = {
        **({"once": True} if options.once else {}),
        **({"force": True} if options.force else {}),
        **({"state_dir": _absolute(options.state_dir)} if options.state_dir else {}),
    }
    return replace(config, devices=tuple(replace(each, **changes) for each in config.devices))


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _from_options(options: argparse.Namespace) -> c.Config:
    given = {key: value for key in WHAT if (value := getattr(options, key)) is not None}
    path = given.pop("path", None)
    if path is None:
        path = os.getcwd()
        print(f"vhost9p: no --path: exporting the current directory, {path}", file=sys.stderr)
    if options.state_dir:
        given["state_dir"] = _absolute(options.state_dir)
    device = c.DeviceConfig(
        path=os.path.abspath(path),
        socket=_absolute(options.socket),
        fd=options.fd,
        once=options.once,
        force=options.force,
        **given,
    )
    return c.Config((device,))


def build_config(options: argparse.Namespace) -> c.Config:
    """What the options mean; raises UserError."""
    given = [key for key in WHAT if getattr(options, key) is not None]
    if options.socket is not None and options.fd is not None:
        raise UserError("--fd and --socket exclude each other: name one")
    if options.config is not None and given:
        names = ", ".join("--" + key.replace("_", "-") for key in given)
        raise UserError(f"{names}: belongs into the configuration that --config names")
    if options.config is None and options.socket is None and options.fd is None:
        raise UserError("name a --socket to listen on, or a --config (vhost9p --help)")
    file = options.config
    if file is None and options.socket is not None and not given:
        file = find_config(options.socket)
        if file:
            print(f"vhost9p: using {file}", file=sys.stderr)
    config = _from_file(file, options) if file is not None else _from_options(options)
    return c.with_overrides(config, log_level=options.log_level)


def main(argv: list[str] | None = None) -> int:
    """Runs the daemon; returns the process's exit code."""
    try:
        options = _build_parser().parse_args(argv)
        if options.print_capabilities:
            print(json.dumps(CAPABILITIES))
            return 0
        config = build_config(options)
        # Late, so that --help and mistakes do not wait for the C layer to load.
        from vhost9p import daemon, preflight

        preflight.check(config)
    except UserError as error:
        for problem in error.problems:
            print(f"vhost9p: {problem}", file=sys.stderr)
        return EXIT_USAGE
    logging.basicConfig(
        level=config.log_level.upper(),
        format="vhost9p: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    return daemon.run(config)
