"""What main answers to commands on its control socket (control/).

A handler gets the daemon, the request and the client, and returns the objects of the answer; or
None, and answers later (control/server.py). It runs in main: it reads no file of an export, waits
for nobody, and takes what workers have written for what an attacker may have written.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vhost9p.answers import counts, listing, reload, status, tracing
from vhost9p.config import OFF
from vhost9p.control import Object, place
from vhost9p.control.server import Answer, Client, Server
from vhost9p.daemon import Daemon
from vhost9p.errors import UserError
from vhost9p.log_record import about
from vhost9p.metrics.process import Place, check_library
from vhost9p.predecessor import listener_of
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

COMMANDS: dict[str, Callable[[Daemon, Object, Client], Answer]] = {
    # One line each, so that changes of several do not meet.
    "counts": counts.answer,
    "list": listing.answer,
    "reload": reload.answer,
    "status": status.answer,
    "trace": tracing.answer,
}


def serve(
    daemon: Daemon, path: str | None, listener: Listener | None = None, *, is_needed: bool = False
) -> bool:
    """Has the daemon answer commands: on a `listener` that a main process before has left, else at
    a path, or the default place. Raises ListenError if the socket `is_needed`, and there is a
    path; else that is logged, and the daemon serves without: False."""
    try:
        if not (listener := listener or place.listen(path)):
            return False
    except ListenError as error:
        if is_needed and path is not None:
            raise
        log.warning(
            "no control socket until the daemon is restarted: %s",
            error,
            extra=about(),
        )
        return False
    handlers = {name: partial(handler, daemon) for name, handler in COMMANDS.items()}
    daemon.take_commands(Server(listener, handlers))
    return True


def begin(daemon: Daemon, control: str | None, metrics: str | None, *, is_needed: bool) -> None:
    """Has a daemon that begins answer commands, and serve metrics, at these places. If that
    `is_needed`, UserError and ListenError say why it is not possible; else they are logged."""
    try:
        answers = serve(daemon, control, is_needed=is_needed)
        if metrics in (None, OFF):
            return
        if not answers:
            raise ListenError("metrics need a control socket, and there is none: name one")
        check_library()
        daemon.serve_metrics(Place.listen(metrics))
    except (ListenError, UserError) as error:
        if is_needed:
            daemon.end()
            raise
        log.error("no metrics until the daemon is restarted: %s", error, extra=about())


def go_on(daemon: Daemon, control: str | None, written: Mapping[str, Any]) -> None:
    """Has a daemon that goes on with what the version before has `written` down do the same. Raises
    OSError. The guests need none of it, so what this version lacks for it is logged."""
    answers = serve(daemon, control, listener_of(written))
    if not written.get("metrics"):
        return
    place = Place.read(written["metrics"])
    try:
        if not answers:
            raise UserError("there is no control socket")
        check_library()
    except UserError as error:
        place.close()
        log.error("no metrics until the daemon is restarted: %s", error, extra=about())
        return
    daemon.serve_metrics(place)
