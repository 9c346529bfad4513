"""What a frontend says while no worker lives is answered by the next one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.frontend.deaths import no_worker
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.system.share import Share, mounted, remount, serve

REQUESTS = 20


def stop_and_go_on(share: Share) -> None:
    share.machine.stop()
    share.machine.start()


def reset(share: Share) -> None:
    share.machine.reboot()
    share.client.in_flight.clear()


def plug_again(share: Share) -> None:
    share.machine.replug()
    share.client.in_flight.clear()


def reconnect(share: Share) -> None:
    share.machine.close()
    share.machine = Machine(share.daemon.socket).boot()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("act", [stop_and_go_on, reset, plug_again, reconnect])
def test_a_frontend_waits_for_the_next_worker(
    export: Path, act: Callable[[Share], None], packed: bool
) -> None:
    """It acts in the middle of requests."""
    (export / "file").write_bytes(b"data")
    with serve(export) as daemon, mounted(daemon, export, packed=packed) as share:
        client = share.client
        tickets = [client.submit(T.WALK, share.top, i + 100, [b"file"]) for i in range(REQUESTS)]
        with no_worker(daemon) as may:
            act(share)
            assert may.is_set()
        if act is stop_and_go_on:
            for ticket in tickets:
                client.wait(ticket)
        else:
            share.client = type(client)(share.machine)
            remount(share)
        fid = share.client.open(share.top, b"file")
        assert share.client.read(fid, 0, 10) == b"data"
        share.machine.close()
