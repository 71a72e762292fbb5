"""A running server, as its operator may have it: what `control.operator` asks for, done to a `Service`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec

from virtflash import logs, status_report
from virtflash.backing.flash_target import SECURE_ERASE, UNMAP_ZEROES
from virtflash.config import ConfigurationError, Volume
from virtflash.config.configuration import LogLevel
from virtflash.config.contradictions import volume_problems
from virtflash.config.quantities import Duration, Size
from virtflash.config.values import value_problems
from virtflash.control.operator import TTL, NewLimits, OperatorError, Reloaded
from virtflash.health.platform_state import PlatformState
from virtflash.health.sensors.sensor import SensorError
from virtflash.platform_watch import PlatformWatch
from virtflash.server import Served
from virtflash.service import TROUBLE, Service, in_words
from virtflash.shared_flash import SECTOR_BYTES, SharedFlash
from virtflash.status import Limits, SensorStatus, Status, VolumeStatus, WearStatus
from virtflash.volumes.limits import VolumeLimits

SECOND_MS = 1000
MINUTE_MS = 60_000


@contextmanager
def told() -> Iterator[None]:
    """What is in the way is told to who asked, in a line."""
    try:
        yield
    except ConfigurationError as error:
        raise OperatorError("; ".join(error.problems)) from error
    except TROUBLE as error:
        raise OperatorError(in_words(error)) from error
    except SensorError as error:
        raise OperatorError(str(error)) from error


class Operation:
    """Implements `control.operator.Operator`."""

    def __init__(self, service: Service, watch: PlatformWatch) -> None:
        self._service, self._watch = service, watch
        self._server = service.server

    def _served(self, name: str) -> Served:
        served = self._server.find(name)
        if served is None:
            names = ", ".join(other.export.name for other in self._server.served) or "none"
            raise OperatorError(f"there is no volume {name!r}; there are: {names}")
        return served

    def _chosen(self, name: str | None) -> list[Served]:
        return list(self._server.served) if name is None else [self._served(name)]

    def _flash(self, name: str) -> SharedFlash:
        if name not in self._server.flashes:
            raise OperatorError(f"there is no flash {name!r}; there are: {', '.join(self._server.flashes)}")
        return self._server.flashes[name]

    # What there is

    def status(self) -> Status:
        found = status_report.status(self._server, configuration=str(self._service.path), log_level=logs.log_level())
        return msgspec.structs.replace(found, sensors=self.sensors())

    def volumes(self) -> list[VolumeStatus]:
        return [status_report.volume_status(served) for served in self._server.served]

    def wear(self, name: str | None = None) -> list[WearStatus]:
        return [status_report.wear_status(served) for served in self._chosen(name)]

    # Volumes

    def create(self, name: str, volume: Volume) -> VolumeStatus:
        self._flash(volume.flash)
        found = [*value_problems(volume)]
        found += [(str(path[-1]), text) for path, text in volume_problems(self._service.configuration, name, volume)]
        if found:
            raise OperatorError("; ".join(f"{key}: {text}" for key, text in found))
        with told():
            return status_report.volume_status(self._service.make(name, volume))

    def delete(self, name: str, secure: bool | None = None) -> None:
        with told():
            self._service.delete(name, secure=secure)

    def grow(self, name: str, size: Size) -> VolumeStatus:
        if size % SECTOR_BYTES:
            raise OperatorError(f"size: {size} bytes are no whole number of sectors of {SECTOR_BYTES}")
        served = self._served(name)
        with told():
            self._service.grow(name, size)
        return status_report.volume_status(served)

    def flush(self, name: str | None = None) -> None:
        with told():
            for served in self._chosen(name):
                served.export.binding.sync()

    def erase(self, name: str, secure: bool = False) -> None:
        served = self._served(name)
        if served.export.backing.read_only:
            raise OperatorError(f"volume {name} is read-only; make it writable first")
        assert served.flash is not None
        if (state := served.export.verdict.state) >= PlatformState.READ_ONLY:
            raise OperatorError(f"volume {name} may not be written now: it is {state.word}, as the platform is")
        with told(), self._service.lock:
            served.flash.check_writable()
            window = served.flash.pool.window(name)
            window.change(SECURE_ERASE if secure else UNMAP_ZEROES, 0, window.volume.sectors)
            served.flash.storage.target.flush()

    def refresh(self, flash: str | None = None, older_than: Duration | None = None) -> dict[str, int]:
        chosen = self._server.flashes.values() if flash is None else [self._flash(flash)]
        hours = None if older_than is None else older_than / (60 * MINUTE_MS)
        with told():
            for each in chosen:
                each.check_writable()
            return {each.name: each.refresh(hours) for each in chosen}

    # What it may take

    def limits(self, name: str, change: NewLimits) -> Limits:
        served = self._served(name)
        assert served.flash is not None
        with told(), self._service.lock:
            before = served.flash.limits.get(name, VolumeLimits())
            given = {
                key: value for key in change.__struct_fields__ if (value := getattr(change, key)) is not msgspec.UNSET
            }
            refuse_nothing(given)
            if given:
                served.flash.limit(name, replace(before, **given))
            return status_report.limits_of(served.flash.limits.get(name, VolumeLimits()))

    # What the platform is like

    def sensors(self) -> list[SensorStatus]:
        now = self._watch.now()
        return [
            SensorStatus(name=name, unit=said.unit, value=said.value, age=now - said.at, problem=said.problem)
            for name, said in sorted(self._watch.readings().items())
        ]

    def push(self, sensor: str, value: float, ttl: Duration = TTL) -> None:
        with told():
            self._watch.pushed.push(sensor, value, ttl / SECOND_MS)

    def simulate(self, sensor: str, value: float | None = None) -> None:
        with told():
            self._watch.simulate(sensor, value)

    # The server

    def reload(self) -> Reloaded:
        with told():
            applied, refused = self._service.reload()
        return Reloaded(applied=applied, refused=refused)

    def log_level(self, level: LogLevel | None = None) -> LogLevel:
        if level is not None:
            logs.set_log_level(level)
        return logs.log_level()  # type: ignore[return-value]

    def shutdown(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def refuse_nothing(given: dict[str, object]) -> None:
    """OperatorError: a limit or a burst of nothing, at which requests would wait for ever."""
    for key, value in given.items():
        if value == 0:
            instead = "the usual burst" if key.endswith("_burst") else "no limit"
            raise OperatorError(f"{key}: nothing at all would pass; give null for {instead}")
