"""The recipe of the container image, and the rights that a container has to give."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.system.share import mounted, needs_root

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "packaging" / "container" / "Containerfile"
DEFAULT = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "setfcap", "setgid"),
    *("setpcap", "setuid", "sys_chroot"),
)
"""What containers have by default, of what concerns files and processes."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="v9-") as folder:
        yield Path(folder)


def in_container(*capabilities: str) -> list[str]:
    """Words that run a command with these rights, and mounts and processes of its own."""
    kept = ",".join(("-all", *(f"+{each}" for each in capabilities)))
    return ["unshare", "--mount", "setpriv", "--bounding-set", kept, "--no-new-privs", "--"]


def serves(daemon: Daemon, export: Path) -> None:
    with daemon, mounted(daemon, export) as share:
        share.client.create(share.top, b"new")


@needs_root
@pytest.mark.parametrize("level", ["namespace", "auto"])
def test_all_of_the_sandbox_takes_the_right_to_mount(level: str, folder: Path) -> None:
    rights = in_container(*DEFAULT, "sys_admin", "dac_read_search")
    daemon = Daemon("--path", str(folder), "--force", "--sandbox", level, wrapper=rights)
    serves(daemon, folder)
    assert "not confined" not in daemon.output


@needs_root
@pytest.mark.parametrize("level", ["chroot", "auto"])
def test_by_default_there_is_a_root_directory(level: str, folder: Path) -> None:
    state = folder / "state"
    export = folder / "export"
    export.mkdir()
    args = ("--path", str(export), "--sandbox", level, "--state-dir", str(state))
    daemon = Daemon(*args, "--multidevs", "remap", wrapper=in_container(*DEFAULT))
    serves(daemon, export)
    lacks = daemon.output.partition("not confined by")[2].partition("\n")[0]
    assert lacks.count("(") == ("namespaces" in lacks) == (level == "auto"), lacks


@needs_root
def test_without_rights_there_is_no_sandbox(folder: Path) -> None:
    args = ("--path", str(folder), "--force", "--sandbox", "none", "--security-model", "none")
    serves(Daemon(*args, wrapper=in_container()), folder)


@needs_root
def test_what_the_rights_do_not_allow_is_refused(folder: Path) -> None:
    daemon = Daemon(
        *("--path", str(folder), "--force", "--sandbox", "namespace"),
        wrapper=in_container(*DEFAULT),
    )
    try:
        daemon.start(wait=False)
        assert daemon.wait() == 2
        assert "CAP_SYS_ADMIN" in daemon.output
    finally:
        daemon.kill()


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9][a-z0-9.+-]+", text))


def test_the_recipe_installs_what_the_package_is_built_with() -> None:
    control = (ROOT / "packaging" / "debian" / "control").read_text(encoding="utf-8")
    asked = control.partition("Build-Depends:")[2].partition("Standards-Version:")[0]
    needed = words_of(asked.replace("-compat (= 13)", ""))
    assert needed <= words_of(RECIPE.read_text(encoding="utf-8").partition("COPY")[0])
