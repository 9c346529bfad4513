"""`vhost9p trace`: shows the requests of a running VM, and what they are answered.

It asks the daemon (control/) for the memory to which the VM's worker writes (trace/memory.py), and
reads that until somebody ends it. The connection stays open: its end, which the kernel brings about
even if this process is killed, switches recording off.
"""

import argparse
import errno
import os
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO, Self

from vhost9p import config_values as v
from vhost9p.cli_parser import typed
from vhost9p.control import client
from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.escapes import unescape
from vhost9p.output import say, silence_stdout

if TYPE_CHECKING:
    from vhost9p.trace.events import Event, Source
    from vhost9p.trace.reader import Lost
    from vhost9p.tracer import Tracer

SUMMARY = "show the requests of a running VM, with the guest's paths"
DETAILS = "Ctrl-C ends it."
EXAMPLE = "vhost9p trace vm.yaml --path '/home/*' --errno any"
REQUEST_MAX = 2**32 - 1
SECONDS_MAX = 86400


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the VM, the filters and the forms."""
    parser.usage = "vhost9p trace [options] [VM]"
    number = typed(v.parse_number(0, REQUEST_MAX))
    parser.add_argument("vm", nargs="?", metavar="VM", help="its configuration, socket or name")
    client.add_place_option(parser)
    add = parser.add_argument
    add("--path", metavar="PATTERN", help="only such paths (pattern of a shell), and below")
    add("--fid", type=number, action="append", default=[], help="only of this fid")
    add("--type", type=typed(parse_types), default=(), help="only these: Twalk,Tlopen,...")
    add("--errno", type=typed(parse_errnos), default=(), help="ENOENT,EACCES,..., or any")
    add("--slower", type=typed(parse_milliseconds), default=0, metavar="MS", help="milliseconds")
    add("--device", metavar="TAG", help="only of the device with this mount tag")
    add("--count", type=typed(v.parse_number(1, 2**63)), default=0, help="end after so many")
    add("--data", type=typed(parse_data), default=0, metavar="N", help="bytes of file data shown")
    add("--json", action="store_true", help="print JSON, an object a line")
    add("--pcap", metavar="FILE", help="write a capture (-: to standard output)")


def parse_types(text: str) -> tuple[str, ...]:
    """Parses names of requests. Raises ValueError."""
    from vhost9p.trace.notation import REQUESTS

    known = {name.lower(): name for name in REQUESTS}
    found = []
    for word in text.split(","):
        name = known.get(word.lower()) or known.get(f"t{word.lower()}")
        if name is None:
            raise ValueError(f"has {word!r}, which is no request{v.guess(word, known.values())}")
        found.append(name)
    return tuple(found)


def parse_errnos(text: str) -> tuple[str, ...]:
    """Parses names or numbers of errnos. Raises ValueError."""
    from vhost9p.trace.events import ANY

    names = errno.errorcode
    known = {*names.values(), ANY}
    found = []
    for word in text.split(","):
        name = names.get(int(word), "") if word.isdecimal() else word.upper()
        if name not in known:
            raise ValueError(f"has {word!r}, which is no errno such as ENOENT, nor any")
        found.append(name)
    return tuple(found)


def parse_milliseconds(text: str) -> int:
    """Parses a number of milliseconds, into nanoseconds. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= SECONDS_MAX * 1000:
        raise ValueError(f"is no number of milliseconds from 0 to {SECONDS_MAX * 1000}")
    return int(value * 10**6)


def parse_data(text: str) -> int:
    """Parses a number of bytes. Raises ValueError."""
    from vhost9p.trace.memory import DATA_MAX

    return int(v.parse_number(0, DATA_MAX)(text))


def rooted(pattern: str) -> str:
    """Returns a pattern that begins where paths do: at the mount's root, or, of a path that is cut,
    anywhere."""
    return pattern if pattern.startswith(("/", "*", "?", "[", "...")) else f"/{pattern}"


def run(options: argparse.Namespace) -> int:
    """Shows requests until the end; returns the exit code. Raises UserError, OSError."""
    from vhost9p.control.client import ControlError
    from vhost9p.tracer import Tracer

    if options.json and options.pcap == "-":
        raise UserError("--json and --pcap - both write to standard output: choose one")
    try:
        tracer = Tracer(options.vm, options.data, options.control_socket)
        tags = [each.tag for each in tracer.sources]
        if options.device not in (None, *tags):
            known = ", ".join(tags)
            raise UserError(f"{tracer.vm} has no device {options.device!r}; there are: {known}")
        stop = _Stop()
        with _Output(options, tracer.sources) as output:
            say(f"watching {tracer.vm}: {', '.join(tags)}")
            _show(tracer, options, output, stop)
    except BrokenPipeError:
        silence_stdout()
    except ControlError as error:
        say(str(error))
        return EXIT_FAILURE
    return 0


def _show(tracer: "Tracer", options: argparse.Namespace, output: "_Output", stop: "_Stop") -> None:
    """Raises ControlError, OSError."""
    from vhost9p.trace.events import Event, Filter
    from vhost9p.tracer import Gap

    wanted = Filter(
        options.path and rooted(unescape(options.path)),
        frozenset(options.fid),
        options.type,
        options.errno,
        options.slower,
    )
    left = options.count or -1
    is_last = False
    for seen in tracer.events():
        if seen is None:
            output.flush()
            if is_last:
                return
            is_last = stop.is_asked
        elif isinstance(seen, Gap):
            say(f"the daemon was replaced: {seen.seconds:.1f} s were not recorded")
        elif not isinstance(seen, Event):
            output.lost(*seen)
        elif options.device in (None, seen.source.tag) and wanted.takes(seen):
            output.write(seen)
            left -= 1
            if not left:
                return
    say(f"{tracer.vm} has ended")


class _Stop:
    """Takes the signals to stop. After the first one what was recorded before it is shown, so that
    a capture has what a person has just seen the guest do; one more, as while nobody reads the
    output, ends the process at once."""

    def __init__(self) -> None:
        self.is_asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, *_: object) -> None:
        if self.is_asked:
            os._exit(EXIT_FAILURE)
        self.is_asked = True


class _Output:
    """Where events go: lines or objects to standard output, and packets to a capture."""

    def __init__(self, options: argparse.Namespace, sources: "list[Source]") -> None:
        """Raises OSError."""
        from vhost9p.trace.capture import Writer

        self._file: BinaryIO | None = None
        if options.pcap == "-":
            self._file = sys.stdout.buffer
        elif options.pcap is not None:
            fd = os.open(options.pcap, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(fd, "wb")
        self._capture = Writer(self._file, sources) if self._file else None
        self._several = len(sources) > 1
        self._json = options.json
        self._prints = options.pcap is None or options.json
        self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self._lost:
            say(f"{self._lost} requests in all were lost: they came faster than they were taken")
        if self._file and self._file is not sys.stdout.buffer:
            self._file.close()

    def write(self, event: "Event") -> None:
        """Shows an event. Raises OSError."""
        from vhost9p.trace import lines

        if self._capture:
            self._capture.write(event)
        if self._prints:
            one = lines.as_json(event) if self._json else lines.line(event, several=self._several)
            print(one)

    def lost(self, source: "Source", lost: "Lost") -> None:
        """So many requests are missing here."""
        from vhost9p.trace import lines

        self._lost += lost.count
        if self._capture:
            self._capture.lose(lost.count)
        if self._json:
            print(lines.lost_as_json(source.tag, lost.count))
        else:
            self.flush()
            say(f"{source.tag}: {lost.count} requests were lost here")

    def flush(self) -> None:
        """Lets others see what was shown. Raises OSError."""
        sys.stdout.flush()
