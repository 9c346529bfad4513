"""A driver that stands in front of another one.

A policy's changes to an export (who may attach, whose a new file is) do not depend on the driver
that stores the files. So a policy is a layer: a subclass of `Layer` overrides some methods, and the
others call the driver below. Layers are stacked when an export is created, the one nearest to the
guest last.
"""

from vhost9p.fs.driver import Attr, Created, Driver, Owner


class Layer:
    """Passes everything on to `below`. For the methods see Driver."""

    def __init__(self, below: Driver) -> None:
        self.below = below
        self.readonly = below.readonly

    def admit(self, uid: int) -> None:
        self.below.admit(uid)

    def attach(self, path: bytes) -> tuple[int, Attr]:
        return self.below.attach(path)

    def attr(
        self, fd: int, name: bytes = b"", meta_fd: int = -1, shown_as: int | None = None
    ) -> Attr:
        return self.below.attr(fd, name, meta_fd, shown_as)

    def walk(self, dir_fd: int, name: bytes) -> tuple[int, Attr]:
        return self.below.walk(dir_fd, name)

    def step(self, uid: int, dir_fd: int, name: bytes) -> tuple[int, int]:
        return self.below.step(uid, dir_fd, name)

    def read_link(self, fd: int) -> bytes:
        return self.below.read_link(fd)

    def name_of(self, fd: int) -> bytes | None:
        return self.below.name_of(fd)

    def open(self, fd: int, flags: int) -> tuple[int, int]:
        return self.below.open(fd, flags)

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        return self.below.create(dir_fd, name, flags, mode, owner)

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> None:
        self.below.mkdir(dir_fd, name, mode, owner)

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> None:
        self.below.mknod(dir_fd, name, mode, device, owner)

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> None:
        self.below.symlink(dir_fd, name, target, owner)
