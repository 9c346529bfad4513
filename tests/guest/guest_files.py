"""`make guest`: what a guest that is started by hand is made of, in build/guest.

    qemu-system-x86_64   starts QEMU, perhaps another one than the host's
    kernel, initrd       Linux and an initramfs, which does what is behind `--` at the end of the
                         kernel's command line (image.py)

All three are links into the cache, and a script that starts what is there.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from tests.guest import fetch
from tests.guest.apt import FetchError
from tests.guest.image import Image

FOLDER = Path(__file__).resolve().parents[2] / "build/guest"
KERNEL = "6.12"
PROGRAM = "qemu-system-x86_64"


def make(folder: Path) -> None:
    """Makes the three in a folder, anew if they are there. Raises FetchError, OSError."""
    # The script must not start itself, where a reader has put the folder on the path.
    others = [each for each in os.get_exec_path() if Path(each).resolve() != folder.resolve()]
    os.environ["PATH"] = os.pathsep.join(others)
    image = Image.build(fetch.kernel(KERNEL), "mini")
    script = f'#!/bin/sh\nexec {shlex.join(fetch.qemu().command)} "$@"\n'
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (("kernel", image.kernel.image), ("initrd", image.initrd)):
        new = folder / f".{name}"
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(folder / name)
    new = folder / f".{PROGRAM}"
    new.write_text(script, encoding="utf-8")
    new.chmod(0o755)
    new.rename(folder / PROGRAM)


def main() -> int:
    """Exit code 0 when they are there."""
    try:
        make(FOLDER)
    except FetchError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 1
    print(f"{FOLDER} has {PROGRAM}, kernel and initrd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
