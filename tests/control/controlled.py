"""A server to control that is none: it remembers what it was asked for, and can be made to wait or to fail."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtflash.config.configuration import LogLevel, Volume
from virtflash.config.quantities import Duration, Size
from virtflash.control.control_socket import ControlSocket
from virtflash.control.events import EventLog
from virtflash.control.operator import TTL, NewLimits, Operator, OperatorError, Reloaded
from virtflash.logs import Log
from virtflash.status import Budget, FlashStatus, Limits, SensorStatus, Status, VolumeStatus, WearStatus
from virtflash.vhost_user.listening_socket import bind_socket

DEADLINE_SECONDS = 20.0

BUDGET = Budget(per_day=20 * 10**9, burst=10**9, left=-5, spent=True, times_spent=3)


def volume_status(name: str, size: int = 1 << 30, **more: Any) -> VolumeStatus:
    told: dict[str, Any] = {
        "name": name,
        "flash": "emmc0",
        "size": size,
        "socket": f"run/{name}.sock",
        "state": "serving",
        "read_only": False,
        "critical": False,
        "queues": 1,
        "front_end": None,
        "write_through": False,
        "requests": {"read": 3, "write": 4},
        "bytes_read": 4096,
        "bytes_written": 8192,
        "bytes_discarded": 0,
        "errors": 0,
        "refused": 0,
        "unsupported": 0,
        "malformed": 0,
        "in_flight": 0,
        "delayed": 0,
        "latency": {"read": [1, 2], "write": [3, 4]},
        "limits": Limits(wear_budget=20 * 10**9),
        "programmed": 16384,
        "budget": BUDGET,
    }
    return VolumeStatus(**(told | more))


def flash_status(name: str) -> FlashStatus:
    return FlashStatus(
        name=name,
        path=f"{name}.vflash",
        profile="emmc-mlc",
        kind="emmc",
        size=8 << 30,
        free=4 << 30,
        read_only=False,
        celsius=25.0,
        pre_eol_info=1,
        lifetime_a=1,
        lifetime_b=2,
        host_bytes=8192,
        programmed_bytes=16384,
        write_amplification=2.0,
        erases=7,
        blocks=1024,
        free_blocks=512,
        bad_blocks=1,
        spare_blocks=20,
        lost_units=0,
        corrected_bits=0,
    )


@dataclass
class FakeOperator(Operator):
    """`gate`: what takes long waits until it is set, once `begun` is. `failure`: raised by `flush`."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    level: LogLevel = "info"
    names: tuple[str, ...] = ("cluster", "infotainment")

    def __post_init__(self) -> None:
        self.gate.set()

    def status(self) -> Status:
        self.asked.append(("status",))
        return Status(
            version="0.1.0",
            process=42,
            started=1000.0,
            uptime=3725.0,
            configuration="cockpit.toml",
            log_level=self.level,
            latency_bounds_ns=[1000],
            volumes=[volume_status(name) for name in self.names],
            flashes=[flash_status("emmc0")],
        )

    def volumes(self) -> list[VolumeStatus]:
        self.asked.append(("volumes",))
        return [volume_status(name) for name in self.names]

    def create(self, name: str, volume: Volume) -> VolumeStatus:
        self._long("create", name, volume)
        return volume_status(name, volume.size)

    def delete(self, name: str, secure: bool | None = None) -> None:
        self._long("delete", name, secure)
        if name not in self.names:
            raise OperatorError(f"there is no volume {name}; there are: {', '.join(self.names)}")

    def grow(self, name: str, size: Size) -> VolumeStatus:
        self._long("grow", name, size)
        return volume_status(name, size)

    def flush(self, name: str | None = None) -> None:
        self._long("flush", name)
        if self.failure is not None:
            raise self.failure

    def erase(self, name: str, secure: bool = False) -> None:
        self._long("erase", name, secure)

    def refresh(self, flash: str | None = None, older_than: Duration | None = None) -> dict[str, int]:
        self._long("refresh", flash, older_than)
        return {"emmc0": 12}

    def sensors(self) -> list[SensorStatus]:
        self.asked.append(("sensors",))
        return [SensorStatus(name="emmc0.temperature", unit="degC", value=41.5, age=0.5)]

    def push(self, sensor: str, value: float, ttl: Duration = TTL) -> None:
        self.asked.append(("push", sensor, value, ttl))

    def simulate(self, sensor: str, value: float | None = None) -> None:
        self.asked.append(("simulate", sensor, value))

    def reload(self) -> Reloaded:
        self._long("reload")
        return Reloaded(applied=["[volume.cluster] iops: 500 /s"], refused=["[flash.emmc0] path"])

    def limits(self, name: str, change: NewLimits) -> Limits:
        self.asked.append(("limits", name, change))
        return Limits(iops=500, iops_burst=50, wear_budget=20 * 10**9)

    def wear(self, name: str | None = None) -> list[WearStatus]:
        self.asked.append(("wear", name))
        return [
            WearStatus(
                name=each,
                flash="emmc0",
                bytes_written=8192,
                programmed=16384,
                write_amplification=2.0,
                when_spent="throttle",
                budget=BUDGET,
            )
            for each in self.names
            if name in (None, each)
        ]

    def log_level(self, level: LogLevel | None = None) -> LogLevel:
        self.asked.append(("log_level", level))
        self.level = level or self.level
        return self.level

    def shutdown(self) -> None:
        self.asked.append(("shutdown",))
        self.stopped.set()

    def _long(self, *what: object) -> None:
        self.asked.append(what)
        self.begun.set()
        assert self.gate.wait(DEADLINE_SECONDS)


class Wire:
    """A connection to a control socket, and the bytes on it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))  # before anything else: with a timeout it would not wait for its turn
        self.socket.settimeout(DEADLINE_SECONDS)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def call(self, method: str, number: object = 1, **params: object) -> None:
        line = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
        with suppress(BrokenPipeError):  # it was let go meanwhile; what it was told then is there to be read
            self.send(line)

    def line(self) -> Any:
        """The next one; None: the server has closed the connection."""
        try:
            line = self._file.readline()
        except ConnectionResetError:  # it has closed with something unread
            return None
        return json.loads(line) if line else None

    def ask(self, method: str, number: object = 1, **params: object) -> Any:
        self.call(method, number, **params)
        return self.line()

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@dataclass
class Controlled:
    """A control socket that is open. `close` is called when its test ends."""

    path: Path
    operator: FakeOperator
    control: ControlSocket
    events: EventLog
    wires: list[Wire] = field(default_factory=list)

    def wire(self) -> Wire:
        self.wires.append(Wire(self.path))
        return self.wires[-1]


@contextmanager
def controlled(path: Path, **options: Any) -> Iterator[Controlled]:
    operator, events = FakeOperator(), EventLog()
    events.attach()
    control = ControlSocket(bind_socket(path, 0o600), operator, Log(), events=events, **options)
    control.open()
    running = Controlled(path, operator, control, events)
    try:
        yield running
    finally:
        operator.gate.set()
        for wire in running.wires:
            wire.close()
        if control._thread.is_alive():
            control.close()
        events.detach()
        path.unlink(missing_ok=True)
