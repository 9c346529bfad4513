"""Fixtures for tests that boot real guests.

`kernel` runs a test once for each guest kernel. In the usual run that is 6.12, and the newest
kernel too for what is marked `newest`: what any kernel could break, in guests that tests share. The
full matrix runs everything on all of fetch.KERNELS. What is marked `native` asks nothing of QEMU:
it runs in User Mode Linux, which is the newest kernel and emulates nothing, where that is built;
and in the full matrix on the oldest kernel, too. VHOST9P_KERNELS=6.1,newest in the environment
names the kernels instead.

`boot` starts guests that end with the test; `boot_shared` starts guests that end with the module,
for tests that leave no trace in them. Where QEMU or a kernel is missing and cannot be fetched, the
tests are skipped (marks.fetched).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.guest import fetch, image, uml_kernel
from tests.guest.fetch import Kernel, Program
from tests.guest.guest import Guest
from tests.guest.image import Image
from tests.guest.uml import NINEP, Device, Uml, add_files
from tests.guest.vm import VM, Virtfs
from tests.marks import fetched

NATIVE = "native"
"""The name of the kernel of uml_kernel.py."""
T = TypeVar("T")
Loud = Callable[[Callable[[], Any]], Any]
_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "newest: runs on the newest guest kernel in every run")
    config.addinivalue_line("markers", "native: runs in User Mode Linux instead of QEMU")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" not in metafunc.fixturenames:
        return
    chosen = os.environ.get("VHOST9P_KERNELS")
    if chosen:
        unknown = set(chosen.split(",")) - {*fetch.KERNELS, NATIVE}
        if unknown:
            raise pytest.UsageError(
                f"VHOST9P_KERNELS={chosen}: there are {', '.join((*fetch.KERNELS, NATIVE))}"
            )
        metafunc.parametrize("kernel", chosen.split(","), indirect=True, scope="session")
        return
    usual, others = _kernels(metafunc.definition)
    names = [*usual, *(pytest.param(name, marks=pytest.mark.full) for name in others)]
    metafunc.parametrize("kernel", names, indirect=True, scope="session")


def _kernels(test: pytest.Item) -> tuple[Sequence[str], Sequence[str]]:
    """On which kernels a test runs always, and in the full matrix besides."""
    native = test.get_closest_marker("native") is not None and uml_kernel.is_built()
    everywhere = test.get_closest_marker("newest") is not None
    if native:  # that is the newest kernel
        return [NATIVE, *(["6.12"] if everywhere else [])], ["6.1"]
    usual = ["6.12", *(["newest"] if everywhere else [])]
    return usual, [name for name in fetch.KERNELS if name not in usual]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kernel" in getattr(item, "fixturenames", ()) and _HERE in item.path.parents:
            item.add_marker(pytest.mark.guest)


def _native_kernel() -> Kernel:
    program = uml_kernel.kernel()
    return Kernel(NATIVE, uml_kernel.version(program), program, program.parent)


class Boot:
    """Starts guests with one kernel and ends them all: what `boot` and `boot_shared` give."""

    def __init__(self, kernel: Kernel, logs: Path, loud: Loud) -> None:
        self.kernel = kernel
        self._logs = logs
        self._loud = loud
        self._stack = ExitStack()
        self._count = 0

    def __call__(
        self,
        flavour: str = "mini",
        sockets: Sequence[Path] = (),
        *,
        extra: Mapping[str, Path] | None = None,
        memory: str = "1G",
    ) -> Guest:
        """A guest that has booted, in whatever way; the arguments are those of `qemu`."""
        if self.kernel.name != NATIVE:
            return self.qemu(flavour, sockets, extra=extra, memory=memory)
        root = self._loud(lambda: image.root_folder(flavour))
        shared = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="v9-shared-")))
        add_files(shared, extra or {})
        devices = [Device(path, NINEP) for path in sockets]
        return self._stack.enter_context(Uml(devices, shared, memory=memory, root=root))

    def qemu(
        self,
        flavour: str = "mini",
        sockets: Sequence[Path] = (),
        virtfs: Sequence[Virtfs] = (),
        *,
        extra: Mapping[str, Path] | None = None,
        memory: str = "1G",
        cpus: int = 1,
        hotplug: bool = False,
        args: Sequence[str] = (),
        append: str = "",
    ) -> VM:
        """A guest of QEMU that has booted; the arguments are those of Image.build and VM."""
        built: Image = self._loud(lambda: Image.build(self.kernel, flavour, extra))
        self._count += 1
        vm = VM(
            built,
            sockets,
            virtfs,
            memory=memory,
            cpus=cpus,
            hotplug=hotplug,
            args=args,
            append=append,
            log=self._logs / f"guest{self._count}",
        )
        return self._stack.enter_context(vm)

    def close(self) -> None:
        """End all guests that this object has started."""
        self._stack.close()


@pytest.fixture(scope="session")
def loud(pytestconfig: pytest.Config) -> Loud:
    """Runs a function that may fetch: shows its progress, skips the test when it fails."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")

    def run(get: Callable[[], T]) -> T:
        with capture.global_and_fixture_disabled():
            return fetched(get)

    return run


@pytest.fixture(scope="session")
def qemu(loud: Loud) -> Program:
    """A QEMU with the generic vhost-user device."""
    program: Program = loud(fetch.qemu)
    return program


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest, qemu: Program, loud: Loud) -> Kernel:
    """The guest kernel that the test runs on."""
    get = _native_kernel if request.param == NATIVE else lambda: fetch.kernel(request.param)
    found: Kernel = loud(get)
    return found


@pytest.fixture
def boot(kernel: Kernel, tmp_path: Path, loud: Loud) -> Iterator[Boot]:
    """Starts guests for one test."""
    start = Boot(kernel, tmp_path, loud)
    yield start
    start.close()


@pytest.fixture(scope="module")
def boot_shared(
    kernel: Kernel,
    tmp_path_factory: pytest.TempPathFactory,
    loud: Loud,
) -> Iterator[Boot]:
    """Starts guests for all tests of a module."""
    start = Boot(kernel, tmp_path_factory.mktemp("guests"), loud)
    yield start
    start.close()


@pytest.fixture(scope="session")
def watch_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program that prints what inotify reports of files and directories (watch.c)."""
    target = tmp_path_factory.mktemp("watch") / "watch"
    command = ("cc", "-O2", "-static", "-s", "-Wall", "-o", target, _HERE / "watch.c")
    subprocess.run(command, check=True)
    return target
