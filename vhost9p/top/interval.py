"""An interval: what happens between two answers of the daemons."""

from collections.abc import Callable

from vhost9p.top import sample
from vhost9p.top.sample import Sample
from vhost9p.top.view import Shown
from vhost9p.top.watch import Watch


class Intervals:
    """One interval after the other, of all daemons or one, of all VMs or one."""

    def __init__(self, control_socket: str | None, vm: str | None) -> None:
        self._take: Callable[[], Sample] = lambda: sample.take(control_socket, vm)
        self.last = self._take()

    def begin(self) -> "Interval":
        """Begins the next one."""
        return Interval(self)

    def advance(self) -> tuple[Sample, Sample]:
        """Returns the last sample and a new one, which is the last one from now on."""
        before, self.last = self.last, self._take()
        return before, self.last


class Interval:
    """Watches what happens from now on."""

    def __init__(self, intervals: Intervals) -> None:
        self._intervals = intervals
        serving = [
            (place, vm["vm"]) for place, vm in intervals.last.vms if vm["state"] == "serving"
        ]
        self._watch = Watch(serving)

    def finish(self) -> Shown:
        """Returns what has happened."""
        seen = self._watch.finish()
        before, after = self._intervals.advance()
        devices = sample.rates(before, after)
        for each in devices:
            each.add_latencies(seen.latencies.get((each.vm, each.tag), {}))
        return Shown(devices, seen, after.problems, after.at - before.at)

    def drop(self) -> None:
        """Forgets what has happened."""
        self._watch.close()
