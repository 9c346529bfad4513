"""overlayfs in a guest with its directories on the mount: lower, upper and work.

What Linux's 9p client allows is in docs/guests.md. It has no renameat2 flags, so what overlayfs
does with these (renaming, or removing, a directory of the lower layer, renaming its files) fails,
whatever the server; it is not tried here.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import scratch_export
from tests.guest.test_posix import AS_USER, USER
from tests.guest.vm import VM

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to serve as several users"),
]

LOWER = """mkdir low low/d low/d/sub up work m
for f in kept changed gone moved d/kept d/gone d/sub/deep; do echo $f > low/$f; done
chmod 640 low/changed; chown 7:8 low/changed; ln -s kept low/link; mkfifo low/pipe"""

USE = """test "$(cat kept d/kept d/sub/deep link)" = "$(printf 'kept\\nd/kept\\nd/sub/deep\\nkept')"
echo more >> changed; test "$(cat changed)" = "$(printf 'changed\\nmore')"
test "$(stat -c '%a %u %g' changed)" = '640 7 8'
echo new > new; mkdir nd; echo x > nd/x; mv nd nd2; mv new new2; rm -r nd2/x
rm gone d/gone; test ! -e gone; test ! -e d/gone
echo again > gone; test "$(cat gone)" = again; rm gone
chmod 600 kept; chown 5:6 kept; touch d/new; ln d/new d/hard
test "$(stat -c %h d/hard)" = 2"""

PROGRAMS = """cp -a /usr/bin/git program; cmp /usr/bin/git program
git init -q r; cd r; git config user.email a@b; git config user.name n
for i in 1 2 3; do echo $i > f$i; git add f$i; git commit -qm $i; done; git fsck --strict; cd ..
sqlite3 db 'create table t(a); insert into t values(1);'; test $(sqlite3 db 'select * from t') = 1
tar cf all.tar d kept changed; tar df all.tar"""

AGAIN = """test "$(ls)" = "$(cd /seen; cat list)"; test "$(stat -c '%a %u %g' kept)" = '600 5 6'
test "$(cat changed)" = "$(printf 'changed\\nmore')"; test ! -e gone; test ! -e d/gone
echo back > gone; rm gone"""

PROGRAMS_AGAIN = "cd r; git status --porcelain; git fsck --strict"


def mount(vm: VM, where: str, options: str) -> None:
    lower, upper, work = (f"{where}/{name}" for name in ("low", "up", "work"))
    words = ["-o", f"lowerdir={lower},upperdir={upper},workdir={work}{options}"]
    vm.run(("mount", "-t", "overlay", *words, "overlay", f"{where}/m"))


def use(vm: VM, where: str, options: str, programs: bool) -> None:
    """Builds a lower layer, changes it through an overlay, by `programs` too, and finds it so after
    a new mount."""
    vm.run(f"set -e; cd {where}; {LOWER}")
    mount(vm, where, options)
    first, second = (PROGRAMS, PROGRAMS_AGAIN) if programs else (":", ":")
    vm.run(f"set -e; cd {where}/m; {USE}; {first}; mkdir -p /seen; ls > /seen/list", timeout=300)
    vm.run(("umount", f"{where}/m"))
    mount(vm, where, options)
    vm.run(f"set -e; cd {where}/m; {AGAIN}; {second}", timeout=300)
    vm.run(("umount", f"{where}/m"))
    vm.run(f"set -e; cd {where}; test $(cat low/gone) = gone; test $(cat low/kept) = kept")


def use_lower(vm: VM, where: str, cache: str, programs: bool) -> None:
    """The lower layer of `use` on the mount, the others in the guest's memory: there overlayfs does
    all that it can."""
    vm.umount(where)
    vm.mount(where[1:], where, cache=cache)
    vm.run("mount -t tmpfs tmpfs /mem; mkdir -p /mem/up /mem/work /mem/m", check=True)
    options = f"lowerdir={where}/low,upperdir=/mem/up,workdir=/mem/work"
    vm.run(("mount", "-t", "overlay", "-o", options, "overlay", "/mem/m"))
    vm.run(f"set -e; cd /mem/m; {USE}; {PROGRAMS if programs else ':'}")
    vm.run("set -e; cd /mem/m; rm -r d; mkdir d; mv link link2; mv kept d/kept; ls d")
    vm.run("umount /mem/m; umount /mem")


def check_upper(vm: VM, where: str) -> None:
    """A device node 0:0 stands in the upper layer for each file that is gone."""
    found = vm.run(f"cd {where}/up; find . -type c -exec stat -c '%n %t %T' {{}} + | sort").text
    assert found == "./d/gone 0 0\n./gone 0 0"


def attributes(path: Path) -> set[str]:
    return set(os.listxattr(path))


class Kind(NamedTuple):
    """A way to serve and to mount: the daemon's arguments, overlayfs's options, what its
    attributes' names begin with on the host, and the client's cache mode."""

    tag: str
    args: tuple[str, ...]
    options: str
    prefix: str
    cache: str = "none"


ROOTS = (
    Kind("plain", (), "", "trusted.overlay."),
    Kind("userxattr", (), ",userxattr", "user.overlay.", "mmap"),
    Kind("rules", ("--xattr-rule", "trusted.=store:user.kept."), "", "user.kept.overlay."),
)
"""By root's daemon."""
MAPPED = tuple(
    Kind(model, ("--security-model", model), "", "user.virtfs.trusted.overlay.")
    for model in ("mapped-xattr", "mapped-file")
)
"""By an ordinary user's. Under other models it may not enter the work directory, of mode 0."""


def served(stack: ExitStack, kind: Kind, user: bool) -> tuple[Path, Path]:
    """The export and the socket of a daemon."""
    export = stack.enter_context(scratch_export())
    args = ("--path", str(export), "--tag", kind.tag, "--multidevs", "remap", *kind.args)
    daemon = Daemon(*args, wrapper=AS_USER if user else ())
    if user:
        for path in (export, daemon.directory):
            os.chown(path, USER, USER)
    return export, Path(stack.enter_context(daemon).socket)


@pytest.mark.parametrize("kinds", [ROOTS, MAPPED], ids=["root", "mapped"])
@pytest.mark.parametrize(
    "programs", ["programs once", pytest.param("programs always", marks=pytest.mark.full)]
)
def test_all_layers_on_the_mount(boot: Boot, kinds: tuple[Kind, ...], programs: str) -> None:
    """git, SQLite and tar work on one of the mounts, or on each."""
    always = programs == "programs always"
    with ExitStack() as stack:
        shares = [served(stack, kind, kinds is MAPPED) for kind in kinds]
        vm = boot.qemu("full", [socket for _, socket in shares])
        for kind, (export, _) in zip(kinds, shares, strict=True):
            vm.mount(kind.tag, f"/{kind.tag}", cache=kind.cache)
            use(vm, f"/{kind.tag}", kind.options, always or kind is kinds[-1])
            check_upper(vm, f"/{kind.tag}")
            names = attributes(export / "up" / "d")
            assert {name for name in names if "overlay" in name} == {kind.prefix + "origin"}
        vm.run(("mkdir", "/mem"))
        for cache in ("none", "loose"):
            use_lower(vm, f"/{kinds[0].tag}", cache, always)
        vm.kill()
