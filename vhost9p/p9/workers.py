"""Threads for what may block: a few, started when first needed, that take work from one queue.

What is handed over costs a wake-up and the interpreter's lock twice, and nothing else: nobody waits
for a result (as of concurrent.futures), since the work itself answers the request that it is for.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], object]


class Workers:
    """At most `count` threads, which `name` names. Work does not raise."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0
        """Threads without work, less the work that none of them has taken yet."""

    def submit(self, work: Work) -> None:
        """Has work done by one of the threads, in its turn; raises RuntimeError where the host
        allows no thread at all."""
        with self._lock:
            self._idle -= 1
            if self._idle < 0 and self._started < self._count:
                self._start()
        self._queue.put(work)

    def _start(self) -> None:
        number = self._started
        thread = threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._started:
                self._idle += 1
                raise
        else:
            self._started += 1
            self._idle += 1

    def _run(self) -> None:
        while work := self._queue.get():
            work()
            with self._lock:
                self._idle += 1

    def close(self) -> None:
        """What was submitted is still done; then the threads end, for which nobody waits."""
        for _ in range(self._started):
            self._queue.put(None)
