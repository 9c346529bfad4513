"""What the guests need and a host may lack: QEMU, guest kernels, guest programs.

Belongs here: which Debian packages are wanted and how each becomes something usable. All of it
comes from the Debian archive through apt.py into the folder of cache.py, for any user and without
installing anything. Nothing is fetched twice; nothing is refreshed by itself either: delete the
cache folder for newer versions.

    python -m tests.guest.fetch [qemu | tools | userland | 6.1 | 6.12 | newest]…

fetches what is named (everything when nothing is) and prints where it is.

Programs of another Debian release run on this host through their own dynamic loader, with their
own libraries (`Program.command`). Kernels are unpacked to plain ELF files, because QEMU starts
those through the PVH entry at once, while under emulation a compressed image spends half of the
boot on decompressing itself (measured: 3.4 s instead of 6.7 s).
"""

from __future__ import annotations

import hashlib
import lzma
import platform
import re
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from tests.guest import cache
from tests.guest.apt import Archive, FetchError
from vhost9p.qemu import options

KERNELS = {"6.1": "bookworm", "6.12": "trixie", "newest": "trixie-backports"}
"""The names of the guest kernels and the suite that each comes from."""

USERLAND = (
    *("acl", "attr", "bash", "coreutils", "dash", "diffutils", "e2fsprogs", "findutils", "git"),
    *("grep", "gzip", "libcap2-bin", "libpython3-stdlib", "mount", "procps", "python3-minimal"),
    *("rsync", "sed", "sqlite3", "tar", "util-linux"),
)
"""The packages of the "full" guest image, named without what they depend on."""

# Dependencies of the userland that nothing in a guest uses: maintainer scripts' tools, Perl (for
# git's scripts), what only git's transports and the login programs need.
_UNUSED_PACKAGES = re.compile(
    r"(.*perl.*|base-files|debconf|debianutils|dpkg|gcc-14-base|git-man|init-system-helpers|"
    r"libaudit-common|libbrotli1|libcurl.*|libdb5.*|libffi8|libgdbm.*|libgnutls.*|libgssapi.*|"
    r"libhogweed.*|libidn2.*|libk5crypto3|libkeyutils1|libkrb5.*|libldap.*|libnettle.*|libnghttp.*|"
    r"libngtcp2.*|libp11.*|libpam-.*|libpsl.*|librtmp1|libsasl2.*|libssh2.*|libtasn1.*|"
    r"libunistring.*|logsave|mawk|media-types|netbase|"
    r"openssl-provider-legacy|readline-common|tzdata)"
)
_UNUSED_PATHS = (
    "etc",
    "usr/bin/git-shell",
    "usr/bin/scalar",
    "usr/lib/git-core/git-daemon",
    "usr/lib/git-core/git-http-*",
    "usr/lib/git-core/git-imap-send",
    "usr/lib/git-core/git-remote-*",
    "usr/lib/git-core/git-sh-i18n--envsubst",
    "usr/lib/git-core/git-shell",
    "usr/lib/git-core/mergetools",
    "usr/lib/git-core/scalar",
    "usr/lib/python3.13/email",
    "usr/lib/python3.13/ensurepip",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/x86_64-linux-gnu/engines-3",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/ossl-modules",
    *(f"usr/share/{name}" for name in ("bash-completion", "bug", "doc", "gitweb", "info", "perl5")),
    *(f"usr/share/{name}" for name in ("lintian", "locale", "man", "mime")),
    "var",
)
_UNUSED_MODULES = ("**/kernel/drivers/[!bcv]*", "**/kernel/drivers/video", "**/kernel/sound")


@dataclass(frozen=True)
class Program:
    """A program of the host, or of a foreign root folder with its own libraries."""

    command: tuple[str, ...]
    """The words that start it; arguments follow."""

    version: str


@dataclass(frozen=True)
class Kernel:
    """A guest kernel."""

    name: str
    release: str
    """What `uname -r` says in the guest."""

    image: Path
    """The kernel as an uncompressed ELF file."""

    modules: Path
    """lib/modules/RELEASE, modules as packaged (perhaps compressed), without modules.dep."""


@once
def qemu() -> Program:
    """A QEMU with the generic vhost-user device: the one on PATH if it has it, else Debian's.

    Raises FetchError when there is none and none can be fetched.
    """
    installed = shutil.which("qemu-system-x86_64")
    if installed and options.FRONTEND in _output((installed, "-device", "help")):
        return Program((installed,), _qemu_version((installed,)))
    root = _packages("qemu", "trixie-backports", ("qemu-system-x86",))
    share = f"{root}/usr/share"
    command = _foreign(root, "usr/bin/qemu-system-x86_64")
    command += ("-L", f"{share}/qemu", "-L", f"{share}/seabios")
    return Program(command, _qemu_version(command))


@once
def virtiofsd() -> Program:
    """Debian's virtiofsd, to compare with."""
    command = _foreign(tools(), "usr/libexec/virtiofsd")
    return Program(command, _output((*command, "--version")).strip())


@once
def tools() -> Path:
    """A root folder with busybox-static, virtiofsd and zstd."""
    return _packages("tools", "trixie", ("busybox-static", "virtiofsd", "zstd"))


@once
def userland() -> Path:
    """A root folder with the programs of USERLAND and their libraries, merged into /usr."""
    return _packages("userland", "trixie", USERLAND, trim=True)


@once
def libvirt_schemas() -> Path:
    """The folder with the RELAX NG schemas of libvirt's XML, by which libvirt validates it."""

    def make(target: Path) -> None:
        open_archive("trixie").unpack("trixie", ["libvirt-common"], target, "libvirt's schemas")

    return cache.entry("libvirt-common", make) / "usr/share/libvirt/schemas"


@once
def busybox() -> Program:
    """busybox, which is static: the one on PATH, else Debian's."""
    installed = shutil.which("busybox")
    command = (installed or f"{tools()}/usr/bin/busybox",)
    return Program(command, _first_line(command))


@once
def rsync() -> Program:
    """rsync, which many hosts lack."""
    command = _foreign(userland(), "usr/bin/rsync")
    return Program(command, _first_line(command, "--version"))


@once
def inotifywait() -> Program:
    """Of inotify-tools."""
    command = _foreign(
        _packages("inotify-tools", "trixie", ("inotify-tools",)), "usr/bin/inotifywait"
    )
    return Program(command, _first_line(command, "--help"))


@once
def vim() -> Program:
    """Debian's smallest vim."""
    command = _foreign(_packages("vim", "trixie", ("vim-tiny",)), "usr/bin/vim.tiny")
    return Program(command, _first_line(command, "--version"))


@once
def tshark() -> Program:
    """Wireshark for the terminal: the one on PATH, else Debian's."""
    command = _installed_or_debians("tshark")
    return Program(command, _first_line(command, "--version"))


@once
def fish() -> Program:
    """The one on PATH, else Debian's, which finds its functions where they are."""
    command = _installed_or_debians("fish")
    if len(command) > 1:
        functions = Path(command[-1]).parents[1] / "share/fish/functions"
        command += ("--init-command", f"set --prepend fish_function_path {functions}")
    return Program(command, _first_line(command, "--version"))


@once
def zsh() -> Program:
    """The one on PATH, else Debian's, without the modules that it loads when it needs them."""
    command = _installed_or_debians("zsh")
    return Program(command, _first_line(command, "--version"))


@once
def groff() -> Program:
    """groff, or Debian's troff, which groff starts and which understands the same options."""
    installed = shutil.which("groff")
    if installed:
        command: tuple[str, ...] = (installed,)
    else:
        root = _packages("groff-base", "trixie", ("groff-base",))
        share = _only(root, "usr/share/groff/1.*")
        command = _foreign(root, "usr/bin/troff")
        command += (f"-F{share}/font", f"-M{share}/tmac")
    return Program(command, _first_line(command, "--version"))


@once
def mandoc() -> Program:
    """The formatter of manual pages of that name: the one on PATH, else Debian's."""
    return Program(_installed_or_debians("mandoc"), "")  # it does not say its version


@once
def mmdebstrap() -> Program:
    """What makes root directories of Debian: the one on PATH, else Debian's. A script for the
    host's own perl and apt."""

    def make(target: Path) -> None:
        open_archive("trixie").unpack("trixie", ["mmdebstrap"], target, "mmdebstrap")

    installed, perl = shutil.which("mmdebstrap"), shutil.which("perl")
    if installed:
        command: tuple[str, ...] = (installed,)
    elif perl:
        command = (perl, str(cache.entry("mmdebstrap", make) / "usr/bin/mmdebstrap"))
    else:
        raise FetchError("mmdebstrap needs perl; install the package perl")
    return Program(command, _first_line(command, "--version"))


@once
def databases() -> Path:
    """A root folder with LMDB's Python module, Redis and PostgreSQL, and all their libraries."""
    return _packages("databases", "trixie", ("postgresql-17", "python3-lmdb", "redis-server"))


@once
def kernel(name: str) -> Kernel:
    """The guest kernel called `name`, one of KERNELS. Raises FetchError."""
    if name not in KERNELS:
        raise FetchError(f"no guest kernel is called {name!r}; there are {', '.join(KERNELS)}")
    zstd = _foreign(tools(), "usr/bin/zstd")

    def make(target: Path) -> None:
        _fetch_kernel(KERNELS[name], target, f"kernel {name}")
        for pattern in _UNUSED_MODULES:
            for path in list(target.glob(pattern)):
                shutil.rmtree(path)
        unpack_image(_only(target, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"), zstd)

    root = cache.entry(f"kernel-{name}", make)
    modules = _only(root, "usr/lib/modules/*", "lib/modules/*")
    return Kernel(name, modules.name, _only(root, "**/vmlinux"), modules)


def _fetch_kernel(suite: str, target: Path, what: str) -> None:
    """Unpack the packages that make up the newest kernel of `suite`: one, or one and its parts."""
    archive = open_archive(suite)
    first = [p for p in archive.depends(suite, "linux-image-amd64") if "-image-" in p]
    wanted: list[str] = []
    while first:
        package = first.pop()
        wanted.append(package)
        version = package.removeprefix("linux-").split("-", 1)[1]
        parts = archive.depends(suite, package)
        first += [p for p in parts if p.endswith(version) and p not in {*wanted, *first}]
    archive.unpack(suite, wanted, target, what)


def unpack_image(image: Path, zstd: tuple[str, ...]) -> None:
    """Replace a bzImage by the ELF file in it, called vmlinux.

    The payload's place is in the boot header (Linux's Documentation/arch/x86/boot.rst): setup_sects
    at 0x1f1, payload_offset at 0x248, payload_length at 0x24c. Its last four bytes are its size.
    """
    data = image.read_bytes()
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] + 1) * 512 + offset
    payload = data[start : start + length - 4]
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        elf = subprocess.run((*zstd, "-dc"), input=payload, capture_output=True, check=True).stdout
    elif payload.startswith(b"\xfd7zXZ"):
        elf = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        elf = zlib.decompressobj(wbits=31).decompress(payload)
    else:
        raise FetchError(f"{image.name} is compressed in a way that is not known here")
    if not elf.startswith(b"\x7fELF"):
        raise FetchError(f"{image.name} does not hold an ELF file")
    image.with_name("vmlinux").write_bytes(elf)
    image.unlink()


def _packages(name: str, suite: str, packages: tuple[str, ...], trim: bool = False) -> Path:
    """A root folder with `packages` and what they depend on; `trim` leaves out the unused."""
    if platform.machine() != "x86_64":
        raise FetchError(f"guests run on x86_64 hosts only; this is {platform.machine()}")

    def make(target: Path) -> None:
        archive = open_archive(suite)
        wanted = archive.closure(suite, packages)
        if trim:
            wanted = [package for package in wanted if not _UNUSED_PACKAGES.fullmatch(package)]
        archive.unpack(suite, wanted, target, f"{name} ({len(wanted)} packages)")
        for path in (p for pattern in _UNUSED_PATHS if trim for p in target.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    recipe = repr((suite, packages, _UNUSED_PACKAGES.pattern, _UNUSED_PATHS) if trim else packages)
    return cache.entry(f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}", make)


@once
def open_archive(suite: str) -> Archive:
    """The archive that has a suite."""
    return Archive(("bookworm",)) if suite == "bookworm" else _trixie()


@once
def _trixie() -> Archive:
    return Archive(("trixie", "trixie-backports"))


def _foreign(root: Path, program: str) -> tuple[str, ...]:
    """The words that run `program` of the folder `root` with the loader and libraries there."""
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    return (f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries, f"{root}/{program}")


def _installed_or_debians(name: str) -> tuple[str, ...]:
    """The words that run a program of the package of its name: the one on PATH, else Debian's."""
    installed = shutil.which(name)
    if installed:
        return (installed,)
    return _foreign(_packages(name, "trixie", (name,)), f"usr/bin/{name}")


def _only(root: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in root.glob(pattern)]
    if len(found) != 1:
        raise FetchError(f"{root} holds {len(found)} of {' or '.join(patterns)}, expected one")
    return found[0]


def _output(command: tuple[str, ...]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _first_line(command: tuple[str, ...], *arguments: str) -> str:
    return _output((*command, *arguments)).partition("\n")[0]


def _qemu_version(command: tuple[str, ...]) -> str:
    found = re.search(r"version (\S+)", _output((*command, "--version")))
    if not found:
        raise FetchError(f"{' '.join(command)} does not start")
    return found[1]


def _main(names: list[str]) -> int:
    try:
        for name in names or ["qemu", "tools", "userland", *KERNELS]:
            if name == "qemu":
                print(f"qemu {qemu().version}: {' '.join(qemu().command)}")
            elif name in {"tools", "userland"}:
                print(f"{name}: {tools() if name == 'tools' else userland()}")
            else:
                print(f"kernel {name}: {kernel(name).release}, {kernel(name).image}")
    except FetchError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
