"""The control socket: how commands such as `vhost9p status` ask main (daemon.py).

A client sends a request, a JSON object on a line, as {"command": "status"}, and gets objects back,
one a line. The last one is {"done": true}, or {"error": "why"} instead; then the next request may
follow. Descriptors may come with an object, whose "descriptors" says how many (unix(7),
SCM_RIGHTS).

Only root and the daemon's user may connect: the socket's file is theirs alone, and main looks who
has connected. Nevertheless no client can hold main up or fill its memory: the sizes below are the
most that one gets, and main waits for none of them.

- place.py: where the socket is, and which daemons there are
- server.py: main's end
- client.py: the other one
- shapes.py: what the objects of answers look like

What is answered to which command is above main, in answers/.
"""

from typing import Any

Object = dict[str, Any]
"""What a line holds, decoded."""

LINE_MAX = 64 * 1024
"""Bytes of a request."""
DESCRIPTORS_MAX = 16
"""That come with an object."""
DONE: Object = {"done": True}
