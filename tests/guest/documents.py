"""Runs what a document of docs/ tells its reader to do.

Belongs here: which blocks a document may have, and how each is done. A block is

- ```console: commands, behind `host$ ` and `guest# ` (the newest guest; `guest2# ` is the second
  that was started), a line that ends with a backslash going on in the next one. What stands below a
  command is its output, in which `…` stands for anything; a command without output below it may
  print what it likes. A command may fail only if the document shows what it says then.
- ```KIND NAME, such as ```yaml vm.yaml: a file of that name, which is written where the commands
  of the host have arrived.

Any other block is an error, so nothing stands in such a document that is not run. The commands of
the host are run by bash, each by another process with the environment that the one before has
left. `vhost9p run` gets a terminal of its own, on which the guest's commands are typed from then
on; `guest# exit` is its end.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import tempfile
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.children import ending_with_tests

ANYTHING = "…"
PATIENCE = 180.0
"""Seconds that a command may take, and a boot, on a busy machine under emulation."""
PROMPTS = re.compile(r"(?:(?P<host>host\$)|guest(?P<guest>\d?)#) ")
NEWEST = -1
"""The guest whose number is not said."""
STARTS_GUEST = "vhost9p run "
PROMPT = re.compile(rb"# (?:\x1b\[6n)?\Z")
"""Of the guest's shell, which may ask where the cursor is."""
QUIET = "stty -echo; echo rea''dy; sh 2>&1 | cat; exit"
"""From then on nothing is shown but what commands print."""
READY = b"ready"
MARK = "end-of-command"
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class DocumentError(Exception):
    """A document does not say what is true, or has a block that cannot be run."""


@dataclass
class Command:
    """A command, and the output that the document shows."""

    guest: int | None
    """Which guest, from 1 on, or NEWEST; None: the host."""
    text: str
    shown: list[str] = field(default_factory=list)

    def check(self, output: str, code: int) -> None:
        """Raises DocumentError if the document shows something else."""
        output = "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")
        if code and not self.shown:
            raise DocumentError(f"{self.text}: exit code {code}\n{output}")
        shown = "\n".join(line.rstrip() for line in self.shown)
        pattern = ".*".join(re.escape(part) for part in shown.split(ANYTHING))
        if self.shown and not re.fullmatch(pattern, output, re.DOTALL):
            raise DocumentError(
                f"{self.text}: the document shows\n{shown}\nand it prints\n{output}"
            )


@dataclass(frozen=True)
class File:
    """A file that the reader writes."""

    name: str
    text: str


def steps(text: str) -> list[Command | File]:
    """Returns what a document has its reader do, in order. Raises DocumentError."""
    found: list[Command | File] = []
    for head, body in _FENCE.findall(text):
        kind, _, name = head.partition(" ")
        if kind == "console" and not name:
            found += _commands(body)
        elif (
            kind not in ("", "console")
            and re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*", name)
            and ".." not in name
        ):
            found.append(File(name, body))
        else:
            raise DocumentError(f"a block ```{head} is neither commands nor a file:\n{body}")
    return found


def _commands(body: str) -> Iterator[Command]:
    command = None
    lines = iter(body.splitlines())
    for line in lines:
        if prompt := PROMPTS.match(line):
            if command:
                yield command
            text = line[prompt.end() :]
            while text.endswith("\\"):
                text += f"\n{next(lines)}"
            command = Command(None if prompt["host"] else int(prompt["guest"] or NEWEST), text)
        elif command:
            command.shown.append(line)
        else:
            raise DocumentError(f"no command stands above {line!r}")
    if command:
        yield command


class Reader:
    """Somebody who does what a document says, as a context manager: what he has started ends."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], wrapper: Sequence[str] = ()
    ) -> None:
        """`wrapper` are words before each command, such as those that make him another user."""
        self.folder = folder
        self.environment = dict(environment)
        self.wrapper = wrapper
        self.guests: list[Terminal] = []

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for guest in self.guests:
            guest.close()

    def do(self, step: Command | File) -> None:
        """Raises DocumentError."""
        if isinstance(step, File):
            file = self.folder / step.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text, encoding="utf-8")
        elif step.guest is not None:
            if len(self.guests) < max(step.guest, 1):
                raise DocumentError(f"{step.text}: no such guest runs")
            at = step.guest - 1 if step.guest > 0 else step.guest
            step.check(*self.guests[at].run(step.text))
        elif step.text.startswith(STARTS_GUEST) and not step.shown:
            words = [*self.wrapper, "bash", "-c", step.text]
            self.guests.append(Terminal(words, self.folder, self.environment))
        else:
            step.check(*self.run(step.text))

    def run(self, command: str) -> tuple[str, int]:
        """Returns what a command of the host prints, and its exit code."""
        with tempfile.NamedTemporaryFile() as left:
            os.chmod(left.name, 0o666)
            name = shlex.quote(left.name)
            script = f"{command}\ncode=$?; {{ pwd; env -0; }} > {name}; exit $code"
            done = subprocess.run(
                ending_with_tests(["bash", "-c", script], self.wrapper),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
            )
            folder, _, variables = Path(left.name).read_bytes().partition(b"\n")
        if folder:
            self.folder = Path(os.fsdecode(folder))
            pairs = (each.partition(b"=") for each in variables.split(b"\0") if each)
            self.environment = {os.fsdecode(key): os.fsdecode(text) for key, _, text in pairs}
        return done.stdout.decode(errors="replace"), done.returncode


class Terminal:
    """A terminal on which a command runs that gives a guest's shell."""

    def __init__(self, words: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.command = words[-1]
        self.output = b""
        self._in_shell = False
        self._master, slave = pty.openpty()
        tty.setraw(self._master)
        self._process = subprocess.Popen(
            ending_with_tests(["setsid", "--ctty", *words]),
            cwd=folder,
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def run(self, command: str) -> tuple[str, int]:
        """Returns what a command in the guest prints, and its exit code. Waits for the guest to
        boot, and, behind `exit`, for its end. Raises DocumentError."""
        if not self._in_shell:
            self._wait(lambda: PROMPT.search(self.output))
            self._in_shell = True
            self._type(f"{QUIET}\n")
            self._wait(lambda: READY in self.output)
        self.output = b""
        if command == "exit":
            self._type("exit\n")
            return "", self._wait_end()
        self._type(f"{command}\necho; echo {MARK} $?\n")
        mark = re.compile(rf"[\r\n]*{MARK} (\d+)\r*\n".encode())
        self._wait(lambda: mark.search(self.output))
        found = mark.search(self.output)
        assert found
        shown = self.output[: found.start()].replace(b"\r", b"")
        return shown.decode(errors="replace"), int(found[1])

    def close(self) -> None:
        """Ends the command; idempotent."""
        if self._process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
                    break
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _wait_end(self) -> int:
        self._wait(lambda: self._process.poll() is not None, may_end=True)
        code: int = self._process.wait()
        return code

    def _wait(self, done: object, may_end: bool = False) -> None:
        """Reads until something is so. Raises DocumentError."""
        assert callable(done)
        end = time.monotonic() + PATIENCE
        while not done():
            self._read()
            if self._process.poll() is not None and not may_end:
                raise DocumentError(f"{self.command}: it has ended\n{self._shown()}")
            if time.monotonic() > end:
                raise DocumentError(f"{self.command}: nothing comes\n{self._shown()}")

    def _read(self) -> None:
        if select.select([self._master], [], [], 0.2)[0]:
            with suppress(OSError):  # nobody has the other end any more
                self.output += os.read(self._master, 1 << 16)
                return
            time.sleep(0.1)

    def _shown(self) -> str:
        return self.output[-3000:].decode(errors="replace")
