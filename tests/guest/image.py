"""Guest images: an initramfs per kernel and flavour, and the modules in it; and root folders for
guests that see the host's files.

Belongs here: what is in a guest and how it starts. A guest has no disk: everything is an
initramfs, unpacked into the guest's memory at boot. (Measured under emulation against an ext4
image on virtio-blk with the same content: 3.9 s from start to the end of the first commands
instead of 4.4 s, without a file system's modules.)

Flavours: "mini" holds busybox (/bin/sh, mount, ls, …), enough to mount and to look around;
"full" adds Debian's own programs (fetch.USERLAND), which come before busybox's on the PATH and
are what tests of real use need.

The first process is /init, a shell script that mounts the pseudo file systems, loads modules and
turns into the agent (agent.c), which runs commands for the host. Modules lie uncompressed in
/lib/modules, with modules.dep and modules.alias, so that the kernel's own requests for them
(mounting an overlay, say) work as well. Those in _AT_BOOT are loaded at once.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from tests.guest import cache, fetch
from tests.guest.apt import FetchError
from tests.guest.cpio import Writer
from tests.guest.fetch import Kernel
from tests.guest.folder import Folder

FLAVOURS = ("mini", "full")
USERS = {"root": 0, "alice": 1000, "bob": 1001, "carol": 1002, "nobody": 65534}
"""The guest's users; each has a group of the same name and number."""

_AT_BOOT = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")
_ON_DEMAND = ("overlay", "loop", "virtiofs", "ext4")
_OLDER_KERNELS = ("crc32c_generic",)  # which ext4 asks for by its function, not by its name
_HERE = Path(__file__).parent

_INIT = """#!/bin/busybox sh
b=/bin/busybox
export PATH=/usr/bin:/usr/sbin:/usr/lib/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b mkdir /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b ln -s /proc/self/fd /dev/fd
$b mknod /dev/loop-control c 10 237
for m in MODULES; do $b modprobe $m; done
share() { $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000$2 "$1" /mnt; }
case "$1" in
shell) $b setsid $b cttyhack $b sh ;;
run) share "$2" && cd /mnt && { "$3"; echo $? > code; } ; cd /; $b umount /mnt ;;
root) $b umount /dev/pts /dev/shm; share "$2" ,cache=mmap && exec $b switch_root /mnt "$3" ;;
*) exec /agent ;;
esac
exec $b poweroff -f
"""
"""Without arguments (behind `--` at the end of the kernel's command line) it is the agent's.
Otherwise a guest is started by hand: `shell` gives one, `run TAG PROGRAM` runs a program of a share
and leaves its exit code there as `code`, and `root TAG INIT` has the share as its root."""


_NATIVE_INIT = """#!/bin/busybox sh
b=/bin/busybox
export PATH=/usr/bin:/usr/sbin:/usr/lib/busybox
$b mount -t tmpfs -o mode=755 root /mnt
cd /mnt
$b mkdir -p dev proc sys run mnt usr tmp var/tmp old shared root
$b chmod 1777 tmp var/tmp
$b chmod 700 root
for each in bin sbin lib lib64; do $b ln -s usr/$each $each; done
$b cp -a /etc /agent .
$b mount --bind /usr usr
$b mount -t proc proc proc
$b mount -t sysfs sysfs sys
$b mount -t devtmpfs dev dev
$b mkdir dev/pts dev/shm
$b mount -t devpts devpts dev/pts
$b mount -t tmpfs -o mode=1777 shm dev/shm
$b ln -s /proc/self/fd dev/fd
$b mount -t hostfs -o ro,$shared shared shared
$b pivot_root . old
cd /
$b umount -l old
. /shared/setup
$b umount shared
$b rmdir old shared
unset shared each
exec /agent /dev/ttyS0
"""
"""Of a guest whose root is a folder of the host: /usr stays there, and all else can be written.
The folder `shared` of the host has a script that adds files."""


@dataclass(frozen=True)
class Image:
    """A kernel and the initramfs made for it."""

    kernel: Kernel
    flavour: str
    initrd: Path

    @classmethod
    def build(
        cls, kernel: Kernel, flavour: str = "mini", extra: Mapping[str, Path] | None = None
    ) -> Image:
        """The image of `flavour` for `kernel`, from the cache when it has been built before.

        `extra` maps absolute guest paths to files of the host that are added with their modes.
        Raises FetchError when something that belongs in it cannot be had.
        """
        if flavour not in FLAVOURS:
            raise ValueError(f"no flavour {flavour!r}; there are {', '.join(FLAVOURS)}")
        base = _base(kernel, flavour)
        if not extra:
            return cls(kernel, flavour, base)
        digest = hashlib.sha256(base.name.encode())
        for name, path in sorted(extra.items()):
            mode = path.stat().st_mode
            digest.update(repr((name, mode, hashlib.sha256(path.read_bytes()).digest())).encode())

        def make(target: Path) -> None:
            shutil.copyfile(base, target)
            with target.open("ab") as out:
                writer = Writer(out)
                for name, path in sorted(extra.items()):
                    mode = stat.S_IMODE(path.stat().st_mode)
                    writer.file(name.lstrip("/"), path.read_bytes(), mode)
                writer.close()

        return cls(kernel, flavour, cache.kept(f"images/{digest.hexdigest()[:16]}.cpio", make))


def _base(kernel: Kernel, flavour: str) -> Path:
    """The image without extra files; its name says all that went into it."""
    digest = _digest(flavour, kernel.release)

    def make(target: Path) -> None:
        with (
            cache.Progress(f"building the {flavour} image for {kernel.release}"),
            target.open("wb") as out,
        ):
            writer = Writer(out)
            modules = _choose_modules(kernel)
            at_boot = " ".join(name for name in _AT_BOOT if name in modules)
            writer.character_device("dev/console", 0o600, 5, 1)
            _add_system(writer, flavour, _INIT.replace("MODULES", at_boot))
            _add_modules(writer, kernel, modules)
            if flavour == "full":
                writer.tree(fetch.userland())
            writer.close()

    return cache.kept(f"images/{flavour}-{kernel.name}-{digest}.cpio", make)


def _digest(flavour: str, *more: str) -> str:
    """Of all that goes into an image."""
    roots = [fetch.tools()] + ([fetch.userland()] if flavour == "full" else [])
    digest = hashlib.sha256(repr([root.name for root in roots] + [*more]).encode())
    for source in ("image.py", "cpio.py", "folder.py", "agent.c"):
        digest.update((_HERE / source).read_bytes())
    return digest.hexdigest()[:16]


def root_folder(flavour: str) -> Path:
    """The same as a folder, for a guest without modules, whose kernel sees the host's files; from
    the cache when it has been made before. Raises FetchError."""
    name = f"root-{flavour}-{_digest(flavour)}"

    def make(target: Path) -> None:
        with cache.Progress(f"making the {flavour} root folder"):
            writer = Folder(target)
            if flavour == "full":
                writer.tree(fetch.userland())
            _add_system(writer, flavour, _NATIVE_INIT)

    return cache.entry(name, make)


def _add_system(writer: Writer | Folder, flavour: str, init: str) -> None:
    """Add folders, /init, the agent, busybox under all its names, and the users."""
    for name in ("dev", "proc", "sys", "run", "mnt", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        writer.folder(name)
    for name in ("tmp", "var/tmp"):
        writer.folder(name, 0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        writer.link(name, f"usr/{name}")
    writer.file("init", init.encode(), 0o755)
    writer.file("agent", agent().read_bytes(), 0o755)
    busybox = fetch.tools() / "usr/bin/busybox"
    writer.file("usr/bin/busybox", busybox.read_bytes(), 0o755)
    applets = subprocess.run((busybox, "--list"), capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            writer.link(f"usr/lib/busybox/{applet}", "/usr/bin/busybox")
    writer.link("usr/sbin/modprobe", "/usr/bin/busybox")
    writer.link("usr/bin/sh", "dash" if flavour == "full" else "busybox")
    if flavour == "full":
        writer.link("usr/bin/python3", "python3.13")
    passwd = [f"{n}:x:{i}:{i}::/{'root' if i == 0 else 'tmp'}:/bin/sh\n" for n, i in USERS.items()]
    writer.file("etc/passwd", "".join(passwd).encode())
    writer.file("etc/group", "".join(f"{n}:x:{i}:\n" for n, i in USERS.items()).encode())
    writer.folder("root", 0o700)


@once
def agent() -> Path:
    """The agent, compiled for this host. Raises FetchError when it does not compile."""
    source = _HERE / "agent.c"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:16]

    def make(target: Path) -> None:
        compiler = os.environ.get("CC", "cc")
        command = (compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-s")
        try:
            done = subprocess.run(
                (*command, "-o", target, source), capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise FetchError(f"{compiler} is missing; install gcc and libc6-dev") from None
        if done.returncode:
            raise FetchError(f"{source} does not compile:\n{done.stderr}")

    return cache.kept(f"images/agent-{key}", make)


@dataclass(frozen=True)
class Module:
    """A kernel module as it goes into an image."""

    name: str
    path: str
    """Relative to /lib/modules/RELEASE."""
    data: bytes
    needs: tuple[str, ...]
    aliases: tuple[str, ...]


def _choose_modules(kernel: Kernel) -> dict[str, Module]:
    """The wanted modules and all that they need, by name; what is built in is left out."""
    available = {_module_name(path): path for path in kernel.modules.glob("kernel/**/*.ko*")}
    built_in = {
        _module_name(Path(line))
        for line in (kernel.modules / "modules.builtin").read_text().splitlines()
    }
    chosen: dict[str, Module] = {}
    older = [name for name in _OLDER_KERNELS if name in available]
    for name in (*_AT_BOOT, *_ON_DEMAND, *older):
        choose(name, available, built_in, chosen)
    return chosen


def _add_modules(writer: Writer, kernel: Kernel, chosen: dict[str, Module]) -> None:
    """Add the modules and the tables that modprobe reads."""
    folder = f"usr/lib/modules/{kernel.release}"
    for module in chosen.values():
        writer.file(f"{folder}/{module.path}", module.data)
    dependencies = [
        f"{module.path}: {' '.join(chosen[name].path for name in closure(module, chosen))}\n"
        for module in chosen.values()
    ]
    aliases = [f"alias {alias} {m.name}\n" for m in chosen.values() for alias in m.aliases]
    writer.file(f"{folder}/modules.dep", "".join(dependencies).encode())
    writer.file(f"{folder}/modules.alias", "".join(aliases).encode())
    writer.file(f"{folder}/modules.builtin", (kernel.modules / "modules.builtin").read_bytes())


def choose(
    name: str, available: dict[str, Path], built_in: set[str], chosen: dict[str, Module]
) -> None:
    """Put module `name` and all that it needs into `chosen`, needed ones first."""
    name = name.replace("-", "_")
    if name in chosen or name in built_in:
        return
    if name not in available:
        raise FetchError(f"the kernel package has no module {name}")
    path = available[name]
    data = _decompressed(path)
    info = re.findall(rb"(?<=\0)(depends|softdep|alias)=([^\0]*)", data)
    needs = [n for key, value in info if key == b"depends" for n in value.decode().split(",") if n]
    for value in (value.decode() for key, value in info if key == b"softdep"):
        if value.startswith("pre:"):
            soft = value.removeprefix("pre:").split("post:")[0].split()
            needs += [n for n in soft if n.replace("-", "_") in available]
    for need in needs:
        choose(need, available, built_in, chosen)
    inside = re.sub(r"\.(xz|gz)$", "", str(path).partition("/kernel/")[2])
    chosen[name] = Module(
        name,
        f"kernel/{inside}",
        data,
        tuple(n for n in (n.replace("-", "_") for n in needs) if n in chosen),
        tuple(value.decode() for key, value in info if key == b"alias"),
    )


def closure(module: Module, chosen: dict[str, Module]) -> list[str]:
    """What `module` needs, directly or not; what must be loaded first stands last."""
    names: list[str] = []
    for need in module.needs:
        for name in (need, *closure(chosen[need], chosen)):
            if name in names:
                names.remove(name)
            names.append(name)
    return names


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return data
