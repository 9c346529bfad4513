"""Answers "reload": has the configuration read again, and says in the end what has become of it."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from vhost9p.control import Object
from vhost9p.control.server import Answer, Client
from vhost9p.errors import UserError
from vhost9p.reloading_daemon import ReloadingDaemon

if TYPE_CHECKING:
    from vhost9p.daemon import Daemon


def answer(daemon: "Daemon", request: Object, client: Client) -> Answer:
    """Answers later: an object for each line, and at last whether all has succeeded. Raises
    UserError."""
    if not isinstance(daemon, ReloadingDaemon) or not daemon.can_reload:
        raise UserError("there is no file that could be read again: it was started without one")

    def ended(succeeded: bool, lines: Collection[str]) -> None:
        for line in lines:
            client.send({"line": line})
        client.send({"succeeded": succeeded})
        client.end()

    daemon.reload(ended)
    return None
