"""A thread for what takes long: one thing after another, in the order in which it came."""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Worker:
    """`finish` hands back what is done there, to the thread that calls it. `wake`: it is time to; on the worker's."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: SimpleQueue[tuple[Callable[[], bytes], Callable[[bytes], None]] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[bytes, Callable[[bytes], None]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def do(self, work: Callable[[], bytes], then: Callable[[bytes], None]) -> None:
        """`work` must not raise. What it returns, `then` gets."""
        self._waiting.put((work, then))

    def finish(self) -> None:
        """Call what was to come then, of all that is done by now."""
        while not self._done.empty():
            result, then = self._done.get()
            then(result)

    def close(self) -> None:
        """Returns when all is done that was to be."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            work, then = job
            self._done.put((work(), then))
            self._wake()
