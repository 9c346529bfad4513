"""Programs that people use, in a guest whose agent runs: all see what the host changes.

The host edits as programs do, and editors: vim saves a file by a rename. Each mode of the mount,
with one export and with several. docs/guests.md says what `tail -F` sees in which.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.guest import fetch, uml_kernel, watchers
from tests.guest.channel import Process
from tests.guest.conftest import Loud
from tests.guest.following import MOUNT, Following, following
from tests.guest.watchers import WATCHERS, Watcher

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
    pytest.mark.skipif(
        not uml_kernel.is_built(), reason="User Mode Linux is not built; make test-all builds it"
    ),
    pytest.mark.skipif(bool(watchers.lacking()), reason=watchers.lacking()),
]

SOURCES = "src"
"""The directory that is watched."""
QUICK = ("loose", "passthrough", "one export")
EXPORTS = {"one export": (), "several": (SOURCES, "other")}
MODES = [
    pytest.param(*mode, marks=() if mode == QUICK else pytest.mark.full)
    for mode in (
        (cache, model, exports)
        for cache in ("none", "mmap", "loose")
        for model in ("passthrough", "mapped-xattr")
        for exports in EXPORTS
    )
]


@contextmanager
def guest(cache: str, model: str, exports: str) -> Iterator[Following]:
    """One that follows a small tree."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder:
        export = Path(folder)
        for name in (".", SOURCES, f"{SOURCES}/sub", "other"):
            (export / name).mkdir(exist_ok=True)
            (export / name).chmod(0o755)
        for name in ("top.js", "sub/deep.js", "saved.js", "log"):
            (export / SOURCES / name).write_text("old\n")
        options = ("--security-model", model)
        with following(export, cache, *options, exports=EXPORTS[exports]) as found:
            yield found


@contextmanager
def started(following: Following, watcher: Watcher) -> Iterator[Process]:
    """A watcher at work."""
    words = [*watcher.command, f"{MOUNT}/{SOURCES}"]
    process = following.guest.popen(["sh", "-c", 'exec "$@" 2>&1', "sh", *words])
    process.expect(watcher.ready)
    yield process
    process.kill()
    process.wait(check=False)


def save(path: Path, text: str) -> None:
    """As vim does it, if it may: the old file gets another name, a new one has its own."""
    before = path.stat().st_ino
    commands = ("set backup backupcopy=no", f"%s/.*/{text}/", "wq")
    words = [word for command in commands for word in ("-c", command)]
    vim = (*fetch.vim().command, "-es", "-u", "NONE", "-i", "NONE", *words, path.name)
    subprocess.run(vim, cwd=path.parent, stdin=subprocess.DEVNULL, check=True)
    assert path.stat().st_ino != before


@pytest.mark.parametrize("cache,model,exports", MODES)
def test_watchers_see_what_the_host_changes(
    cache: str, model: str, exports: str, loud: Loud
) -> None:
    loud(fetch.vim)
    found = {name: loud(get) for name, get in WATCHERS.items()}
    with guest(cache, model, exports) as following, ExitStack() as stack:
        running = {
            name: stack.enter_context(started(following, each)) for name, each in found.items()
        }

        def expect(what: str, path: str) -> None:
            """All watchers say so of a path."""
            for name, each in found.items():
                text: str = getattr(each, what)
                running[name].expect(f"{text.format(Path(MOUNT, SOURCES, path))}\n".encode())

        sources = following.export / SOURCES
        for path in ("top.js", "sub/deep.js"):
            (sources / path).write_text("new and longer\n")
            expect("changed", path)
        save(sources / "saved.js", "saved by vim")
        expect("changed", "saved.js")
        (sources / "new.js").write_text("new\n")
        expect("created", "new.js")
        (sources / "new.js").unlink()
        expect("removed", "new.js")
        read = following.guest.run(f"cd {MOUNT}/{SOURCES}; cat top.js sub/deep.js saved.js; ls")
        assert read.text.split("\n") == [
            *("new and longer", "new and longer", "saved by vim"),
            *("log", "saved.js", "saved.js~", "sub", "top.js"),
        ]


@pytest.mark.full
@pytest.mark.parametrize("cache", ["none", "mmap", "loose"])
def test_chokidar_watches_what_is_new(cache: str, loud: Loud) -> None:
    """Directories, too, and files in them."""
    found: list[Watcher] = [loud(get) for name, get in WATCHERS.items() if "chokidar" in name]
    with guest(cache, "passthrough", "one export") as following, ExitStack() as stack:
        running = [stack.enter_context(started(following, each)) for each in found]
        new = following.export / SOURCES / "new"
        new.mkdir()
        for each in running:
            each.expect(f"addDir {MOUNT}/{SOURCES}/new\n".encode())
        (new / "file").write_text("first")
        for each in running:
            each.expect(f"add {MOUNT}/{SOURCES}/new/file\n".encode())
        (new / "file").write_text("second, longer")
        for each in running:
            each.expect(f"change {MOUNT}/{SOURCES}/new/file\n".encode())


@pytest.mark.parametrize(
    "cache,model,exports", [each for each in MODES if "mmap" not in each.values]
)
def test_tail_follows_a_log(cache: str, model: str, exports: str) -> None:
    """With mmap it may ask for the size before the agent does, and reads zeros."""
    with guest(cache, model, exports) as following:
        log = following.export / SOURCES / "log"
        tail = following.guest.popen(["tail", "-n", "+1", "-F", f"{MOUNT}/{SOURCES}/log"])
        tail.expect(b"old\n")
        for number in range(3):
            with log.open("a") as file:
                file.write(f"{number}" * 5000 + "\n")
            tail.expect(b"%d\n" % number)
        assert tail.stdout == log.read_bytes()
        if cache == "loose":
            log.rename(log.with_suffix(".1"))
            log.write_text("rotated\n")
            tail.expect(b"rotated\n")
        tail.kill()
