"""A configuration, served: its flashes opened, its volumes made where they are not there yet, each at its socket.

What can change while guests run goes through here: volumes come, grow and go. One change at a time.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Self

from msgspec import structs

from virtflash.backing import BackingError
from virtflash.config import Configuration, ConfigurationError, Volume, read_configuration
from virtflash.config.quantities import Size
from virtflash.config.reading import complaint
from virtflash.devices.blk import BlkOptions
from virtflash.export import Export
from virtflash.logs import set_log_level
from virtflash.platform_gate import PlatformGate
from virtflash.reload import LIMITS, Change, plan
from virtflash.server import Options, Served, Server, ServerError, default_serial
from virtflash.shared_flash import SECTOR_BYTES, SharedFlash
from virtflash.statistics_file import StatisticsError
from virtflash.vhost_user.listening_socket import SocketError, adopt_socket, bind_socket
from virtflash.vhost_user.socket_owner import OwnerError, SocketOwner
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.limits import VolumeLimits

Key = tuple[str | int, ...]
TROUBLE = (BackingError, OwnerError, ServerError, SocketError, StatisticsError, VolumeError, OSError)


@dataclass
class Service:
    """`configuration`: what is in force. `inherited`: listening sockets by the names of volumes, instead of paths.

    A context manager, as `Server` is.
    """

    path: Path
    configuration: Configuration
    server: Server
    inherited: dict[str, int] = field(default_factory=dict)
    made_meanwhile: list[str] = field(default_factory=list)  # volumes that an operator has made
    lock: RLock = field(default_factory=RLock)
    gate: PlatformGate = field(init=False)
    on_change: Callable[[], None] | None = None  # volumes have come or gone, or rules of health have changed

    def __post_init__(self) -> None:
        self.gate = PlatformGate(self.server)

    @classmethod
    def create(cls, path: Path, configuration: Configuration, inherited: dict[str, int] | None = None) -> Self:
        """Open everything that can fail, before anything is served. ConfigurationError: a line of what is in the way,
        with the key that asks for it."""
        section = configuration.server
        options = Options(
            reactors=section.reactors,
            io=section.io,
            statistics=None if section.statistics is None else path.parent / section.statistics,
        )
        service = cls(path, configuration, Server(options), inherited or {})
        try:
            service._open()
        except BaseException:
            service.server.close()
            raise
        return service

    def _open(self) -> None:
        with self.blaming(("server",)):
            self.server.name_statistics([self.place(flash.path) for flash in self.configuration.flash.values()])
            self.server.start_reactors(len(self.configuration.flash))
        for number, name in enumerate(self.configuration.flash):
            with self.blaming(("flash", name)):
                self._open_flash(name, number)
        for name, volume in self.configuration.volume.items():
            self.add(name, volume)
        for flash in self.server.flashes.values():
            self._name_strangers(flash)

    def _open_flash(self, name: str, number: int) -> None:
        section = self.configuration.flash[name]
        flash = SharedFlash.open(name, section, self.place(section.path))
        self.server.flashes[name] = flash
        if section.capacity is not None and section.capacity != flash.backing.capacity_sectors * SECTOR_BYTES:
            raise BackingError(
                f"capacity is {section.capacity} bytes, and {section.path} has"
                f" {flash.backing.capacity_sectors * SECTOR_BYTES}; name the right image, or its capacity"
            )
        flash.own(self.server.reactors[number % len(self.server.reactors)])

    def _name_strangers(self, flash: SharedFlash) -> None:
        for volume in flash.pool.volumes:
            if self.server.find(volume.name) is None:
                flash.log.warning("volume %s is on the flash and not in the configuration: not served", volume.name)

    # Volumes

    def add(self, name: str, volume: Volume) -> Served:
        """Make it, if it is not there, and serve it. ConfigurationError."""
        with self.lock, self.blaming(("volume", name)):
            return self._add(name, volume)

    def _add(self, name: str, volume: Volume) -> Served:
        """One of TROUBLE: it is not served then."""
        flash = self.server.flashes[volume.flash]
        owner = None if volume.owner is None else SocketOwner.named(volume.owner)
        if self.server.find(name) is not None:
            raise VolumeError(f"volume {name} is served already")
        flash.make(name, volume)
        self._tell_of_change()
        try:
            return self._serve(name, volume, flash, owner)
        except BaseException:
            flash.release(name)
            raise

    def _tell_of_change(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _serve(self, name: str, volume: Volume, flash: SharedFlash, owner: SocketOwner | None) -> Served:
        assert flash.reactor is not None
        serial = default_serial(name) if volume.serial is None else volume.serial
        allowance = flash.limit(name, limits_of(volume))
        export = Export(
            name,
            flash.volume_backing(name),
            BlkOptions(serial.encode(), volume.queues),
            [flash.reactor],
            allowance,
            critical=volume.priority == "critical",
        )
        with self.gate.admitting(export, flash):
            served = self._open_door(export, volume, flash, owner)
        self.give_socket(served, owner)
        return served

    def _open_door(self, export: Export, volume: Volume, flash: SharedFlash, owner: SocketOwner | None) -> Served:
        assert flash.reactor is not None
        if export.name in self.inherited:
            listening = adopt_socket(os.dup(self.inherited[export.name]))
            return self.server.serve(export, listening, flash.reactor, owner=owner, flash=flash)
        path = self.place(volume.socket)
        path.parent.mkdir(parents=True, exist_ok=True)
        listening = bind_socket(path, int(volume.mode, 8))
        return self.server.serve(export, listening, flash.reactor, socket_path=path, owner=owner, flash=flash)

    def give_socket(self, served: Served, owner: SocketOwner | None) -> None:
        """Its file becomes the owner's. Without the right to do so, its mode has to let him in."""
        if owner is None or served.socket_path is None:
            return
        try:
            owner.take(served.socket_path)
        except PermissionError:
            served.export.log.warning(
                "the socket cannot be given to %s by user %d: he can connect only as far as its mode lets him",
                owner.name,
                os.geteuid(),
            )

    def make(self, name: str, volume: Volume) -> Served:
        """A volume that no file names, until the server ends. One of TROUBLE: no new volume is left of it then."""
        with self.lock:
            flash = self.server.flashes[volume.flash]
            if self.server.find(name) is None and flash.holds(name):
                raise VolumeError(
                    f"volume {name} is on the flash, with what it holds, and not served; to serve it write it into the"
                    " configuration and reload, or delete it"
                )
            try:
                served = self._add(name, volume)
            except TROUBLE:
                if self.server.find(name) is None and flash.holds(name):
                    flash.delete(name)
                raise
            self.made_meanwhile.append(name)
            self._note(name, volume)
            return served

    def delete(self, name: str, *, secure: bool | None = None) -> None:
        """Its machine is cut off, and what it held is erased; also of one that is not served. VolumeError, OSError."""
        with self.lock:
            served = self.server.find(name)
            holders = [flash for flash in self.server.flashes.values() if flash.holds(name)]
            flash = served.flash if served is not None else next(iter(holders), None)
            if flash is None:
                names = ", ".join(other.export.name for other in self.server.served) or "none"
                raise VolumeError(f"there is no volume {name!r}; there are: {names}")
            flash.check_writable()  # before its machine is cut off for nothing
            if served is not None:
                self.server.stop_serving(served)
            flash.delete(name, secure=secure)
            self._tell_of_change()
            self._note(name, None)
            self.made_meanwhile = [other for other in self.made_meanwhile if other != name]

    def _note(self, name: str, volume: Volume | None) -> None:
        """What is in force has changed. None: it is no more."""
        volumes = {other: section for other, section in self.configuration.volume.items() if other != name}
        if volume is not None:
            volumes[name] = volume
        self.configuration = structs.replace(self.configuration, volume=volumes)

    def remove(self, name: str) -> None:
        """Serve it no more. Its data stays."""
        with self.lock:
            served = self.server.find(name)
            if served is not None:
                self.server.stop_serving(served)

    def grow(self, name: str, size: int) -> None:
        """Bytes; its guest is told. VolumeError, OSError."""
        with self.lock:
            served = self.server.find(name)
            if served is None or served.flash is None:
                raise VolumeError(f"there is no volume {name!r} that is served")
            served.flash.grow(name, size // SECTOR_BYTES)
            if served.export.grown():
                served.door.announce_config_change()
            if name in self.configuration.volume:
                self._note(name, structs.replace(self.configuration.volume[name], size=Size(size)))

    # The file, read again

    def reload(self) -> tuple[list[str], list[str]]:
        """What was applied and what was not, in words. A file with mistakes changes nothing: ConfigurationError."""
        with self.lock:
            new = read_configuration(self.path)
            made = plan(self.configuration, new, made_meanwhile=self.made_meanwhile)
            applied: list[str] = []
            steps: list[tuple[str, Callable[[], None]]] = [
                *((f"[volume.{name}]: served no more", partial(self._drop, name)) for name in made.removed),
                *((change.text, partial(self._apply, change, new)) for change in made.changes),
                *((f"[volume.{name}]: served", partial(self._take, name, made.added[name])) for name in made.added),
            ]
            if made.has_other_rules:
                steps.append(("[health]: its rules", partial(self._take_rules, new)))
            for text, step in steps:
                self._try(applied, made.refused, text, step)
            self.server.log.info("the configuration was read again: %s", reload_summary(applied, made.refused))
            return applied, made.refused

    def _try(self, applied: list[str], refused: list[str], text: str, change: Callable[[], object]) -> None:
        """One that cannot be made keeps nobody from the others."""
        try:
            change()
            applied.append(text)
        except ConfigurationError as error:
            refused.extend(error.problems)
        except TROUBLE as error:
            refused.append(f"{text}: {in_words(error)}")

    def _take_rules(self, new: Configuration) -> None:
        self.configuration = structs.replace(self.configuration, health=new.health)
        self._tell_of_change()

    def _take(self, name: str, volume: Volume) -> None:
        self.add(name, volume)
        self._note(name, volume)

    def _drop(self, name: str) -> None:
        served = self.server.find(name)
        if served is not None and served.door.peer is not None:
            raise VolumeError("its machine is connected; stop that first")
        self.remove(name)
        self._note(name, None)

    def _apply(self, change: Change, new: Configuration) -> None:
        """One key becomes what the file says."""
        if change.section[0] == "server":
            set_log_level(change.new)
            self.configuration = structs.replace(self.configuration, server=new.server)
            return
        name = change.section[1]
        if change.section[0] == "flash":
            flash = self.server.flashes[name]
            flash.storage.target.age(0, change.new)
            sections = {**self.configuration.flash, name: new.flash[name]}
            self.configuration = structs.replace(self.configuration, flash=sections)
            return
        volume = structs.replace(self.configuration.volume[name], **{change.key: change.new})
        self._apply_to_volume(name, change.key, volume)
        self._note(name, volume)

    def _apply_to_volume(self, name: str, key: str, volume: Volume) -> None:
        served = self.server.find(name)
        if served is None or served.flash is None:
            raise VolumeError("it is not served")
        if key in LIMITS:
            # The others stay: an operator may have changed them.
            served.flash.limit(name, replace(served.flash.limits[name], **{key: getattr(volume, key)}))
        elif key == "size":
            self.grow(name, volume.size)
        elif key == "secure_delete":
            served.flash.check_writable()
            served.flash.pool.mark(name, secure_delete=volume.secure_delete)
        else:
            served.door.owner = None if volume.owner is None else SocketOwner.named(volume.owner)
            if served.socket_path is not None:
                served.socket_path.chmod(int(volume.mode, 8))
            self.give_socket(served, served.door.owner)

    # Where, and who is to blame

    def place(self, path: str) -> Path:
        """What a path in the configuration means: relative ones are so to its directory."""
        return self.path.parent / path

    @contextmanager
    def blaming(self, key: Key) -> Iterator[None]:
        """Whatever is in the way becomes a line that names the key of the configuration. ConfigurationError."""
        try:
            yield
        except TROUBLE as error:
            raise ConfigurationError([complaint(self.path, key, in_words(error))]) from error

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.gate.settle()
        self.server.close()


def in_words(error: Exception) -> str:
    """Of one of TROUBLE, without a number."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def reload_summary(applied: list[str], refused: list[str]) -> str:
    return "; ".join([*(f"applied {text}" for text in applied), *(f"not applied {text}" for text in refused)]) or (
        "nothing has changed"
    )


def limits_of(volume: Volume) -> VolumeLimits:
    """What a configuration says of them."""
    return VolumeLimits(
        iops=volume.iops,
        iops_burst=volume.iops_burst,
        bandwidth=volume.bandwidth,
        bandwidth_burst=volume.bandwidth_burst,
        wear_budget=volume.wear_budget,
        wear_burst=volume.wear_burst,
        when_spent=volume.when_spent,
    )
