"""The log as JSON, of a guest's requests that fail."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, scratch_export

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]


def test_what_a_guest_may_not_do_names_the_export(boot: Boot, tmp_path: Path) -> None:
    with scratch_export() as base:
        (base / "src").mkdir()
        socket = base.parent / f"{base.name}.sock"
        config = tmp_path / "vm.yaml"
        config.write_text(
            f"socket: {socket}\nlog_format: json\nlog_failures: true\n"
            f"exports: [{{name: src, path: {base}/src, readonly: true}}]\n"
        )
        daemon = Daemon("--config", str(config), socket=False)
        daemon.ready = '"serving src: '
        with daemon:
            vm = boot("full", [socket])
            vm.mount("host0", MOUNT)
            vm.run(f"mkdir {MOUNT}/src/new", check=False)
            found = json.loads(daemon.wait_line('"request": "Tmkdir"'))
            vm.kill()
    del found["time"], found["message"]
    assert found == {
        "level": "warning",
        "vm": "vm",
        "device": "host0",
        "socket": str(socket),
        "export": "src",
        "request": "Tmkdir",
        "errno": errno.EROFS,
    }
