"""The command that reloads says what has become of it."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.frontend.daemon import Daemon
from tests.system.reloads.site import Site, command


def test_the_command_says_what_has_become_of_it(site: Site) -> None:
    site.write("b", "c")
    done = command("--config", str(site.file))
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout == (
        f"vm: reloaded: export c ({site.base}/c) added; export a ({site.base}/a) removed\n"
    )
    assert site.names() == [b"b", b"c"]
    done = command(str(site.daemon.pid))
    assert (done.returncode, done.stdout) == (0, "vm: reloaded: nothing has changed\n")
    site.write("b, security_model: mapped-file", "c")
    done = command(str(site.daemon.pid))
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot change while the guest runs, so nothing changes: export b: secu" in done.stderr
    site.write("b", "none")
    done = command(str(site.daemon.pid))
    assert done.returncode == 1
    assert f"{site.base}/none cannot be exported" in done.stderr


def test_whom_the_command_does_not_find(site: Site) -> None:
    done = command("--config", "/etc/none.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("vhost9p: no daemon that you may ask serves a VM by '/etc")
    done = command("1")
    assert (done.returncode, done.stderr) == (2, "vhost9p: 1: no daemon that you may ask\n")
    for option in ("--control-socket", "--config"):
        done = command(str(site.daemon.pid), option, str(site.file))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"a pid and {option} exclude each other" in done.stderr


def test_options_alone_cannot_be_read_again(base: Path) -> None:
    with Daemon("--path", str(base)) as daemon:
        done = command(str(daemon.pid))
        assert done.returncode == 1
        assert "there is no file that could be read again" in done.stderr
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("SIGHUP is ignored")
        daemon.check_output()
