"""A flash of a configuration, open: its image, its table of volumes, the reactor that owns it, and its keeper.

Volumes are made, grown and deleted through it while others are served; all of its calls may come from any thread, and
those that change something wait for each other.
"""

from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

from virtflash.backing import Backing, open_flash
from virtflash.backing.emulated_flash import EmulatedStorage, describe_changes
from virtflash.backing.flash_keeper import FlashKeeper
from virtflash.black_box import BlackBox
from virtflash.config import Flash
from virtflash.config import Volume as VolumeSection
from virtflash.engine import Reactor
from virtflash.engine.allowance import Allowance
from virtflash.logs import Log
from virtflash.volumes.blankness import maps_nothing
from virtflash.volumes.budget_ledger import BudgetLedger
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.limits import VolumeLimits
from virtflash.volumes.pool import Pool
from virtflash.volumes.table import VOLUMES_MOST, Volume
from virtflash.volumes.volume_target import VolumeTarget
from virtflash.volumes.window import pieces_of

SECTOR_BYTES = 512
REFRESH_AT_ONCE = 32  # blocks that the flash takes advice about in a call
GRANULE_KIB = 512  # of what is no eMMC, which has erase groups


class SharedFlash:
    """Use `open`. `storage`: what is emulated; `pool`: its volumes."""

    def __init__(self, name: str, section: Flash, backing: Backing, storage: EmulatedStorage, pool: Pool) -> None:
        self.name, self.section, self.backing, self.storage, self.pool = name, section, backing, storage, pool
        self.log = Log(name)
        self.reactor: Reactor | None = None
        self.keeper = FlashKeeper(storage, self.log)
        self.ledger = BudgetLedger(storage.target, pool.granule_sectors, self.log)
        self.black_box = BlackBox(name, storage.target, self.log, lambda other: other == name or self.holds(other))
        self.allowances: dict[str, Allowance] = {}  # of the volumes that are served
        self.limits: dict[str, VolumeLimits] = {}
        self._targets: dict[str, VolumeTarget] = {}
        self._owners: dict[UUID, int] = {}
        self._counted_from: dict[UUID, int] = {}  # a number may have been another volume's before
        self.writable = True  # as the platform has it
        self.name_owners()

    @classmethod
    def open(cls, name: str, section: Flash, path: Path) -> "SharedFlash":
        """The image at `path`. BackingError, VolumeError, OSError: one line."""
        with ExitStack() as undo:
            backing = open_flash(
                path,
                host_sync=section.host_sync,
                timing="real" if section.timing == "real" else None,
                temperature=section.temperature,
            )
            undo.callback(backing.close)
            assert backing.flash is not None
            storage = backing.flash
            pool = open_pool(storage, read_only=backing.read_only)
            flash = cls(name, section, backing, storage, pool)
            undo.pop_all()
        return flash

    def own(self, reactor: Reactor) -> None:
        """From now on it is this reactor's, until it is closed."""
        self.reactor = reactor
        self.storage.target.owner = reactor.run
        self.log.info("%s", self.storage.story())

    def start(self) -> None:
        """It is looked after from now on."""
        self.keeper.start()
        self.ledger.start()
        if not self.read_only and self.pool.has_room_for_log:
            self.black_box.start(self.pool.granule_sectors, self.storage.story())

    def stop(self) -> None:
        """While its reactor still runs, and nobody uses it any more."""
        self.keeper.stop()
        self.ledger.stop()
        self.ledger.close(noted=self._may_be_noted_on)
        self.black_box.stop()

    def name_owners(self) -> None:
        """Tell the flash whose each granule is: by that it counts what is programmed for whom, and, where it is to,
        keeps their data apart."""
        volumes = self.pool.table.volumes
        self._owners = {uuid: owner for uuid, owner in self._owners.items() if any(v.uuid == uuid for v in volumes)}
        free = (number for number in range(1, VOLUMES_MOST + 1) if number not in self._owners.values())
        granules = bytearray(self.storage.target.user_sectors // self.pool.granule_sectors)
        for volume in volumes:
            if volume.uuid not in self._owners:
                self._owners[volume.uuid] = next(free)
                self._counted_from[volume.uuid] = self.storage.target.programmed(self._owners[volume.uuid])
            owner = self._owners[volume.uuid]
            for extent in volume.extents:
                granules[extent.first : extent.end] = bytes([owner]) * extent.count
        try:
            self.storage.target.set_owners(
                self.pool.granule_sectors, bytes(granules), isolated=self.section.isolation == "blocks"
            )
        except ValueError as error:
            raise VolumeError(f"its data cannot be kept apart by erase blocks: {error}") from error

    def _name_new_owner(self, name: str) -> None:
        """A volume that the flash cannot keep apart goes again: the flash could not be opened with it."""
        try:
            self.name_owners()
        except VolumeError:
            self.pool.delete(name)
            self.name_owners()
            raise

    def programmed(self, name: str) -> int:
        """Bytes of flash for a volume, since the flash was opened. VolumeError."""
        uuid = self.pool.find(name).uuid
        return self.storage.target.programmed(self._owners[uuid]) - self._counted_from[uuid]

    @property
    def background(self) -> bool:
        """May it collect, level, refresh and be looked after for its own sake?"""
        return self.storage.target.background

    @background.setter
    def background(self, allowed: bool) -> None:
        self.storage.target.background = allowed

    @property
    def frozen(self) -> bool:
        """May not even what was accepted be written? It is lost then if the server ends."""
        return self.storage.frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self.storage.frozen = value

    def is_unstable(self, name: str) -> bool:
        """Would a flush of a volume have to program something? What only waits for the host's disk is synced first.
        VolumeError: it is gone. OSError."""
        self.storage.target.sync()
        owner = self._owners.get(self.pool.find(name).uuid)
        if owner is None:
            raise VolumeError(f"volume {name} is being deleted")
        return self.storage.target.unstable(owner)

    @property
    def _may_be_noted_on(self) -> bool:
        """What nobody waits for, as the black box."""
        return self.writable and not self.frozen

    def check_writable(self) -> None:
        """VolumeError: the state of the platform does not let it be written for the sake of an operator: such changes
        flush all that the flash has accepted, of a frozen volume too."""
        if not self._may_be_noted_on:
            raise VolumeError(f"flash {self.name} may not be written now: see the states of its volumes")

    @property
    def read_only(self) -> bool:
        return self.backing.read_only

    def make(self, name: str, section: VolumeSection) -> Volume:
        """What a configuration says of a volume becomes true: it is made, grown, or marked. VolumeError, OSError."""
        sectors = section.size // SECTOR_BYTES
        known = {volume.name: volume for volume in self.pool.volumes}
        if name not in known:
            self.check_writable()
            volume = self.pool.create(name, sectors, read_only=section.read_only, secure_delete=section.secure_delete)
            self._name_new_owner(name)
            self.log.info("volume %s made: %d bytes", name, section.size)
            return volume
        volume = known[name]
        if sectors < volume.sectors:
            self.log.warning(
                "volume %s has %d bytes, and %d are configured: it keeps what it has, since volumes never shrink",
                name,
                volume.sectors * SECTOR_BYTES,
                section.size,
            )
        elif sectors > volume.sectors:
            self.check_writable()
            volume = self.pool.grow(name, sectors)
            self.name_owners()
            self.log.info("volume %s has %d bytes now", name, section.size)
        if (volume.read_only, volume.secure_delete) != (section.read_only, section.secure_delete):
            self.check_writable()
            volume = self.pool.mark(name, read_only=section.read_only, secure_delete=section.secure_delete)
        return volume

    def volume_backing(self, name: str) -> Backing:
        """A volume that is there, as what an export serves. VolumeError."""
        volume = self.pool.find(name)
        target = VolumeTarget(self.storage.target, self._pieces(volume), self._owners[volume.uuid])
        self._targets[name] = target
        backing = Backing(
            description=f"volume {name} of {self.backing.description}",
            fd=-1,
            capacity_sectors=volume.sectors,
            read_only=volume.read_only or self.read_only,
            physical_block_bytes=self.backing.physical_block_bytes,
            optimal_io_bytes=self.backing.optimal_io_bytes,
            lifetime=self.backing.lifetime,
            target=target,
            measure=lambda: self.pool.find(name).sectors * SECTOR_BYTES,
        )
        if not backing.read_only:
            describe_changes(backing, self.storage.target.unit_bytes // SECTOR_BYTES)
        return backing

    def grow(self, name: str, sectors: int) -> None:
        """While it is served. Its guest is told by whoever serves it. VolumeError, OSError."""
        self.check_writable()
        volume = self.pool.grow(name, sectors)
        self.name_owners()
        if name in self._targets:
            self._targets[name].extend(self._pieces(volume))

    def holds(self, name: str) -> bool:
        """Is there such a volume, or what is left of one whose erasure failed?"""
        return any(volume.name == name for volume in self.pool.table.volumes)

    def delete(self, name: str, *, secure: bool | None = None) -> None:
        """Nobody serves it any more. VolumeError, OSError."""
        self.check_writable()
        known = {volume.name: volume.uuid for volume in self.pool.table.volumes}
        self.pool.delete(name, secure=secure)
        self.name_owners()
        self.ledger.close_account(known[name], forget=True)

    def limit(self, name: str, limits: VolumeLimits) -> Allowance:
        """What a volume may take from now on; while it is served, too. VolumeError."""
        uuid = self.pool.find(name).uuid
        allowance = self.allowances.get(name)
        if allowance is None:
            allowance = self.allowances[name] = Allowance(slack=self.storage.target.cache_bytes)
        programmed = self.storage.target.programmed(self._owners[uuid])
        limits.apply(allowance, ledger_fd=self.ledger.fd, programmed=programmed)
        self.limits[name] = limits
        if limits.wear_rate > 0:
            self.ledger.open_account(uuid, allowance, limits.wear_rate)
        else:
            self.ledger.close_account(uuid)
        return allowance

    def refresh(self, hours: float | None) -> int:
        """Write data anew that is older, as heat has made it count; None: what the patrol finds too old. Returns how
        many blocks will be, when nothing else is to be done. OSError."""
        if hours is None:
            return self.keeper.refresh_now()
        from virtflash.ftl.judgement import older_than  # noqa: PLC0415

        table, _ = self.storage.translation.snapshot()
        blocks = older_than(table, self.storage.translation.hours, hours)
        for first in range(0, len(blocks), REFRESH_AT_ONCE):
            self.storage.target.care(refresh=blocks[first : first + REFRESH_AT_ONCE])
        return len(blocks)

    def release(self, name: str) -> None:
        """It is served no more."""
        self._targets.pop(name, None)
        self.limits.pop(name, None)
        if self.allowances.pop(name, None) is not None:
            self.ledger.close_account(self.pool.find(name).uuid, noted=self._may_be_noted_on)

    def _pieces(self, volume: Volume) -> list[tuple[int, int]]:
        return pieces_of(volume, self.pool.granule_sectors)

    def close(self) -> None:
        """The reactor has ended. What could not be kept is logged: nobody can do anything about it now."""
        try:
            self.backing.close()
        except OSError as error:
            self.log.error("what was written could not be kept: %s", error)


def open_pool(storage: EmulatedStorage, *, read_only: bool = False) -> Pool:
    """The volumes of an image. VolumeError, OSError."""
    return Pool.open(
        storage.target,
        identity=storage.chip.superblock.uuid,
        granule_bytes=granule_bytes(storage),
        read_only=read_only,
        is_blank=lambda: maps_nothing(storage.target),
    )


def granule_bytes(storage: EmulatedStorage) -> int:
    """Of which an image's volumes are made."""
    part = storage.profile.emmc
    return (GRANULE_KIB if part is None else part.erase_group_kib) * 1024
