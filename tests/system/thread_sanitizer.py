"""The package once more, with its C part instrumented by ThreadSanitizer, and daemons that run it.

CPython is not instrumented: of it the sanitizer sees locks, threads and calls of the C library,
which order what the C part does, and no other memory accesses. So nothing has to be suppressed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from tests.frontend.daemon import ROOT, Daemon

FLAGS = [
    *("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC"),
    *("-fsanitize=thread", "-Wno-tsan"),  # of fences: around them everything is atomic
]


def runtime() -> str:
    """The sanitizer's library, to be preloaded; "" where the compiler has none."""
    compiler = os.environ.get("CC", "cc")
    found = subprocess.run(
        [compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return os.path.realpath(found) if os.path.isabs(found) else ""


def build(folder: Path) -> None:
    """Puts the package into a folder. As csrc/build.py has it, the extension is all of csrc/, and
    the C source that `make build` has generated.
    """
    shutil.copytree(
        ROOT / "vhost9p", folder / "vhost9p", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    sources = [ROOT / "build" / "_native.c", *(ROOT / "csrc").rglob("*.c")]
    command = [os.environ.get("CC", "cc"), *FLAGS, "-shared", f"-I{ROOT / 'csrc'}"]
    command += [f"-I{sysconfig.get_path('include')}", "-o", str(folder / "vhost9p/_native.abi3.so")]
    subprocess.run([*command, *map(str, sources)], check=True)


def _without_random_addresses() -> list[str]:
    """The sanitizer's shadow memory has a place of its own, where the kernel may put the program
    otherwise (vm.mmap_rnd_bits)."""
    allowed = subprocess.run(["setarch", "-R", "true"], capture_output=True, check=False)
    return [] if allowed.returncode else ["setarch", "-R"]


class Sanitized(Daemon):
    """A daemon of the package in `folder`, which may have so many `files` open; its reports are in
    files there."""

    def __init__(self, folder: Path, *args: str, files: int) -> None:
        options = {
            "log_path": folder / "report",
            "history_size": 7,  # so far back is the other side of a race known
            "exitcode": 0,  # the reports count
        }
        super().__init__(
            *args,
            "--sandbox=none",  # the sanitizer writes its reports outside the exports
            socket=False,
            cwd=folder,
            wrapper=[*_without_random_addresses(), "prlimit", f"--nofile={files}:{files}"],
            env={
                "PYTHONPATH": str(folder),
                "LD_PRELOAD": runtime(),
                "TSAN_OPTIONS": " ".join(f"{key}={value}" for key, value in options.items()),
            },
        )
        self._folder = folder

    def reports(self) -> str:
        """What the sanitizer has found."""
        return "\n".join(
            path.read_text(errors="replace") for path in sorted(self._folder.glob("report.*"))
        )
