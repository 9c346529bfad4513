"""The Debian package: built from its source package without a network, and installed on a host with
systemd, where its units serve a guest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import debian, systemd_container
from tests.deployment.debian import Layer
from tests.deployment.systemd_container import Container
from tests.frontend.client import Client
from tests.frontend.machine import Machine
from tests.system.test_keeper_death import OLD_S
from vhost9p import __version__

ROOT = Path(__file__).resolve().parents[2]
UNIT = "vhost9p@vm1"
CONTENTS = (
    *("/usr/bin/vhost9p", "/usr/lib/python3/dist-packages/vhost9p/_native.abi3.so"),
    *("/lib/systemd/system/vhost9p@.service", "/lib/systemd/system/vhost9p@.socket"),
    *("/usr/share/man/man1/vhost9p.1.gz", "/usr/share/man/man5/vhost9p.yaml.5.gz"),
    "/usr/share/bash-completion/completions/vhost9p",
    "/usr/share/zsh/vendor-completions/_vhost9p",
    "/usr/share/fish/vendor_completions.d/vhost9p.fish",
    *("/usr/share/vhost9p/vhost9p.schema.json", "/usr/share/qemu/vhost-user/50-vhost9p.json"),
    *("/usr/share/doc/vhost9p/README.md.gz", "/usr/share/doc/vhost9p/docs/operation.md.gz"),
    *("/usr/share/doc/vhost9p/SECURITY.md", "/usr/share/doc/vhost9p/examples/one-export.yaml"),
)
NEWER = "sed -i 's/^Version: .*/&.1/' x/DEBIAN/control"

pytestmark = [
    pytest.mark.full,
    pytest.mark.long,
    pytest.mark.skipif(bool(debian.why_not()), reason=debian.why_not()),
]


@pytest.fixture(scope="module", params=debian.RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    subprocess.run(
        [ROOT / "packaging" / "debian-source.sh", folder],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def built(release: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """Where the package was built, in /build."""
    layer = Layer(debian.root(release, debian.BUILD), tmp_path_factory.mktemp(f"build-{release}"))
    shutil.copytree(source, layer.upper / "build")
    layer.run(
        "cd /build && dpkg-source -x *.dsc tree && cd tree && dpkg-buildpackage -b -us -uc >../log "
        "2>&1 || { tail -n 60 ../log; exit 1; }"
    )
    return layer


def test_lintian_finds_no_errors(built: Layer) -> None:
    said = built.run("cd /build && lintian --allow-root *.changes *.dsc || true")
    assert [line for line in said.splitlines() if line.startswith("E:")] == []


def test_all_that_belongs_to_it_is_in_it(built: Layer) -> None:
    said = built.run("cd /build && dpkg-deb -c vhost9p_*.deb")
    # /lib is /usr/lib: which of the two is named depends on the release.
    names = {line.split()[5].removeprefix(".") for line in said.splitlines()}
    assert [each for each in CONTENTS if not {each, "/usr" + each} & names] == []


@pytest.fixture
def host(release: str, built: Layer, tmp_path: Path) -> Iterator[Container]:
    """A host with the package, and a VM's configuration."""
    if not systemd_container.cgroups():
        pytest.skip("cgroups of version 2 are not mounted")
    layer = Layer(debian.root(release, debian.SYSTEM), tmp_path)
    for deb in (built.upper / "build").glob("vhost9p_*.deb"):
        shutil.copy(deb, layer.upper / "vhost9p.deb")
    layer.run("dpkg -i /vhost9p.deb")
    export = layer.upper / "srv" / "data"
    export.mkdir(parents=True)
    (export / "file").write_bytes(b"data")
    time.sleep(OLD_S)
    (layer.upper / "etc" / "vhost9p" / "vm1.yaml").write_text("path: /srv/data\nmultidevs: remap\n")
    with Container(layer) as container:
        yield container


class Guest:
    """One that has opened a file."""

    def __init__(self, host: Container, socket: str = "/run/vhost9p/vm1/host0.sock") -> None:
        self.machine = Machine(str(host.path(socket)))
        self.client = Client(self.machine.boot())
        self.client.version()
        self.client.attach(1)
        self.fid = self.client.open(1, b"file", os.O_RDWR)

    def goes_on(self) -> None:
        assert self.client.read(self.fid, 0, 10) == b"data"
        assert self.client.write(self.fid, 0, b"data") == 4


def main_of(host: Container) -> str:
    return host.show(UNIT, "MainPID")


def wait_for_another(host: Container, before: str) -> None:
    host.wait_for(f"test $(systemctl show -P MainPID {UNIT}) -gt {before} && echo yes", "yes")
    host.wait_for(f"systemctl show -P StatusText {UNIT}", "serving 1 VM, 1 guest connected")


def test_units_serve_a_guest_through_deaths_and_upgrades(host: Container) -> None:
    host.run(f"systemctl start {UNIT}")
    journal = f"journalctl --no-pager -o cat -u {UNIT}"
    assert "not confined" not in host.run(journal) and "serving /srv/data" in host.run(journal)
    assert host.show(UNIT, "StatusText") == "serving 1 VM, 0 guests connected"
    guest = Guest(host)
    with guest.machine:
        host.wait_for(f"systemctl show -P StatusText {UNIT}", "1 guest connected")
        guest.goes_on()
        # The descriptors of the session are stored a moment after it has begun.
        time.sleep(1)
        first = main_of(host)
        host.run(f"kill -KILL {first}")
        guest.goes_on()
        wait_for_another(host, first)

        second = main_of(host)
        host.run(f"cd /tmp && dpkg-deb -R /vhost9p.deb x && {NEWER} && dpkg-deb -b x new.deb")
        said = host.run("dpkg -i /tmp/new.deb")
        assert f"{second}: " in said and "go on with the old one" not in said
        assert main_of(host) == second
        guest.goes_on()

        time.sleep(1)
        host.run(f"mkdir -p /run/systemd/system/{UNIT}.service.d")
        host.run(
            f"printf '[Service]\\nWatchdogSec=2\\n' > /run/systemd/system/{UNIT}.service.d/w.conf"
        )
        host.run(f"systemctl daemon-reload && kill -KILL {second}")
        wait_for_another(host, second)
        third = main_of(host)
        time.sleep(5)
        assert main_of(host) == third  # it pings
        guest.goes_on()
        host.run(f"kill -STOP {third}")
        wait_for_another(host, third)
        assert "Watchdog timeout" in host.run(journal)
        guest.goes_on()
    host.run(f"systemctl stop {UNIT}")
    assert host.show(UNIT, "Result") == "success"
    assert not host.path("/run/vhost9p/vm1/host0.sock").exists()


def test_a_socket_starts_the_service(host: Container) -> None:
    host.run(f"systemctl start {UNIT}.socket")
    assert host.show(UNIT, "ActiveState") == "inactive"
    guest = Guest(host)
    with guest.machine:
        guest.goes_on()
        time.sleep(1)
        before = main_of(host)
        host.run(f"kill -KILL {before}")
        guest.goes_on()
        wait_for_another(host, before)
    host.run("dpkg -r vhost9p")
    assert host.show(UNIT, "ActiveState") == "inactive"


def test_a_socket_of_no_device_is_one_line(host: Container) -> None:
    host.run(f"mkdir -p /run/systemd/system/{UNIT}.socket.d")
    drop_in = r"[Socket]\nListenStream=/run/vhost9p/vm1/other.sock\nFileDescriptorName=other\n"
    host.run(f"printf '{drop_in}' > /run/systemd/system/{UNIT}.socket.d/other.conf")
    host.run(f"systemctl daemon-reload && systemctl start {UNIT}.socket")
    host.run(f"systemctl start {UNIT} || true")
    journal = host.run(f"journalctl --no-pager -o cat -u {UNIT}")
    assert "the service manager's socket /run/vhost9p/vm1/other.sock (other) is no device's" in (
        journal
    )
    assert "Traceback" not in journal
    assert host.show(UNIT, "NRestarts") == "0"


def test_the_descriptor_names_the_program(host: Container) -> None:
    """As management software uses it."""
    folder = host.path("/usr/share/qemu/vhost-user")
    (descriptor,) = map(json.loads, (each.read_text() for each in folder.glob("*.json")))
    said = json.loads(host.run(f"{descriptor['binary']} --print-capabilities"))
    assert said["type"] == descriptor["type"] == "9p"
    assert host.run("vhost9p --version") == f"vhost9p {__version__}"
