"""`vhost9p replay`: repeats a recorded trace in a directory, and reports what differs."""

import argparse
import os
from typing import TYPE_CHECKING

from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.escapes import quoted
from vhost9p.log_record import one_line
from vhost9p.output import say

if TYPE_CHECKING:
    from vhost9p.trace.capture import Captured

SUMMARY = "repeat a recorded trace in a directory, and report what differs"
DETAILS = (
    "It starts a daemon for the directory, sends it the requests one after the other, compares the "
    "replies (not numbers that must differ), and prints a table of times. The directory is "
    "changed as the guest has changed its own: take a copy. Data that the trace lacks is written "
    "as zeros. Exits with 1 if replies differ, and with 2 if the trace or the directory is no use."
)
EXAMPLE = "vhost9p replay trace.pcapng /tmp/copy -- --security-model mapped-xattr"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the trace and the directory."""
    parser.usage = "vhost9p replay [-h] [--device TAG] TRACE DIRECTORY [-- OPTIONS…]"
    parser.add_argument("--device", metavar="TAG", help="only the device with this mount tag")
    parser.add_argument("trace", metavar="TRACE", help="file of vhost9p trace --pcap")
    parser.add_argument("directory", metavar="DIRECTORY", help="where the requests are repeated")
    parser.add_argument(
        "words", nargs="*", metavar="OPTIONS…", help="options for the daemon, such as of --help"
    )


def run(options: argparse.Namespace) -> int:
    """Repeats the trace; returns the exit code. Raises UserError, OSError."""
    from vhost9p.replay.frontend import NoReply
    from vhost9p.replay.served import served
    from vhost9p.replay.session import Session

    if not os.path.isdir(options.directory):
        raise UserError(f"{options.directory} is no directory")
    captured = _load(options.trace, options.device)
    with served(os.path.abspath(options.directory), options.words) as frontend:
        session = Session(frontend, captured)
        try:
            for each in session.run():
                where = f" {quoted(each.path)}" if each.path else ""
                print(one_line(f"request {each.number}: {each.request}{where}: {each.text}"))
        except NoReply as error:
            say(f"request {session.table.repeated + session.table.skipped + 1}: {error}")
            return EXIT_FAILURE
    table = session.table
    print(*table.lines(), sep="\n")
    print(
        f"{table.repeated} requests repeated, {table.skipped} skipped, "
        f"{table.differences} replies differ"
    )
    return EXIT_FAILURE if table.differences else 0


def _load(path: str, device: str | None) -> "list[Captured]":
    """Raises UserError."""
    from vhost9p.trace.capture import CaptureError, read

    try:
        with open(path, "rb") as file:
            captured = list(read(file))
    except CaptureError as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    tags = sorted({each.device for each in captured})
    if device is not None and device not in tags:
        raise UserError(f"{path} has no device {device!r}; there are: {', '.join(tags)}")
    if device is None and len(tags) > 1:
        raise UserError(f"{path} has several devices; choose one by --device: {', '.join(tags)}")
    if not tags:
        raise UserError(f"{path} has no requests")
    if lost := sum(each.lost for each in captured):
        say(f"{path} lacks {lost} requests, so that replies after them may differ")
    return [each for each in captured if device in (None, each.device)]
