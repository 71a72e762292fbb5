"""A flash carved into volumes: who makes, grows and deletes them, and in which order, so that a power cut at any moment
leaves the table before or the table after.

* **Create, grow**: the granules that are to be taken are erased and flushed, then the table names them. By the table
  they are free, so nothing is lost when it is cut in between; and they are erased here although whoever gave them up
  has erased them already: that no owner sees another's bytes depends on these few lines, and on no history.
* **Delete**: the table says that the volume is being erased; its granules are erased, securely where that was asked,
  and flushed; the entry goes. Whoever opens the flash after a cut in between finishes it.
* Where a change fails (OSError) nobody knows which of the two tables is in force: the flash is asked before the next.

One process has the flash, by the lock on its image. Any thread may call; changes wait for each other, and what is read
(`volumes`, `find`) is the table in force, which never changes in part.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import RLock
from typing import Self
from uuid import uuid4

from virtflash.backing.flash_target import SECURE_ERASE, UNMAP_ZEROES
from virtflash.logs import Log
from virtflash.volumes.blankness import reads_as_zeroes
from virtflash.volumes.copies import Copies, granule_found
from virtflash.volumes.errors import ForeignTableError, NoTableError, VolumeError
from virtflash.volumes.event_log import log_room
from virtflash.volumes.extents import Extent, allocated, extended, free_extents, granules_in
from virtflash.volumes.flash import SECTOR_BYTES, Flash
from virtflash.volumes.table import (
    COPIES,
    NAME,
    NO_FLAGS,
    VOLUMES_MOST,
    Flags,
    State,
    Table,
    Volume,
    granules_for,
    table_bytes,
)
from virtflash.volumes.wear_record import record_room
from virtflash.volumes.window import Window

IDENTITY_BYTES = 16


class Pool:
    """Use `open` or `format`. `table`: the one in force."""

    def __init__(self, flash: Flash, table: Table, *, read_only: bool = False) -> None:
        self.flash, self.table, self.read_only = flash, table, read_only
        self._copies = Copies(flash, table.granule_sectors)
        self._lock = RLock()
        self._doubtful = False  # is another table on the flash, or only one copy of it?
        self._log = Log("volumes")

    # Beginning

    @classmethod
    def open(
        cls,
        flash: Flash,
        *,
        identity: bytes,
        granule_bytes: int,
        overwrite: bool = False,
        read_only: bool = False,
        is_blank: Callable[[], bool] | None = None,
    ) -> Self:
        """The volumes of a flash. A blank one is formatted; what a cut had interrupted is finished.

        identity: 16 bytes, of the flash (an image's UUID, an eMMC's CID). granule_bytes: of an erase group, for ever
        the same, a multiple of the mapping unit. overwrite: a flash that holds other data, and no table, is formatted
        too; a table is never overwritten, not even a damaged one (`format` does). read_only: nothing is changed.
        is_blank: as `blankness.maps_nothing`; None: all of it is read.

        VolumeError: no table is to be trusted, or it is of another flash, or of other granules. OSError.
        """
        empty = empty_table(flash, identity, granule_bytes)
        try:
            table = Copies(flash, empty.granule_sectors).newest()
        except NoTableError:
            refuse_to_format(flash, is_blank or (lambda: reads_as_zeroes(flash)), overwrite, read_only)
            return cls.format(flash, identity=identity, granule_bytes=granule_bytes)
        refuse_another(table, empty)
        pool = cls(flash, table, read_only=read_only)
        if not read_only:
            pool._recover()
        return pool

    @classmethod
    def format(cls, flash: Flash, *, identity: bytes, granule_bytes: int) -> Self:
        """Begin anew, whatever is there: all of the user area is erased, not securely. VolumeError, OSError."""
        table = empty_table(flash, identity, granule_bytes)
        copies = Copies(flash, table.granule_sectors)
        # The old table first: if this is cut, it shall not stand for volumes that have holes.
        for first in (copies.position(0), 0):
            flash.change(UNMAP_ZEROES, first, flash.user_sectors - first)
            flash.flush()
        copies.write(table)
        return cls(flash, table)

    def _recover(self) -> None:
        """After a cut, or damage: make the copies alike, finish deletions. What cannot be done now is said, and keeps
        nobody from the volumes that are there: a flash at the end of its life is still read."""
        try:
            if self._copies.repair(self.table):
                self._log.warning(
                    "a copy of the table of volumes was written anew: a change was cut, or it was damaged"
                )
        except OSError as error:
            self._doubtful = True
            self._log.warning("a copy of the table of volumes cannot be written anew: %s", error.strerror)
            return
        for volume in self.being_erased:
            try:
                self.delete(volume.name)
            except OSError as error:
                self._log.warning("volume %s is deleted and cannot be erased: %s", volume.name, error.strerror)

    # What there is

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(volume for volume in self.table.volumes if volume.state is State.LIVE)

    @property
    def being_erased(self) -> tuple[Volume, ...]:
        """Deleted, and could not be erased yet: their space is not free. `delete` tries again."""
        return tuple(volume for volume in self.table.volumes if volume.state is State.ERASING)

    @property
    def granule_sectors(self) -> int:
        return self.table.granule_sectors

    @property
    def has_room_for_log(self) -> bool:
        """Not where a table lies in it that was made before there were logs, and has very many extents in granules
        that are small."""
        return log_room(self.granule_sectors) > 0 and table_bytes(self.table) <= self._table_room

    @property
    def _table_room(self) -> int:
        """Bytes of a granule that a table may take."""
        kept = record_room(self.granule_sectors) + log_room(self.granule_sectors)
        return self.granule_sectors * SECTOR_BYTES - kept

    @property
    def free_sectors(self) -> int:
        return granules_in(self._free()) * self.granule_sectors

    def find(self, name: str) -> Volume:
        """VolumeError: there is none."""
        for volume in self.volumes:
            if volume.name == name:
                return volume
        raise self._unknown(name)

    def window(self, name: str) -> Window:
        """Its sectors, read and written from here. VolumeError."""
        return Window(self.flash, self.find(name), self.granule_sectors)

    def _unknown(self, name: str) -> VolumeError:
        names = ", ".join(volume.name for volume in self.volumes) or "none"
        return VolumeError(f"there is no volume {name!r}; there are: {names}")

    def _free(self) -> tuple[Extent, ...]:
        return free_extents(self.table.taken, self.table.granules)

    # Changes

    def create(self, name: str, sectors: int, *, read_only: bool = False, secure_delete: bool = False) -> Volume:
        """A new volume, which reads as zeroes. `sectors`: what it shows; it takes whole granules.

        secure_delete: when it is deleted, no copy of its data is left. VolumeError: the name is taken or none, there is
        no room, or no room in the table; the flash is read-only. OSError.
        """
        with self._change():
            self._check_new(name, sectors)
            volume = Volume(
                name=name,
                uuid=uuid4(),
                sectors=sectors,
                extents=allocated(self._free(), granules_for(sectors, self.granule_sectors)),
                flags=marked(NO_FLAGS, read_only, secure_delete),
            )
            self._take((*self.table.volumes, volume), volume.extents)
            return volume

    def grow(self, name: str, sectors: int) -> Volume:
        """What was there stays; what is new reads as zeroes. VolumeError: it would become smaller, or see `create`."""
        with self._change():
            old = self.find(name)
            if sectors < old.sectors:
                raise VolumeError(f"volume {name} has {old.sectors} sectors and never has fewer; make another volume")
            more = granules_for(sectors, self.granule_sectors) - granules_in(old.extents)
            free = self._free()
            new = replace(old, sectors=sectors, extents=extended(old.extents, free, more) if more else old.extents)
            if new != old:
                self._take(self._with(new), added(free, new.extents))
            return new

    def delete(self, name: str, *, secure: bool | None = None) -> None:
        """Erase it, then forget it. Nobody uses it any more.

        secure: no copy is left in the medium, stale ones included; None: as it was made. VolumeError. OSError: it is
        being erased from now on, or is as it was; the next try goes on with it.
        """
        with self._change():
            volume = next((volume for volume in self.table.volumes if volume.name == name), None)
            if volume is None:
                raise self._unknown(name)
            volume = replace(volume, state=State.ERASING, flags=marked(volume.flags, None, secure))
            self._store(self._with(volume))
            self._erase(volume.extents, SECURE_ERASE if volume.secure_delete else UNMAP_ZEROES)
            self._store(tuple(other for other in self.table.volumes if other.name != name))

    def mark(self, name: str, *, read_only: bool | None = None, secure_delete: bool | None = None) -> Volume:
        """Change what a volume is; None: as it was. VolumeError, OSError."""
        with self._change():
            volume = self.find(name)
            volume = replace(volume, flags=marked(volume.flags, read_only, secure_delete))
            self._store(self._with(volume))
            return volume

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One at a time, from a table that is known to be in force."""
        if self.read_only:
            raise VolumeError("the flash was opened read-only; its volumes cannot be changed")
        with self._lock:
            if self._doubtful:
                self._ask()
            try:
                yield
            except OSError:
                self._doubtful = True
                with suppress(
                    OSError, VolumeError
                ):  # said by the error that brought us here; the next change asks again
                    self._ask()
                raise

    def _ask(self) -> None:
        """Which table is in force? From now on both copies are."""
        self.table = self._copies.newest()
        self._copies.repair(self.table)
        self._doubtful = False

    def _check_new(self, name: str, sectors: int) -> None:
        if not NAME.fullmatch(name):
            raise VolumeError(
                f"a volume cannot be named {name!r}; take up to 63 letters, digits, '_', '-', '.', and"
                " begin with one of the first two"
            )
        if taken := next((volume for volume in self.table.volumes if volume.name == name), None):
            state = "is there already" if taken.state is State.LIVE else "is still being erased: delete it again"
            raise VolumeError(f"volume {name} {state}")
        if sectors < 1:
            raise VolumeError(f"volume {name} of {sectors} sectors; it has at least one")
        if len(self.table.volumes) >= VOLUMES_MOST:
            raise VolumeError(f"there are {VOLUMES_MOST} volumes, and there is no room for another; delete one")

    def _with(self, volume: Volume) -> tuple[Volume, ...]:
        """All of them, this one in its new state."""
        return tuple(volume if other.uuid == volume.uuid else other for other in self.table.volumes)

    def _take(self, volumes: tuple[Volume, ...], extents: Iterable[Extent]) -> None:
        """Erase granules that are free, then name them in the table."""
        self._check_room(volumes)
        self._erase(extents, UNMAP_ZEROES)
        self._store(volumes)

    def _check_room(self, volumes: tuple[Volume, ...]) -> None:
        """Behind the table, the log of events and what is spent of wear budgets have their places in the same
        granule."""
        needed = table_bytes(replace(self.table, volumes=volumes))
        room = self._table_room if self.has_room_for_log else self._table_room + log_room(self.granule_sectors)
        if needed > room:
            raise VolumeError(f"the table would take {needed} bytes of {room} in a granule; delete a volume")

    def _erase(self, extents: Iterable[Extent], kind: int) -> None:
        for extent in extents:
            self.flash.change(kind, extent.first * self.granule_sectors, extent.count * self.granule_sectors)
        self.flash.flush()

    def _store(self, volumes: tuple[Volume, ...]) -> None:
        """A new table, safe when this returns; not if nothing changes."""
        if volumes != self.table.volumes:
            table = replace(self.table, generation=self.table.generation + 1, volumes=volumes)
            self._copies.write(table)
            self.table = table


def marked(flags: Flags, read_only: bool | None, secure_delete: bool | None) -> Flags:
    """None: as it was."""
    for flag, wanted in ((Flags.READ_ONLY, read_only), (Flags.SECURE_DELETE, secure_delete)):
        if wanted is not None:
            flags = flags | flag if wanted else flags & ~flag
    return flags


def added(free: Iterable[Extent], extents: Iterable[Extent]) -> list[Extent]:
    """What of these extents was free."""
    both = [
        Extent(max(one.first, other.first), min(one.end, other.end) - max(one.first, other.first))
        for one in free
        for other in extents
    ]
    return [extent for extent in both if extent.count > 0]


def empty_table(flash: Flash, identity: bytes, granule_bytes: int) -> Table:
    """VolumeError: the flash cannot be carved so."""
    if granule_bytes < 1 or granule_bytes % flash.unit_bytes:
        raise VolumeError(
            f"granules of {granule_bytes} bytes; they are a multiple of the unit, {flash.unit_bytes} bytes"
        )
    if len(identity) != IDENTITY_BYTES:
        raise VolumeError(f"an identity of {len(identity)} bytes; it has {IDENTITY_BYTES}")
    table = Table(identity=identity, capacity_sectors=flash.user_sectors, granule_sectors=granule_bytes // SECTOR_BYTES)
    if table.granules < 1:
        raise VolumeError(
            f"a flash of {flash.user_sectors} sectors has no room for volumes beside {COPIES} granules of"
            f" {granule_bytes} bytes for the table; take smaller ones, or a larger flash"
        )
    return table


def refuse_to_format(flash: Flash, is_blank: Callable[[], bool], overwrite: bool, read_only: bool) -> None:
    """There is no table in its place. VolumeError: and there shall be none."""
    if granule := granule_found(flash):
        raise ForeignTableError(
            f"the volumes were made with granules of {granule} bytes, which never change; configure that many"
        )
    if read_only:
        raise NoTableError("the flash has no volumes, and was opened read-only; open it to be written once")
    if not overwrite and not is_blank():
        raise NoTableError(
            "the flash holds data and no table of volumes; copy what is needed elsewhere, then format it, which"
            " erases everything"
        )


def refuse_another(table: Table, expected: Table) -> None:
    if table.granule_sectors != expected.granule_sectors:
        raise ForeignTableError(
            f"the volumes were made with granules of {table.granule_sectors * SECTOR_BYTES} bytes, which never change;"
            " configure that many"
        )
    if table.capacity_sectors != expected.capacity_sectors:
        raise ForeignTableError(
            f"the table of volumes is of a flash of {table.capacity_sectors} sectors, and this one has"
            f" {expected.capacity_sectors}; restore it as it was, or format it, which loses all volumes"
        )
    if table.identity != expected.identity:
        raise ForeignTableError(
            f"the table of volumes is of another flash, {table.identity.hex()}, and this one is"
            f" {expected.identity.hex()}; put the right one in, or format it, which loses all volumes"
        )
