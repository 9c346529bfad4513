"""`make demo`: a daemon, a guest, a mount, and what a person would want to see.

A sample tree holds two file systems whose files have equal inode numbers (where this user may
mount: root in a mount namespace of its own, others in a user namespace). `vhost9p run` exports it
twice, with multidevs remap and with warn, to one guest that mounts both. A third mount gets an
export while the guest runs.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.frontend.daemon import environment
from tests.guest import fetch
from tests.guest.apt import FetchError
from tests.guest.image import Image
from tests.guest.vm import VM
from vhost9p.config import DeviceConfig, ExportConfig
from vhost9p.qemu import guest

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "VHOST9P_DEMO_NAMESPACE"
"""Set in the process that has a mount namespace of its own."""
KERNEL = "6.12"
HOST0 = DeviceConfig((ExportConfig(str(ROOT / "docs")),))
"""What the user's own guest gets."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is being done and how long it took."""
    print(f"==> {what}", flush=True)
    start = time.monotonic()
    yield
    print(f"    ({time.monotonic() - start:.1f} s)\n", flush=True)


def enter_namespace() -> None:
    """Runs this program again in a mount namespace of its own; returns where that is refused."""
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        print("    (no mount namespace here: the tree will hold one file system)")
        return
    os.environ[INSIDE] = "1"
    os.execvp(command[0], [*command, sys.executable, "-m", "tests.guest.demo"])


def make_tree(folder: Path) -> Path:
    """The sample tree: notes, and two projects, each a file system of its own if possible."""
    tree = folder / "tree"
    for name in ("apples", "pears"):
        project = tree / name
        project.mkdir(parents=True)
        if INSIDE in os.environ:
            subprocess.run(["mount", "-t", "tmpfs", name, project], check=True)
        (project / "data.txt").write_text(f"All about {name}.\n")
        os.link(project / "data.txt", project / "same.txt")
    (tree / "from-the-host.txt").write_text("Hello, guest!\n")
    for name in ("music", "photos"):
        (folder / name).mkdir()
        (folder / name / f"some-{name}.txt").write_text(f"Imagine {name}.\n")
    return tree


def write_config(folder: Path, tree: Path) -> Path:
    """One VM with three devices: the tree under remap, and under warn, and several directories."""
    config = folder / "demo.yaml"
    config.write_text(
        "# Two exports of one tree overlap: a guest's caches of them disagree. Here that is\n"
        "# wanted, to compare the policies.\n"
        f"state_dir: {folder}/state\n"
        f"control_socket: {folder}/control.sock\n"
        "devices:\n"
        + "".join(
            f"  - tag: {policy}\n    path: {tree}\n    multidevs: {policy}\n    force: true\n"
            for policy in ("remap", "warn")
        )
        + f"  - tag: several\n    exports:\n      - {{name: music, path: {folder}/music}}\n"
    )
    return config


def on_host(command: str, cwd: Path) -> None:
    """Runs a command on the host and shows it."""
    print(f"    host$ {command}", flush=True)
    result = subprocess.run(
        command, shell=True, cwd=cwd, capture_output=True, text=True, check=False
    )
    show(result.stdout + result.stderr)


def in_guest(vm: VM, command: str) -> None:
    """Runs a command in the guest and shows it."""
    print(f"    guest# {command}", flush=True)
    result = vm.run(command, check=False)
    show(result.text)


def show(text: str) -> None:
    """A command's output, indented."""
    for line in text.splitlines():
        print(f"      {line}")


def look_around(vm: VM, tree: Path) -> None:
    """What the demo is about."""
    with step("One tree, seen from both sides: names and inode numbers"):
        names = "*.txt apples/* pears/*"
        on_host(f"ls -i1 {names}", tree)
        in_guest(vm, f"cd /remap && ls -i1 {names}")
    with step("A file written in the guest, read on the host"):
        in_guest(vm, "echo 'Hello, host!' > /remap/from-the-guest.txt")
        on_host("cat from-the-guest.txt", tree)
        in_guest(vm, "cat /remap/from-the-host.txt")
    with step("Hard links of apples/data.txt, as the guest finds them: multidevs warn, then remap"):
        for policy in ("warn", "remap"):
            in_guest(vm, f"cd /{policy} && find . -samefile apples/data.txt")
        if INSIDE in os.environ:
            print("    Under warn the pears' files look like the apples': tar and cp would mix")
            print("    them up. remap gives every file an identity of its own.")


def change(vm: VM, config: Path) -> None:
    """What an operator does while the guest runs."""
    with step("One more export under the running guest: a line of the configuration, a reload"):
        in_guest(vm, "ls /several")
        line = f"      - {{name: photos, path: {config.parent}/photos}}"
        on_host(f"echo '{line}' >> demo.yaml", config.parent)
        vhost9p("reload --config demo.yaml", config.parent)
        in_guest(vm, "ls /several/*")
    with step("What the daemon says of the guest"):
        vhost9p("status demo.yaml", config.parent)


def vhost9p(words: str, cwd: Path) -> None:
    """Runs a command of vhost9p on the host and shows it."""
    print(f"    host$ vhost9p {words}", flush=True)
    result = subprocess.run(
        [sys.executable, "-m", "vhost9p", *shlex.split(words)],
        cwd=cwd, capture_output=True, text=True, check=True, env=environment({}),
    )  # fmt: skip
    show(result.stdout + result.stderr)


def run(folder: Path) -> None:
    """The demo, with its files in `folder`."""
    start = time.monotonic()
    image = Image.build(fetch.kernel(KERNEL), "mini")
    with ExitStack() as running:
        with step("The configuration"):
            tree = make_tree(folder)
            config = write_config(folder, tree)
            show(config.read_text())
        with step("The daemon and a guest (emulated: it needs no KVM)"):
            print("    $ vhost9p run demo.yaml -- qemu-system-x86_64 …", flush=True)
            vm = running.enter_context(VM(image, run=[str(config)]))
        with step("It mounts all three"):
            for tag in ("remap", "warn", "several"):
                print(f"    guest# mount -t 9p -o trans=virtio,version=9p2000.L {tag} /{tag}")
                vm.mount(tag, f"/{tag}")
        look_around(vm, tree)
        change(vm, config)
    print(f"Done in {time.monotonic() - start:.0f} s.")
    print(f"Your turn (exit ends it): {your_turn(image)}")
    print(f"and in the guest: {guest.mount_line(HOST0)}")


def your_turn(image: Image) -> str:
    """A line for a shell: a guest on the terminal, with a directory of the host."""
    qemu = [*fetch.qemu().command, "-accel", "tcg", "-cpu", "max", "-m", "512M", "-nographic"]
    kernel = ["-kernel", str(image.kernel.image), "-initrd", str(image.initrd)]
    append = ["-append", "console=ttyS0 quiet -- shell"]
    run = [f"{sys.prefix}/bin/vhost9p", "run", "--path", str(ROOT / "docs"), "--"]
    return shlex.join([*run, *qemu, *kernel, *append])


def prepare() -> None:
    """Fetches and builds what the guest is made of, as the user who runs this."""
    with step("QEMU, a Debian kernel and an initramfs, from the cache if they are there"):
        print(f"    QEMU {fetch.qemu().version}, Linux {fetch.kernel(KERNEL).release}")
        Image.build(fetch.kernel(KERNEL), "mini")


def main() -> int:
    """Exit code 0 when everything worked."""
    if INSIDE not in os.environ:
        try:
            prepare()
        except FetchError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        enter_namespace()
    folder = Path(tempfile.mkdtemp(prefix="vhost9p-demo-"))
    try:
        run(folder)
    finally:
        if INSIDE in os.environ:
            for name in ("apples", "pears"):
                subprocess.run(["umount", folder / "tree" / name], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
