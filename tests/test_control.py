"""Both ends of the control socket, with handlers that answer in each of the ways there are."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.frontend import PATIENCE
from vhost9p.control import Object, client, server
from vhost9p.control.client import ControlError, Place, ask, ask_on
from vhost9p.control.server import Client, Server
from vhost9p.errors import UserError
from vhost9p.vhost_user.listener import Listener


class Main:
    """A server on a thread of its own, in main's place."""

    def __init__(self, path: Path) -> None:
        self.place = Place(str(path), os.getpid())
        self.waiting: list[Client] = []
        """Those to whom an answer is due."""
        self.ended = 0
        handlers = {
            "count": self.count,
            "later": self.later,
            "refuse": self.refuse,
            "fault": self.fault,
            "wide": lambda request, client: iter([{"text": "x" * 3_000_000}]),
        }
        self.server = Server(Listener.bind(str(path)), handlers)
        self._quit, self._theirs = socket.socketpair()
        self._acts: list[Any] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def count(self, request: Object, client: Client) -> Iterator[Object]:
        """Yields so many objects."""
        for i in range(request["to"]):
            yield {"number": i}

    def later(self, request: Object, client: Client) -> None:
        """Answers later."""
        client.ended.append(self.note_end)
        self.waiting.append(client)

    def note_end(self) -> None:
        self.ended += 1

    def refuse(self, request: Object, client: Client) -> None:
        """Refuses."""
        raise UserError("this", "and that")

    def fault(self, request: Object, client: Client) -> None:
        """Meets an error that nobody expected."""
        raise ValueError(request)

    def act(self, act: Any) -> None:
        """Does something on main's thread."""
        self._acts.append(act)
        self._quit.send(b"x")

    def _run(self) -> None:
        while True:
            at = self.server.looks_at
            select.select(
                [self.server.fileno(), self._theirs.fileno()], [], [], None if at is None else 0.1
            )
            with suppress(BlockingIOError):
                if not self._theirs.recv(1, socket.MSG_DONTWAIT):
                    return
                self._acts.pop(0)()
            self.server.step()

    def close(self) -> None:
        self._quit.close()
        self._thread.join()
        self._theirs.close()
        self.server.close()


@pytest.fixture
def main() -> Iterator[Main]:
    path = Path(f"/tmp/v9-control-{os.getpid()}-{threading.get_ident()}")
    main = Main(path)
    yield main
    main.close()
    assert not path.exists()


def wait_for(condition: Any) -> None:
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never becomes true")


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_objects_come_in_order(main: Main, count: int) -> None:
    found = ask(main.place, {"command": "count", "to": count})
    assert [each["number"] for each in found] == list(range(count))


def test_a_large_object_comes_whole(main: Main) -> None:
    (found,) = ask(main.place, {"command": "wide"})
    assert len(found["text"]) == 3_000_000


def test_a_client_that_does_not_read_has_nothing_made_for_it(main: Main) -> None:
    """And others are answered meanwhile."""
    slow: Any = ask(main.place, {"command": "count", "to": 10**9})
    assert next(slow) == {"number": 0}
    assert len(list(ask(main.place, {"command": "count", "to": 5}))) == 5
    wait_for(lambda: len(main.server.clients) == 1)
    (one,) = main.server.clients
    assert one._queued < 2 * server.FILL
    slow.close()
    wait_for(lambda: not main.server.clients)


def test_an_answer_may_come_later_with_descriptors(main: Main) -> None:
    found: list[Object] = []
    thread = threading.Thread(
        target=lambda: found.extend(ask(main.place, {"command": "later"}, is_stream=True))
    )
    thread.start()
    wait_for(lambda: main.waiting)
    (one,) = main.waiting
    read, write = os.pipe()
    main.act(lambda: one.send({"first": 1}))
    main.act(lambda: one.send({"second": 2}, [read, write]))
    main.act(one.end)
    thread.join()
    assert found[0] == {"first": 1}
    its_read, its_write = found[1]["descriptors"]
    assert found[1]["second"] == 2
    for fd in (read, write):
        os.close(fd)
    os.write(its_write, b"x")
    assert os.read(its_read, 1) == b"x"
    for fd in (its_read, its_write):
        os.close(fd)
    assert main.ended == 1


def test_who_has_sent_all_requests_still_gets_the_answer(main: Main) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(main.place.path)
        sock.sendall(b'{"command": "later"}')
        sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: main.waiting)
        main.act(main.waiting[0].end)
        assert sock.makefile("rb").read() == b'{"done": true}\n'


def test_a_stream_ends_with_its_client(main: Main) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(main.place.path)
        sock.sendall(b'{"command": "later"}\n')
        wait_for(lambda: main.waiting)
    wait_for(lambda: main.ended == 1)
    assert main.waiting[0].is_answered
    assert not main.waiting[0].send({"late": True})


def test_a_stream_is_never_held_up(main: Main) -> None:
    """What a client has no room for is refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(main.place.path)
        sock.sendall(b'{"command": "later"}\n')
        wait_for(lambda: main.waiting)
        results: list[bool] = []
        text = {"text": "x" * 10_000}
        main.act(lambda: results.extend(main.waiting[0].send(text) for _ in range(1000)))
        wait_for(lambda: len(results) == 1000)
        assert results[0] and not results[-1]
        assert sum(results) * 10_000 < 2 * server.QUEUE_MAX


def test_one_more_client_than_there_may_be_gets_one_line(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 1000.0)
    connected = []
    for _ in range(server.CLIENTS_MAX):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(main.place.path)
        connected.append(sock)
    with pytest.raises(ControlError, match=r"32 clients are connected already: try again$"):
        list(ask(main.place, {"command": "count", "to": 1}))
    for each in connected:
        each.close()
    wait_for(lambda: not main.server.clients)
    assert len(list(ask(main.place, {"command": "count", "to": 1}))) == 1


REFUSED = [
    ({"command": "refuse"}, "this; and that"),
    ({"command": "fault"}, "the daemon has failed to answer: its log says more"),
    ({"command": "count"}, "the daemon has failed to answer: its log says more"),
    ({"command": "none"}, "which does not know 'none': upgrade it first"),
    ({"command": "x" * 65536}, "a request has more than 65536 bytes"),
]


@pytest.mark.parametrize("request_,said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_refused_gets_one_line(main: Main, request_: Object, said: str) -> None:
    with pytest.raises(ControlError) as caught:
        list(ask(main.place, request_))
    assert str(caught.value).endswith(said) and "\n" not in str(caught.value)


HOSTILE = [
    (b"x\n", "answers with something else than a JSON object: b'x'"),
    (b"[]\n", "answers with something else than a JSON object: b'[]'"),
    (b'{"descriptors": 1}\n', "has not sent the descriptors that it speaks of"),
    (b'{"descriptors": "x"}\n', "has not sent the descriptors that it speaks of"),
    (b'{"error": "a\\u001b[2J"}\n', "a\\x1b[2J"),
    (b'{"x": 1}', "has ended, or is being upgraded: try again"),
    (b"x" * 40_000_000, "answers with more than an object may have"),
]


@pytest.mark.parametrize("data,said", HOSTILE, ids=[said for _, said in HOSTILE])
def test_a_server_that_answers_anything_gets_one_line(data: bytes, said: str) -> None:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with suppress(OSError), theirs:
            theirs.recv(100)
            theirs.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    with ours, pytest.raises(ControlError) as caught:
        list(client.ask_on(ours, Place("it"), {"command": "list"}))
    ours.close()
    thread.join()
    assert str(caught.value).endswith(said)


def test_a_server_that_drips_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)

    def drip() -> None:
        with suppress(OSError), theirs:
            while True:
                theirs.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    with ours, pytest.raises(ControlError, match=r"it has not answered completely in 0\.2 s"):
        list(client.ask_on(ours, Place("it"), {"command": "list"}))
    ours.close()
    thread.join()


def test_a_process_of_mains_own_may_ask_for_what_it_needs_only(main: Main) -> None:
    own, its = socket.socketpair()
    main.act(lambda: main.server.add(own, {"count"}))
    place = Place("main")
    assert [*ask_on(its, place, {"command": "count", "to": 2})] == [{"number": 0}, {"number": 1}]
    with pytest.raises(ControlError, match="does not know 'later'"):
        [*ask_on(its, place, {"command": "later"})]
    assert not main.waiting
    its.close()
