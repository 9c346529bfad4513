"""Building the POSIX conformance program: one static binary that any Linux guest can run."""

import os
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent
_FLAGS = ["-static", "-O1", "-std=c11", "-Wall", "-Wextra", "-Werror"]


def build_posix(outdir: Path) -> Path:
    """Compiles the program into `outdir` unless one newer than its sources is there; its path.

    Raises subprocess.CalledProcessError, with the compiler's words on stderr, if it fails.
    """
    program = outdir / "posix"
    sources = sorted(_HERE.glob("*.c"))
    newest = max(path.stat().st_mtime_ns for path in _HERE.glob("*.[ch]"))
    if program.exists() and program.stat().st_mtime_ns > newest:
        return program
    outdir.mkdir(parents=True, exist_ok=True)
    unfinished = outdir / f"posix.{os.getpid()}"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *_FLAGS, "-o", str(unfinished), *map(str, sources)], check=True)
    unfinished.replace(program)
    return program


if __name__ == "__main__":
    print(build_posix(Path("build")))
