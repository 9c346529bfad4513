"""Building the POSIX conformance program: one static binary that any Linux guest can run."""

import hashlib
import os
import subprocess
from pathlib import Path

from tests.guest import cache

_HERE = Path(__file__).parent
_FLAGS = ["-static", "-O1", "-std=c11", "-Wall", "-Wextra", "-Werror"]


def build_posix() -> Path:
    """The program, compiled unless these very sources have been.

    Raises subprocess.CalledProcessError, with the compiler's words on stderr, if it fails.
    """
    compiler = os.environ.get("CC", "cc")
    digest = hashlib.sha256(repr([compiler, *_FLAGS]).encode())
    for path in sorted(_HERE.glob("*.[ch]")):
        digest.update(path.read_bytes())

    def make(target: Path) -> None:
        sources = map(str, sorted(_HERE.glob("*.c")))
        subprocess.run([compiler, *_FLAGS, "-o", str(target), *sources], check=True)

    return cache.kept(f"posix/{digest.hexdigest()[:16]}", make)


if __name__ == "__main__":
    print(build_posix())
