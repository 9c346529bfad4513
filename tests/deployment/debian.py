"""Root directories of Debian releases, to build packages in and to install them.

mmdebstrap makes them in the cache folder of tests/guest/cache.py, from the archive that apt of this
machine is set up for. A test gets a layer of its own above one, and what it changes is gone with
it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import cache, fetch
from tests.marks import fetched

RELEASES = {"bookworm": "12", "trixie": "13"}
SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d")
SYSTEM = (
    *("systemd", "systemd-sysv", "libseccomp2", "python3", "python3-cffi-backend"),
    *("python3-uvloop", "python3-xxhash", "python3-yaml"),
)
"""A host with systemd, and what vhost9p needs there."""
BUILD = (
    *("build-essential", "debhelper", "dh-python", "fakeroot", "lintian"),
    *("pybuild-plugin-pyproject", "python3-cffi", "python3-dev", "python3-setuptools"),
    *("python3-uvloop", "python3-wheel", "python3-xxhash", "python3-yaml"),
)
"""What debian/control asks for, and lintian."""
FAILS_S = 3600


def why_not() -> str:
    """Why there can be no roots; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, to mount and to change the root directory"
    return "" if _sources() else "apt of this machine has no archive of Debian"


def _sources() -> str:
    """This machine's archive of its own release, as apt's file says it."""
    own = next((name for name in RELEASES if name in Path("/etc/os-release").read_text()), "")
    files = [path for place in map(Path, SOURCES) for path in (place, *place.glob("*"))]
    for path in files if own else ():
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8")
            if re.search(rf"\b{own}(-updates)?\b.*\bmain\b", text, re.DOTALL):
                return text.replace(own, "RELEASE")
    return ""


def root(release: str, packages: tuple[str, ...]) -> Path:
    """A root with these packages. Skips where it cannot be made."""
    name = "build" if packages == BUILD else "system"
    mmdebstrap = fetched(fetch.mmdebstrap)

    def make(folder: Path) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=_suffix()) as sources:
            sources.write(_sources().replace("RELEASE", release))
            sources.flush()
            subprocess.run(
                [
                    *(*mmdebstrap.command, "--variant=minbase", "--quiet", "--mode=root"),
                    *("--include=" + ",".join(packages), release, str(folder), sources.name),
                ],
                check=True,
                timeout=FAILS_S,
            )

    try:
        return cache.entry(f"debian-{name}-{RELEASES[release]}", make)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no root directory of Debian {RELEASES[release]}: {error}")


def _suffix() -> str:
    return ".sources" if "URIs:" in _sources() else ".list"


@dataclass
class Layer:
    """A root that may be changed: the one in the cache below, changes in `upper`."""

    lower: Path
    folder: Path

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir()

    @property
    def upper(self) -> Path:
        """What differs from the root in the cache, while nothing is mounted."""
        return self.folder / "upper"

    @property
    def mount(self) -> str:
        """Shell commands that mount it at $root, in a mount namespace of their own."""
        layers = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.folder}/work"
        return (
            f"set -e; root={self.folder}/root; mount --make-rprivate /; "
            f"mount -t overlay overlay -o {layers} $root; mount -t proc proc $root/proc; "
        )

    def run(self, command: str) -> str:
        """Runs a shell's command inside, without a network; returns what it prints."""
        inside = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            [*inside, "sh", "-c", f'{self.mount} exec chroot $root sh -c "$0"', command],
            env={**env, "LC_ALL": "C.UTF-8", "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=FAILS_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout
