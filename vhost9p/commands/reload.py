"""`vhost9p reload`: has running daemons read their configuration again."""

import argparse
import os
import sys
from collections.abc import Iterable

from vhost9p.cli_parser import typed
from vhost9p.config_values import parse_number
from vhost9p.control import client
from vhost9p.control.client import ControlError, Place, ask
from vhost9p.errors import EXIT_FAILURE, EXIT_USAGE
from vhost9p.log_record import one_line
from vhost9p.output import say

PID_MAX = 2**31 - 1
"""Of pid_t, an int."""

SUMMARY = "have running daemons read their configuration again"
DETAILS = (
    "Exports come and go under running guests, and most options change at once; "
    "docs/configuration.md says which. What cannot change is refused by name, and then nothing of "
    "that file changes. Exits with 0 if all is served as the files say, with 1 if something is "
    "not, and with 2 if there is no such daemon."
)
EXAMPLE = "vhost9p reload --config /etc/vhost9p/web.yaml"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the daemons."""
    parser.add_argument(
        "pid",
        nargs="*",
        type=typed(parse_number(1, PID_MAX)),
        help="main process of a daemon (default: the only one that runs)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the daemon that serves a VM as this file says, also one of a --config-dir",
    )
    client.add_place_option(parser, "the only one that runs")


def run(options: argparse.Namespace) -> int:
    """Asks the daemons; returns the exit code."""
    try:
        places = _chosen(options, client.places(options.control_socket))
    except ControlError as error:
        say(str(error))
        return EXIT_USAGE
    return max([_reload(place) for place in places], default=0)


def _chosen(options: argparse.Namespace, places: list[Place]) -> list[Place]:
    """Raises ControlError."""
    if options.pid and options.config is not None:
        raise ControlError("a pid and --config exclude each other: name one daemon")
    if options.config is not None:
        wanted = os.path.realpath(options.config)
        found = [each for each in places if wanted in _files(each)]
        if not found:
            raise ControlError(f"no daemon that you may ask serves a VM by {options.config!r}")
        return found
    if options.pid and options.control_socket is not None:
        raise ControlError("a pid and --control-socket exclude each other: name one daemon")
    if options.pid:
        known = {each.pid: each for each in places}
        if missing := [str(pid) for pid in options.pid if pid not in known]:
            raise ControlError(f"{', '.join(missing)}: no daemon that you may ask")
        return [known[pid] for pid in options.pid]
    if len(places) > 1:
        pids = ", ".join(str(each.pid) for each in places)
        raise ControlError(f"several daemons run: name one by its pid ({pids}) or --config")
    return places


def _files(place: Place) -> Iterable[str]:
    """The configurations of a daemon's VMs; none if it does not answer."""
    try:
        listed = [each["config"] for each in ask(place, {"command": "list"})]
    except ControlError:
        return ()
    return {os.path.realpath(each) for each in listed if each}


def _reload(place: Place) -> int:
    """Returns the exit code."""
    succeeded: bool | None = None
    lines: list[str] = []
    try:
        for found in ask(place, {"command": "reload"}, is_stream=True):
            if "line" in found:
                lines.append(one_line(found["line"]))
            succeeded = found.get("succeeded")
    except ControlError as error:
        say(str(error))
        return EXIT_FAILURE
    if succeeded is None:
        say(f"{place} does not say how that went")
    for line in lines:
        print(line, file=sys.stdout if succeeded else sys.stderr)
    return 0 if succeeded else EXIT_FAILURE
