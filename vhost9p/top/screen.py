"""Shows rates on a terminal until somebody ends it: Rich keeps the lines in their places.

On a terminal that cannot move its cursor (TERM=dumb), and in a pipe, one table follows the other.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vhost9p.top import view
from vhost9p.top.interval import Interval
from vhost9p.top.view import Shown

HELP = "q quit  p pause  s sort"
QUIT, PAUSE, SORT = "q\x04", "p ", "s"


class Keys:
    """What is pressed, without Enter and without an echo; nothing where there is no terminal."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else -1

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Within it, keys come one by one."""
        if self._fd < 0:
            yield
            return
        before = termios.tcgetattr(self._fd)
        try:
            tty.setcbreak(self._fd)
            yield
        finally:
            with suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, before)

    def wait(self, seconds: float) -> str:
        """Returns the keys that are pressed within so many seconds, as soon as there are some."""
        if self._fd < 0:
            time.sleep(max(seconds, 0))
            return ""
        if not select.select([self._fd], [], [], max(seconds, 0))[0]:
            return ""
        data = b""
        with suppress(OSError):
            data = os.read(self._fd, 64)
        return data.decode(errors="replace") or QUIT  # the terminal has gone


class Screen:
    """Where lines are shown. Closed at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._undo = ExitStack()
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = self._undo.enter_context(
                Live(console=console, screen=True, auto_refresh=False)
            )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._undo.close()

    def show(self, shown: Shown, title: str, sort: str) -> None:
        """Shows it in place of what was there, or after it."""
        width, height = self._console.size
        if not self._live:
            width, height = 0, 1
        lines = [view.cut(title, width), *view.lines(shown, sort, width, height - 1)]
        text = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(lines):
            is_title = number == 0 or line.lstrip().startswith(view.HEADINGS)
            text.append(line, "bold" if is_title else "")
            text.append("\n" if number + 1 < len(lines) else "")
        if self._live:
            self._live.update(text, refresh=True)
        else:
            self._console.print(text, soft_wrap=True)
            self._console.print()


class _Chosen:
    """What keys have changed."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.is_paused = False
        self.has_quit = False

    def press(self, keys: str) -> bool:
        """Takes keys. Returns whether that changes what is shown."""
        for key in keys.lower():
            if key in QUIT:
                self.has_quit = True
            elif key in PAUSE:
                self.is_paused = not self.is_paused
            elif key in SORT:
                names = list(view.SORTS)
                self.sort = names[(names.index(self.sort) + 1) % len(names)]
        return bool(keys) and not self.has_quit


def run(interval: Callable[[], Interval], seconds: float, sort: str) -> None:
    """Shows an interval of so many seconds after the other, until a key or a signal ends it."""
    keys, chosen = Keys(), _Chosen(sort)
    screen = Screen(Console())
    try:
        with keys.taken():
            shown = interval().finish()
            while not chosen.has_quit:
                screen.show(shown, _title(shown, chosen, seconds), chosen.sort)
                shown = _next(interval, seconds, keys, chosen, shown)
    finally:
        screen.close()


def _next(
    interval: Callable[[], Interval], seconds: float, keys: Keys, chosen: _Chosen, shown: Shown
) -> Shown:
    """Returns what there is to show next: after an interval, or at once after a key."""
    if chosen.is_paused:
        chosen.press(keys.wait(3600))
        return shown
    began = interval()
    until = time.monotonic() + seconds
    pressed = keys.wait(seconds)
    if pressed and chosen.press(pressed) and chosen.is_paused:
        began.drop()
        return shown
    if time.monotonic() < until:
        began.drop()
        return shown
    return began.finish()


def _title(shown: Shown, chosen: _Chosen, seconds: float) -> str:
    now = "paused" if chosen.is_paused else time.strftime("%H:%M:%S")
    vms = len({each.vm for each in shown.devices})
    return f"vhost9p top  {now}  {vms} VMs  every {seconds:g} s  by {chosen.sort}  {HELP}"
