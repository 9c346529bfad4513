"""Work runs beside the thread that submits it, on no more threads than allowed, and all of it."""

import threading

import pytest

from vhost9p.p9.workers import Workers

TIMEOUT = 20


def test_as_many_at_once_as_allowed() -> None:
    workers = Workers(3, "test")
    together = threading.Barrier(4)
    for _ in range(3):
        workers.submit(lambda: together.wait(TIMEOUT))
    waiting = threading.Event()
    workers.submit(waiting.set)
    assert not waiting.wait(0.05)
    together.wait(TIMEOUT)
    assert waiting.wait(TIMEOUT)
    workers.close()


def test_no_more_threads_than_allowed() -> None:
    workers = Workers(3, "single")
    done = threading.Semaphore(0)
    for _ in range(100):
        workers.submit(done.release)
    for _ in range(100):
        assert done.acquire(timeout=TIMEOUT)
    names = {thread.name for thread in threading.enumerate()}
    assert {name for name in names if name.startswith("single-")} <= {
        "single-0", "single-1", "single-2",
    }  # fmt: skip
    workers.close()


def test_what_was_submitted_is_done_after_close() -> None:
    workers = Workers(1, "test")
    go, done = threading.Event(), threading.Semaphore(0)
    workers.submit(lambda: go.wait(TIMEOUT))
    for _ in range(5):
        workers.submit(done.release)
    workers.close()
    go.set()
    for _ in range(5):
        assert done.acquire(timeout=TIMEOUT)


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = Workers(2, "test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            workers.submit(lambda: None)
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(TIMEOUT)
    workers.close()
