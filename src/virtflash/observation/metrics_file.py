"""Metrics in a file that the node exporter reads."""

import threading
from collections.abc import Callable
from pathlib import Path

from virtflash.logs import Log
from virtflash.observation.exposition import ExpositionError, registry_of
from virtflash.status import Status

SECONDS = 15.0  # between two of them, as often as Prometheus asks by default
MODE = 0o644  # the node exporter is another user


class MetricsFile:
    """A file for the node exporter's textfile collector, replaced as a whole every 15 s, removed at the end.

    It goes with the server: what it said last would look as if it were still true.
    """

    def __init__(self, path: Path | str, status: Callable[[], Status], *, seconds: float = SECONDS) -> None:
        self.path = Path(path)
        self.log = Log("metrics")
        self._status = status
        self._seconds = seconds
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write it, and write it again from now on. ExpositionError: it cannot be written."""
        self._registry = registry_of(self._status)
        try:
            self.write()
        except OSError as error:
            raise ExpositionError(f"metrics_file: {self.path}: cannot be written: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name="metrics-file", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Remove it."""
        self._ending.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self.log.warning("%s could not be removed: %s", self.path, error.strerror)

    def write(self) -> None:
        """OSError: what was there before is still there."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        fresh = self.path.with_name(self.path.name + ".new")  # an ending that the node exporter does not read
        try:
            fresh.write_bytes(generate_latest(self._registry))
            fresh.chmod(MODE)
            fresh.replace(self.path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    def _run(self) -> None:
        while not self._ending.wait(self._seconds):
            try:
                self.write()
            except OSError as error:
                self.log.limited("metrics file", f"{self.path} could not be written: {error.strerror}")
