"""How a main process that goes on comes to answer."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from vhost9p import answers
from vhost9p.errors import UserError
from vhost9p.metrics.process import Place


def test_what_metrics_lack_after_an_upgrade_ends_no_daemon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The new version has no prometheus_client, and guests that need main to go on."""

    def lacks() -> None:
        raise UserError("metrics need prometheus_client")

    monkeypatch.setattr(answers, "serve", lambda *args: True)
    monkeypatch.setattr(answers, "check_library", lacks)
    before = Place.listen("127.0.0.1:0")
    written = before.written_down() | {"fd": socket.socket.dup(before.socket).detach()}
    daemon: Any = None
    answers.go_on(daemon, None, {"metrics": written})
    assert "no metrics until the daemon is restarted: metrics need" in caplog.text
    before.close()
