"""`vhost9p top`: what guests ask for most, and how long they wait (top/)."""

import argparse
import signal
import time
from contextlib import suppress

from vhost9p.cli_parser import typed
from vhost9p.control import client
from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.escapes import to_json
from vhost9p.output import say, silence_stdout

SUMMARY = "show what guests ask for most, and how long they wait"
DETAILS = (
    "Rates are those of the last interval; files and the slowest requests are those of a sample of "
    "it. Exits with 1 if --once finds no daemon or VM."
)
EXAMPLE = "vhost9p top\nvhost9p top vm1 --once --interval 5"
SECONDS_MAX = 3600
SORTS = "requests", "bytes", "latency", "errors", "queue", "name"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the VM, the interval and the form."""
    parser.add_argument("vm", nargs="?", metavar="VM", help="its name, configuration or socket")
    client.add_place_option(parser)
    parser.add_argument(
        "--interval", type=typed(parse_seconds), default=2.0, metavar="S", help="seconds (2)"
    )
    parser.add_argument(
        "--sort", type=typed(parse_sort), default="requests", metavar="BY", help=", ".join(SORTS)
    )
    parser.add_argument("--once", action="store_true", help="print one interval, and end")
    parser.add_argument("--json", action="store_true", help="print an object for each interval")


def parse_seconds(text: str) -> float:
    """Parses a number of seconds. Raises ValueError."""
    with suppress(ValueError):
        if 0.1 <= (value := float(text)) <= SECONDS_MAX:
            return value
    raise ValueError(f"is no number of seconds from 0.1 to {SECONDS_MAX}")


def parse_sort(text: str) -> str:
    """Parses what devices are sorted by. Raises ValueError."""
    if text not in SORTS:
        raise ValueError(f"is not one of {', '.join(SORTS)}")
    return text


def run(options: argparse.Namespace) -> int:
    """Shows rates until the end; returns the exit code. Raises UserError, OSError."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        try:
            return _lines(options) if options.once or options.json else _live(options)
        except BrokenPipeError:
            silence_stdout()
    return 0


def _lines(options: argparse.Namespace) -> int:
    """Prints intervals for other programs, or one."""
    from vhost9p.top import view
    from vhost9p.top.interval import Intervals

    intervals = Intervals(options.control_socket, options.vm)
    while True:
        interval = intervals.begin()
        time.sleep(options.interval if intervals.last.vms or not options.once else 0)
        shown = interval.finish()
        if options.once and not shown.devices:
            for each in shown.problems or ["the daemons have no VM"]:
                say(each)
            return EXIT_FAILURE
        if options.json:
            print(to_json(view.as_plain(shown, options.sort)), flush=True)
        else:
            print("\n".join(view.lines(shown, options.sort, 0, 0)))
        if options.once:
            return 0


def _live(options: argparse.Namespace) -> int:
    try:
        from vhost9p.top import screen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise UserError(
            "this takes Rich: install python3-rich, or vhost9p[top]; --once and --json do without"
        ) from None
    from vhost9p.top.interval import Intervals

    intervals = Intervals(options.control_socket, options.vm)
    screen.run(intervals.begin, options.interval, options.sort)
    return 0
