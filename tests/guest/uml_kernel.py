"""The kernel that runs as a process: User Mode Linux, from Debian's source.

Belongs here: what it is built from, how it is configured, and what the host needs to build it. It
is built once, in ten minutes on two CPUs, and kept in the folder of cache.py; of the source
nothing stays. How it runs is the business of uml.py.

    python -m tests.guest.uml_kernel

builds it, unless it is there, and prints where it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache as once
from pathlib import Path

from tests.guest import cache, fetch
from tests.guest.apt import FetchError

SUITE = "trixie-backports"

# `make defconfig` of the architecture, and these. The tracers are for their tracepoints: those of
# 9p and fuse count the requests.
_ON = (
    *("VIRTIO", "VIRTIO_UML", "NET", "UNIX", "INET", "HOSTFS", "TMPFS", "TMPFS_XATTR", "DEVTMPFS"),
    *("NET_9P", "NET_9P_VIRTIO", "9P_FS", "9P_FS_POSIX_ACL", "9P_FS_SECURITY", "FUSE_FS"),
    *("VIRTIO_FS", "DEBUG_INFO_NONE"),
    *("SSL", "POSIX_TIMERS", "HIGH_RES_TIMERS", "FTRACE", "ENABLE_DEFAULT_TRACERS"),
)
_OFF = (
    "MODULES",
    "DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT",
    "SOUND",
    "WERROR",
    "SMP",
    "NETDEVICES",
    "BLK_DEV",
)
_REQUIRED = ("VIRTIO_UML", "NET_9P_VIRTIO", "9P_FS", "VIRTIO_FS", "HOSTFS", "TRACING")

_MENDED = {
    "arch/um/os-Linux/time.c": ("sigaddset(&set, SIGALRM);", "{}\n\tsigaddset(&set, SIGIO);"),
    "arch/um/os-Linux/signal.c": (
        "return !!(signals_pending & SIGALRM_MASK);",
        "return !!(signals_pending & (SIGALRM_MASK | SIGIO_MASK));",
    ),
}
"""Words of the source, and what takes their place, where they still are. A device interrupts with
SIGIO. Without this a CPU that goes idle overlooks one that arrives just then, until its clock ticks
again: a benchmark would measure how often that happens."""

PROGRAMS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "xz": "xz-utils",
}
"""What the build runs, and the package of each."""


def _name() -> str:
    recipe = repr((SUITE, _ON, _OFF, _MENDED))
    return f"uml-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


def is_built() -> bool:
    """Whether `kernel` has only to look it up."""
    return (cache.folder() / _name()).exists()


@once
def kernel() -> Path:
    """The program `linux`, built if it is not in the cache. Raises FetchError."""
    return cache.entry(_name(), _make) / "linux"


def version(program: Path) -> str:
    """The release of a kernel."""
    return subprocess.run(
        (program, "--version"), capture_output=True, text=True, check=True
    ).stdout.strip()


def _make(target: Path) -> None:
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    if missing:
        raise FetchError(
            "User Mode Linux cannot be built; install what is missing: "
            f"sudo apt-get install {' '.join(missing)}"
        )
    work = target.with_name(target.name + ".build")
    shutil.rmtree(work, ignore_errors=True)
    try:
        source = _source(work)
        _mend(source)
        _configure(source)
        _build(source)
        target.mkdir()
        shutil.copy(source / "linux", target / "linux")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _source(work: Path) -> Path:
    """Debian's newest source in SUITE, unpacked in `work`."""
    archive = fetch.open_archive(SUITE)
    packages = [p for p in archive.depends(SUITE, "linux-source") if p.startswith("linux-source-")]
    archive.unpack(SUITE, packages, work, "Linux's source")
    tarballs = list(work.glob("usr/src/linux-source-*.tar.xz"))
    if len(tarballs) != 1:
        raise FetchError(f"{', '.join(packages)}: {len(tarballs)} archives of sources, not one")
    with cache.Progress("unpacking Linux's source"):
        _run(("tar", "xf", tarballs[0], "-C", work), work)
    tarballs[0].unlink()
    return work / tarballs[0].name.removesuffix(".tar.xz")


def _mend(source: Path) -> None:
    """Raises FetchError where neither those words are nor what they lack."""
    for name, (old, new) in _MENDED.items():
        file = source / name
        text = file.read_text() if file.exists() else ""
        if old in text:
            file.write_text(text.replace(old, new.format(old)))
        elif "SIGIO" not in text:
            raise FetchError(f"{source.name}: {name} has nothing of {old!r}, which is to be mended")


def _configure(source: Path) -> None:
    """Raises FetchError where this source has no longer what is asked for."""
    _run(("make", "ARCH=um", "defconfig"), source)
    words = [word for name in _ON for word in ("-e", name)]
    words += [word for name in _OFF for word in ("-d", name)]
    _run(("scripts/config", *words), source)
    _run(("make", "ARCH=um", "olddefconfig"), source)
    made = (source / ".config").read_text().splitlines()
    lacking = [name for name in _REQUIRED if f"CONFIG_{name}=y" not in made]
    if lacking:
        raise FetchError(f"{source.name} cannot be configured with {', '.join(lacking)}")


def _build(source: Path) -> None:
    jobs = len(os.sched_getaffinity(0))
    command = ("nice", "make", "ARCH=um", f"-j{jobs}", "linux")
    with (
        cache.Progress(f"building User Mode Linux from {source.name}") as progress,
        subprocess.Popen(
            command, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as make,
    ):
        assert make.stdout is not None
        lines = []
        for line in make.stdout:
            lines.append(line)
            progress.update(f"{len(lines)} steps")
    if make.returncode:
        raise FetchError(f"{' '.join(command)} failed:\n{''.join(lines[-20:])}")


def _run(command: tuple[str | Path, ...], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(map(str, command[:3]))
        raise FetchError(f"{shown} failed:\n{(done.stdout + done.stderr)[-2000:]}")


if __name__ == "__main__":
    try:
        print(kernel())
    except FetchError as error:
        sys.exit(f"uml_kernel: {error}")
