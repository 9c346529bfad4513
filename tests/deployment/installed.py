"""A host with systemd where this tree is installed, without the way through a package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deployment import debian, systemd_container
from tests.deployment.debian import Layer
from tests.deployment.systemd_container import Container

ROOT = Path(__file__).resolve().parents[2]
UNIT = "vhost9p@vm1"
SOCKET = "/run/vhost9p/vm1/host0.sock"
CONFIG = "/etc/vhost9p/vm1.yaml"
EXPORT = "/srv/data"
PROGRAM = """#!/usr/bin/python3
import sys
from vhost9p.__main__ import main
sys.exit(main())
"""
WHY_NOT = debian.why_not() or ("" if systemd_container.cgroups() else "cgroups are not mounted")


@contextmanager
def host(release: str, folder: Path, config: str = "multidevs: remap\n") -> Iterator[Container]:
    """One with the configuration of a VM, whose export is empty."""
    layer = Layer(debian.root(release, debian.SYSTEM), folder)
    shutil.copytree(
        ROOT / "vhost9p",
        layer.upper / "usr/lib/python3/dist-packages/vhost9p",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copytree(ROOT / "packaging/systemd", layer.upper / "usr/lib/systemd/system")
    program = layer.upper / "usr/bin/vhost9p"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    for path in (EXPORT, str(Path(CONFIG).parent)):
        (layer.upper / path[1:]).mkdir(parents=True)
    (layer.upper / CONFIG[1:]).write_text(f"path: {EXPORT}\n{config}")
    with Container(layer) as container:
        yield container
