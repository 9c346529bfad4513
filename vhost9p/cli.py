"""The command line: from arguments to a Config, and the process's exit code.

Exit codes: 0 after SIGTERM, SIGINT or --once; 1 when something fails while serving begins; 2 for a
mistake in the options, the configuration or the paths. What goes wrong is told in a line each.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from vhost9p import __version__, config_file
from vhost9p import config as c
from vhost9p.errors import UserError

EXIT_FAILURE = 1
EXIT_USAGE = 2
FD_MAX = 2**31 - 1
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
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return parse


def _descriptor(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not 3 <= int(text) <= FD_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no inherited descriptor: a number from 3")
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
    _add_where(parser)
    _add_what(parser)
    _add_how(parser)
    parser.add_argument(
        "--print-capabilities", action="store_true", help="print what this backend is, and end"
    )
    parser.add_argument("--version", action="version", version=f"vhost9p {__version__}")
    return parser


def _add_where(parser: _Parser) -> None:
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
    where.add_argument(
        "--config",
        metavar="FILE",
        type=_typed(c.parse_path),
        help="serve what this YAML file says",
    )


def _add_what(parser: _Parser) -> None:
    what = parser.add_argument_group("what (instead of --config)")
    what.add_argument(
        "--path",
        metavar="DIR",
        type=_typed(c.parse_path),
        help="the directory to export (default: the current one)",
    )
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


def _add_how(parser: _Parser) -> None:
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
    name = os.path.splitext(os.path.basename(socket))[0] + ".yaml"
    for folder in (c.xdg_folder("XDG_CONFIG_HOME", "~/.config"), "/etc"):
        if folder and os.path.isfile(file := os.path.join(folder, "vhost9p", name)):
            return file
    return None


def _say(text: str) -> None:
    """One line on standard error, whatever is in a path."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    print(f"vhost9p: {line}", file=sys.stderr, flush=True)


def _from_file(file: str, options: argparse.Namespace, place: dict[str, Any]) -> c.Config:
    config = config_file.load(file, socket_needed=not place)
    if place and len(config.devices) != 1:
        raise UserError(f"{file}: has several devices, so --socket or --fd cannot name theirs")
    changes: dict[str, Any] = {"socket": None, "fd": None, **place} if place else {}
    for key in ("once", "force"):
        if getattr(options, key):
            changes[key] = True
    if options.state_dir:
        changes["state_dir"] = options.state_dir
    return replace(config, devices=tuple(replace(each, **changes) for each in config.devices))


def _from_options(options: argparse.Namespace, place: dict[str, Any]) -> c.Config:
    given = {key: value for key in WHAT if (value := getattr(options, key)) is not None}
    if options.state_dir:
        given["state_dir"] = options.state_dir
    if "path" not in given:
        given["path"] = _current_directory()
        _say(f"no --path: exporting the current directory, {given['path']}")
    return c.Config((c.DeviceConfig(**given, **place, once=options.once, force=options.force),))


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise UserError(f"the current directory cannot be used: {error.strerror}") from None


def _make_absolute(options: argparse.Namespace) -> None:
    for key in c.PATHS:
        path = getattr(options, key)
        if path is not None:
            base = "/" if os.path.isabs(path) else _current_directory()
            setattr(options, key, c.absolute(path, base))
    if options.socket is not None and (problem := c.socket_problem(options.socket)):
        raise UserError(f"--socket: {problem}")


def build_config(options: argparse.Namespace) -> c.Config:
    """What the options mean; raises UserError."""
    given = [key for key in WHAT if getattr(options, key) is not None]
    if options.socket is not None and options.fd is not None:
        raise UserError("--fd and --socket exclude each other: name one")
    if options.config is not None and given:
        names = ", ".join("--" + key.replace("_", "-") for key in given)
        raise UserError(
            f"--config excludes {names}: say it in the file. With --config go --socket, --fd, "
            "--once, --force, --state-dir and --log-level"
        )
    _make_absolute(options)
    place = {key: value for key in ("socket", "fd") if (value := getattr(options, key)) is not None}
    if options.config is None and not place:
        raise UserError("name a --socket to listen on, an --fd, or a --config (vhost9p --help)")
    file = options.config
    if file is None and options.socket is not None and not given:
        file = find_config(options.socket)
        if file:
            _say(f"using {file}")
    config = _from_file(file, options, place) if file else _from_options(options, place)
    return c.with_overrides(config, log_level=options.log_level)


def _serve(argv: list[str] | None) -> int:
    options = _build_parser().parse_args(argv)
    if options.print_capabilities:
        print(json.dumps(CAPABILITIES))
        return 0
    config = build_config(options)
    # Late, so that --help and mistakes do not wait for the C layer to load.
    from vhost9p import daemon, preflight

    preflight.check(config)
    logging.basicConfig(
        level=config.log_level.upper(),
        format="vhost9p: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    return daemon.run(config)


def main(argv: list[str] | None = None) -> int:
    """Runs the daemon; returns the process's exit code."""
    try:
        return _serve(argv)
    except UserError as error:
        for problem in error.problems:
            _say(problem)
        return EXIT_USAGE
    except OSError as error:
        _say(f"{error.filename or 'error'}: {error.strerror or error}")
        return EXIT_FAILURE
    except KeyboardInterrupt:  # before the daemon takes signals itself
        return 0
