"""What stands around a configuration that is served: its control socket, its metrics, and what systemd is told."""

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from virtflash.config import ConfigurationError
from virtflash.config.reading import complaint
from virtflash.control.control_socket import ControlSocket
from virtflash.control.events import EventLog
from virtflash.operation import Operation
from virtflash.platform_watch import PlatformWatch
from virtflash.service import Service
from virtflash.systemd import SystemdError, Watchdog, notify, notify_reloading
from virtflash.vhost_user.listening_socket import adopt_socket, bind_socket

CONTROL_MODE = 0o600
CONTROL = "control"  # what systemd calls an inherited control socket


class Surroundings:
    """A context manager, within that of the service. ConfigurationError from entering: a line of what is in the way."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watch = PlatformWatch(service)
        self._operation = Operation(service, self._watch)
        self._events = EventLog()
        self._leaving = ExitStack()
        self._asked: threading.Event | None = None  # whether the reactors answer, and they have not yet

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._events.attach()
            undo.callback(self._events.detach)
            self._watch.start()
            undo.callback(self._watch.stop)
            self._open_control(undo)
            self._open_metrics(undo)
            watchdog = Watchdog(self._reactors_answer, self._service.server.log)
            watchdog.start()
            undo.callback(watchdog.stop)
            self._service.server.on_hangup = self._reload
            self._leaving = undo.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._tell_systemd("STOPPING=1")
        self._leaving.close()

    def ready(self) -> None:
        """Guests can come."""
        self._tell_systemd("READY=1", f"STATUS={len(self._service.server.served)} volumes are served")

    def _open_control(self, undo: ExitStack) -> None:
        name = self._service.configuration.server.control
        inherited = self._service.inherited.get(CONTROL)
        if inherited is not None:
            listening = adopt_socket(os.dup(inherited))
        elif name is not None:
            path = self._service.place(name)
            with self._service.blaming(("server", "control")):
                path.parent.mkdir(parents=True, exist_ok=True)
                listening = bind_socket(path, CONTROL_MODE)
            undo.callback(path.unlink, missing_ok=True)
        else:
            return
        control = ControlSocket(listening, self._operation, self._service.server.log, events=self._events)
        control.open()
        undo.callback(control.close)

    def _open_metrics(self, undo: ExitStack) -> None:
        section = self._service.configuration.server
        if section.metrics is not None:
            from virtflash.observation.metrics_endpoint import MetricsEndpoint  # noqa: PLC0415

            endpoint = MetricsEndpoint(section.metrics, self._operation.status)
            self._start("metrics", endpoint.start)
            undo.callback(endpoint.stop)
        if section.metrics_file is not None:
            from virtflash.observation.metrics_file import MetricsFile  # noqa: PLC0415

            file = MetricsFile(self._service.place(section.metrics_file), self._operation.status)
            self._start("metrics_file", file.start)
            undo.callback(file.stop)

    def _start(self, key: str, start: Callable[[], None]) -> None:
        from virtflash.observation.exposition import ExpositionError  # noqa: PLC0415

        try:
            start()
        except ExpositionError as error:
            text = str(error).removeprefix(f"{key}: ")
            raise ConfigurationError([complaint(Path(self._service.path), ("server", key), text)]) from error

    def _reload(self) -> None:
        """SIGHUP. A file with mistakes changes nothing, and is told line by line."""
        self._tell_systemd(reloading=True)
        try:
            self._service.reload()
        except ConfigurationError as error:
            for problem in error.problems:
                self._service.server.log.error("not read again: %s", problem)
        self.ready()

    def _tell_systemd(self, *assignments: str, reloading: bool = False) -> None:
        try:
            notify_reloading() if reloading else notify(*assignments)
        except SystemdError as error:
            self._service.server.log.warning("%s", error)

    def _reactors_answer(self, seconds: float) -> bool:
        """Each has begun a turn within that time, and the platform is watched. One that hangs is not asked again before
        it has answered."""
        if not self._watch.judges:
            self._service.server.log.limited("watch", "the platform is not watched any more: restart the server")
            return False
        if self._asked is None:
            self._asked = threading.Event()
            threading.Thread(target=self._ask, args=(self._asked,), name="vf-watchdog", daemon=True).start()
        if not self._asked.wait(seconds):
            return False
        self._asked = None
        return True

    def _ask(self, answered: threading.Event) -> None:
        for reactor in self._service.server.reactors:
            reactor.round()
        answered.set()
