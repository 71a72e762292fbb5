"""Composition: what was asked for on the command line becomes backings, reactors, exports and sockets, and is served.

Only this module knows everything. The main thread waits for signals; each device has a thread for its front ends; the
reactors are threads without Python.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from virtflash.backing import Backing, null_backing, open_flash, open_raw
from virtflash.backing.flash_keeper import FlashKeeper
from virtflash.devices.blk import BlkOptions
from virtflash.engine import LATENCY_BOUNDS, Reactor
from virtflash.export import Export
from virtflash.logs import Log
from virtflash.shared_flash import SharedFlash
from virtflash.statistics_file import StatisticsFile
from virtflash.vhost_user.front_door import FrontDoor
from virtflash.vhost_user.listening_socket import adopt_socket, bind_socket
from virtflash.vhost_user.socket_owner import SocketOwner

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


class ServerError(Exception):
    """The server cannot start; one line."""


@dataclass(frozen=True)
class Volume:
    """What to serve, and where: one of `image`, `flash` and `null_bytes`, one of `socket_path` and `fd`."""

    image: Path | None = None
    null_bytes: int | None = None
    socket_path: Path | None = None
    fd: int | None = None
    flash: Path | None = None

    @property
    def path(self) -> Path | None:
        """Of its image."""
        return self.image or self.flash

    @property
    def paths(self) -> list[Path]:
        """Of its image and its socket, where there are any."""
        return [path for path in (self.path, self.socket_path) if path is not None]

    @property
    def name(self) -> str:
        return "null" if self.path is None else self.path.stem or self.path.name


@dataclass(frozen=True)
class Options:
    """How to serve. `reactors` 0: as many as there are queues, up to half of the processors.

    Of emulated flash: `host_sync`, `timing` and `temperature` as `open_flash` has them.
    """

    read_only: bool = False
    direct: bool = False
    queues: int = 1
    reactors: int = 0
    serial: str | None = None
    spec: str | None = None
    io: str = "auto"
    statistics: Path | None = None
    host_sync: bool = True
    timing: Literal["real"] | None = None
    temperature: float | None = None


@dataclass
class Served:
    """A volume being served. `at`: its socket, for people; `socket_path`: to be removed at the end."""

    export: Export
    door: FrontDoor
    at: str
    reactor: Reactor  # of its first queue
    socket_path: Path | None = None
    keeper: FlashKeeper | None = None
    flash: SharedFlash | None = None

    def close(self) -> None:
        """Let its front end go. Its export is closed later, where its reactor has to end before."""
        self.door.close()
        if self.keeper is not None:
            self.keeper.stop()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)


@dataclass
class Server:
    """Everything that runs. A context manager: entering opens the sockets, leaving stops and releases it all.

    BackingError, SocketError, ServerError, OSError from `create`: one line that says what is in the way.
    """

    options: Options
    reactors: list[Reactor] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    flashes: dict[str, SharedFlash] = field(default_factory=dict)
    log: Log = field(default_factory=Log)
    statistics_file: StatisticsFile | None = None
    on_hangup: Callable[[], object] | None = None  # SIGHUP; None: look at sizes
    running: bool = False
    started: float = field(default_factory=time.time)  # Unix time

    @classmethod
    def create(cls, volumes: Sequence[Volume], options: Options) -> Self:
        """Open everything that can fail, before anything is served."""
        server = cls(options)
        try:
            server.name_statistics([path for volume in volumes for path in volume.paths])
            server.start_reactors(sum(1 if volume.flash else options.queues for volume in volumes))
            for number, (volume, name) in enumerate(zip(volumes, unique_names(volumes), strict=True)):
                server._add(number, volume, name, len(volumes))
        except BaseException:
            server.close()
            raise
        return server

    def start_reactors(self, queues: int) -> None:
        """As many as `queues` need, or as were asked for. ServerError."""
        count = self.options.reactors or max(min(queues, (os.cpu_count() or 1) // 2), 1)
        try:
            for number in range(count):
                self.reactors.append(Reactor(f"vf-reactor-{number}", io=self.options.io))
        except OSError as error:
            remedy = "" if self.options.io == "auto" else "; leave it out to take what the kernel has"
            raise ServerError(f"--io {self.options.io}: {error.strerror}{remedy}") from error

    def name_statistics(self, taken: Sequence[Path]) -> None:
        """Where they go: to no file that is something else. StatisticsError."""
        if self.options.statistics is not None:
            self.statistics_file = StatisticsFile(self.options.statistics, taken)

    def _add(self, number: int, volume: Volume, name: str, of: int) -> None:
        blk_options = device_options(name, self.options, number if of > 1 else None)
        first = number % len(self.reactors)
        with ExitStack() as undo:
            backing = open_backing(volume, self.options)
            undo.callback(backing.close)
            keeper = None
            if backing.flash is not None:
                backing.flash.target.owner = self.reactors[first].run
                Log(name).info("%s", backing.flash.story())
                keeper = FlashKeeper(backing.flash, Log(name))
            export = Export(name, backing, blk_options, self.reactors[first:] + self.reactors[:first])
            served = self.serve(export, open_socket(volume), self.reactors[first], socket_path=volume.socket_path)
            undo.pop_all()
        served.keeper = keeper

    def serve(
        self,
        export: Export,
        listening: socket.socket,
        reactor: Reactor,
        *,
        socket_path: Path | None = None,
        owner: SocketOwner | None = None,
        flash: SharedFlash | None = None,
    ) -> Served:
        """A volume more; at once, where the server runs."""
        door = FrontDoor(
            listening,
            export,
            export.log,
            reports_fd=export.binding.event_fd,
            report=export.report,
            on_leave=export.front_end_left,
            owner=owner,
        )
        at = str(socket_path.absolute()) if socket_path else listening.getsockname()
        served = Served(export, door, at, reactor, socket_path=socket_path, flash=flash)
        self.served = [*self.served, served]  # whoever goes through them now goes through the old list
        if self.running:
            door.open()
        return served

    def stop_serving(self, served: Served) -> None:
        """Let its front end go, finish what is in flight, remove its socket."""
        self.served = [other for other in self.served if other is not served]
        served.close()
        served.export.close()
        if served.flash is not None:
            served.flash.release(served.export.name)

    def find(self, name: str) -> Served | None:
        return next((served for served in self.served if served.export.name == name), None)

    def __enter__(self) -> Self:
        self.running = True
        for served in self.served:
            served.door.open()
            if served.keeper is not None:
                served.keeper.start()
        for flash in self.flashes.values():
            flash.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let front ends go, finish what is in flight, remove the sockets."""
        for served in self.served:
            served.close()
        for flash in self.flashes.values():
            flash.stop()
        self.write_statistics()
        for reactor in self.reactors:  # first: they own what the exports close
            reactor.close()
        for served in self.served:
            served.export.close()
        for flash in self.flashes.values():
            flash.close()
        self.served, self.reactors, self.flashes, self.running = [], [], {}, False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP: read the configuration again, or look whether what lies below has
        grown. SIGUSR1: write statistics."""
        while True:
            match signal.sigwait(SIGNALS):
                case signal.SIGHUP:
                    (self.on_hangup or self.look_at_sizes)()
                case signal.SIGUSR1:
                    self.write_statistics()
                case number:
                    self.log.info("%s: stopping", signal.Signals(number).name)
                    return

    def look_at_sizes(self) -> None:
        for served in self.served:
            if served.export.grown():
                served.door.announce_config_change()

    def statistics(self) -> dict[str, Any]:
        return {
            "latency_bounds_ns": LATENCY_BOUNDS,
            "volumes": [served.export.statistics() for served in self.served],
            "flashes": {name: flash.storage.statistics() for name, flash in self.flashes.items()},
            "reactors": [
                {"name": reactor.name, "io": reactor.io_path, "wakeups": reactor.wakeups} for reactor in self.reactors
            ],
        }

    def write_statistics(self) -> None:
        if self.statistics_file is None or not self.served:
            return
        try:
            self.statistics_file.write(self.statistics())
        except OSError as error:
            self.log.error("statistics could not be written to %s: %s", self.options.statistics, error.strerror)


def block_signals() -> None:
    """Before any thread is made: signals are the main thread's, which waits for them.

    One that is ignored cannot be waited for: under nohup, SIGHUP is to look at sizes all the same.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unique_names(volumes: Sequence[Volume]) -> list[str]:
    """What volumes are called in logs, statistics and, where nothing else is asked for, in their guests."""
    names: list[str] = []
    for volume in volumes:
        same = sum(other.name == volume.name for other in volumes[: len(names)])
        names.append(f"{volume.name}-{same + 1}" if same else volume.name)
    return names


def device_options(name: str, options: Options, number: int | None) -> BlkOptions:
    """`number`: of this volume among several, whose serials must differ."""
    serial = default_serial(name) if options.serial is None else options.serial
    more = "" if options.serial is None or number is None else f"-{number}"
    try:
        return BlkOptions((serial + more).encode(errors="replace"), options.queues, options.spec)
    except ValueError as error:
        behind = f", with the {more!r} behind it that tells several volumes apart" if more else ""
        raise ServerError(f"--serial {serial}: {error}{behind}") from error


def open_backing(volume: Volume, options: Options) -> Backing:
    if volume.flash is not None:
        return open_flash(
            volume.flash,
            read_only=options.read_only,
            host_sync=options.host_sync,
            timing=options.timing,
            temperature=options.temperature,
        )
    if volume.image is None:
        return null_backing(volume.null_bytes or 0, read_only=options.read_only)
    return open_raw(volume.image, read_only=options.read_only, direct=options.direct)


def open_socket(volume: Volume) -> socket.socket:
    if volume.socket_path is not None:
        return bind_socket(volume.socket_path)
    if volume.fd is None:
        raise ServerError("a volume without a socket")
    return adopt_socket(volume.fd)


def default_serial(name: str) -> str:
    """A volume's name is what tells it from others in a guest (/dev/disk/by-id). Of a long one the end tells most."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in name)[-20:]
