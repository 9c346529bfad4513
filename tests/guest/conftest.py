"""Fixtures for tests that boot real guests.

`kernel` runs a test once for each guest kernel. In the usual run that is 6.12, and the newest
kernel too for what is marked `newest`: what any kernel could break, in guests that tests share. The
full matrix runs everything on all of fetch.KERNELS.
VHOST9P_KERNELS=6.1,newest in the environment names the kernels instead.

`boot` starts guests that end with the test; `boot_shared` starts guests that end with the module,
for tests that leave no trace in them. Where QEMU or a kernel is missing and cannot be fetched, the
tests are skipped (marks.fetched).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.guest import fetch
from tests.guest.fetch import Kernel, Program
from tests.guest.image import Image
from tests.guest.vm import VM, Virtfs
from tests.marks import fetched

T = TypeVar("T")
Loud = Callable[[Callable[[], Any]], Any]
_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "newest: runs on the newest guest kernel in every run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" not in metafunc.fixturenames:
        return
    chosen = os.environ.get("VHOST9P_KERNELS")
    if chosen:
        unknown = set(chosen.split(",")) - set(fetch.KERNELS)
        if unknown:
            raise pytest.UsageError(
                f"VHOST9P_KERNELS={chosen}: there are {', '.join(fetch.KERNELS)}"
            )
        metafunc.parametrize("kernel", chosen.split(","), indirect=True, scope="session")
        return
    everywhere = metafunc.definition.get_closest_marker("newest") is not None
    usual = {"6.12", "newest"} if everywhere else {"6.12"}
    names = [
        pytest.param(name, marks=[] if name in usual else [pytest.mark.full])
        for name in fetch.KERNELS
    ]
    metafunc.parametrize("kernel", names, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kernel" in getattr(item, "fixturenames", ()) and _HERE in item.path.parents:
            item.add_marker(pytest.mark.guest)


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
        virtfs: Sequence[Virtfs] = (),
        *,
        extra: Mapping[str, Path] | None = None,
        memory: str = "1G",
        cpus: int = 1,
        hotplug: bool = False,
        args: Sequence[str] = (),
        append: str = "",
    ) -> VM:
        """A guest that has booted; the arguments are those of Image.build and VM."""
        image: Image = self._loud(lambda: Image.build(self.kernel, flavour, extra))
        self._count += 1
        vm = VM(
            image,
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
    found: Kernel = loud(lambda: fetch.kernel(request.param))
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
