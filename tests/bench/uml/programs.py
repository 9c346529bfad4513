"""What the real programs of jobs.py work on: a repository, an archive, a C project, packages.

Belongs here: how these are made on the host, from nothing, so that no network is needed, and which
of the programs the host lacks. Sizes are those of a small project.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

NEEDED = {
    "git": ("git",),
    "make": ("make", "gcc"),
    "npm": ("npm", "node"),
}
"""The host's programs that a job needs, by its first word."""

_GIT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_NAME": "bench" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "bench@example.org" for who in ("AUTHOR", "COMMITTER")},
}


def lacking(program: str) -> str:
    """Why a job cannot be done; empty when it can."""
    missing = [name for name in NEEDED.get(program, ()) if not shutil.which(name)]
    return f"the host has no {' and no '.join(missing)}" if missing else ""


def sources(files: int) -> Iterator[tuple[str, bytes]]:
    """Names, 25 to a directory, and contents of many sizes, 3 KB on average."""
    for number in range(files):
        line = hashlib.sha256(str(number).encode()).hexdigest().encode() + b"\n"
        yield f"d{number // 25}/f{number}", line * (1 + number * 37 % 90)


def make_repository(path: Path, files: int) -> None:
    """A bare repository with two branches, `main` and `other`, which differ in a third of the
    files."""
    work = path.with_name("work")

    def git(*words: str) -> None:
        subprocess.run(("git", *words), cwd=work, env=_GIT, check=True, capture_output=True)

    work.mkdir()
    git("init", "-q", "-b", "main")
    for name, data in sources(files):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(data)
    git("add", ".")
    git("commit", "-qm", "first")
    git("checkout", "-qb", "other")
    for number, (name, data) in enumerate(sources(files)):
        if number % 3 == 0:
            (work / name).write_bytes(data + b"changed\n")
    git("commit", "-qam", "second")
    git("checkout", "-q", "main")
    git("clone", "-q", "--bare", ".", str(path))
    shutil.rmtree(work)


def make_archive(path: Path, files: int) -> None:
    """An archive of the same files."""
    with tarfile.open(path, "w") as archive:
        for name, data in sources(files):
            _add(archive, f"packed/{name}", data)


def make_project(path: Path, units: int) -> None:
    """A C program of many units that prints their sum."""
    path.mkdir()
    names = [f"unit{number}" for number in range(units)]
    (path / "units.h").write_text("".join(f"int {name}(int);\n" for name in names))
    head = '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include "units.h"\n'
    for number, name in enumerate(names):
        (path / f"{name}.c").write_text(f"{head}int {name}(int x) {{ return x + {number}; }}\n")
    calls = " + ".join(f"{name}(0)" for name in names)
    (path / "main.c").write_text(f'{head}int main(void) {{ printf("%d\\n", {calls}); }}\n')
    objects = " ".join(f"{name}.o" for name in ("main", *names))
    (path / "Makefile").write_text(f"sum: {objects}\n\tgcc -o $@ $^\n{objects}: units.h\n")


def make_packages(path: Path, packages: int) -> None:
    """A project whose packages are in npm's cache: package.json, package-lock.json, cache/."""
    (path / "tarballs").mkdir(parents=True)
    needs, locked = {}, {}
    for number in range(packages):
        name = f"package-{number}"
        data = _package(name)
        (path / "tarballs" / f"{name}.tgz").write_bytes(data)
        digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
        needs[name] = "1.0.0"
        locked[f"node_modules/{name}"] = {
            "version": "1.0.0",
            "resolved": f"https://registry.npmjs.org/{name}/-/{name}-1.0.0.tgz",
            "integrity": f"sha512-{digest}",
        }
    about = {"name": "project", "version": "1.0.0", "dependencies": needs}
    lock = {"lockfileVersion": 3, "requires": True, "packages": {"": about, **locked}}
    (path / "package.json").write_text(json.dumps(about))
    (path / "package-lock.json").write_text(json.dumps({**about, **lock}))
    tarballs = [str(file) for file in sorted((path / "tarballs").iterdir())]
    words = ("npm", "cache", "add", *tarballs, "--cache", str(path / "cache"))
    subprocess.run(words, cwd=path, check=True, capture_output=True)
    shutil.rmtree(path / "tarballs")


def _package(name: str) -> bytes:
    """A package of 20 files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        about = {"name": name, "version": "1.0.0"}
        _add(archive, "package/package.json", json.dumps(about).encode())
        for number in range(19):
            _add(archive, f"package/lib/{number}.js", b"// a line\n" * (1 + number * 29))
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mtime = 1_700_000_000
    archive.addfile(info, io.BytesIO(data))
