"""A directory that a mapped driver serves."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fs.changes import File
from vhost9p.fs.driver import Attr, Owner
from vhost9p.fs.local import LocalDriver
from vhost9p.native.export import MODEL_FILE, MODEL_XATTR, Export
from vhost9p.policy.multidevs import make_policy

MODELS = {"mapped-xattr": MODEL_XATTR, "mapped-file": MODEL_FILE}
META = ".virtfs_metadata"
EXCL = os.O_RDWR | os.O_CREAT | os.O_EXCL
OWNER = Owner(1234, 5678)
PATH = os.O_PATH | os.O_NOFOLLOW


class Place(NamedTuple):
    """An export, served by a driver; `fd` is its root."""

    driver: LocalDriver
    fd: int
    path: Path
    model: str

    def attr(self, name: bytes) -> Attr:
        """What the guest sees of a name."""
        return self.driver.attr(self.fd, name)

    def make(self, name: bytes, mode: int = 0o640, owner: Owner = OWNER) -> None:
        """A regular file."""
        made = self.driver.create(self.fd, name, EXCL, mode, owner)
        os.close(made.path_fd)
        os.close(made.io_fd)

    @contextlib.contextmanager
    def opened(self, name: bytes) -> Iterator[File]:
        """A file as a node has it."""
        fd = self.driver.export.step(self.fd, name)
        meta = -1
        with contextlib.suppress(OSError):
            meta = os.open(os.fsencode(self.path / META) + b"/" + name, os.O_RDONLY)
        try:
            yield File(fd, meta)
        finally:
            os.close(fd)
            if meta >= 0:
                os.close(meta)

    def metadata(self) -> set[str]:
        """Names of which there are metadata files in the root directory."""
        folder = self.path / META
        return set(os.listdir(folder)) if folder.exists() else set()

    def names(self) -> set[str]:
        """What a directory shows."""
        return set(os.listdir(self.path)) - {META, META + "_root"}


@contextlib.contextmanager
def serving(path: Path, model: str, *, fmode: int = 0o600, dmode: int = 0o700) -> Iterator[Place]:
    """Serves a directory."""
    root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    export = Export(
        root_fd,
        readonly=False,
        stat_entries=False,
        model=MODELS[model],
        fmode=fmode,
        dmode=dmode,
    )
    export.policy = make_policy("warn", export.qidmap, os.stat(path).st_dev, export.probe, None)
    driver = LocalDriver(export, root_fd)
    old = os.umask(0)
    try:
        yield Place(driver, root_fd, path, model)
    finally:
        os.umask(old)
        export.close()
        os.close(root_fd)


def shown(it: Place, name: bytes) -> tuple[int, int]:
    attr = it.attr(name)
    return attr.mode & 0o7777, attr.uid
