"""A flash of a configuration, open: its image, its table of volumes, the reactor that owns it, and its keeper.

Volumes are made, grown and deleted through it while others are served; all of its calls may come from any thread, and
those that change something wait for each other.
"""

from contextlib import ExitStack
from pathlib import Path

from virtflash.backing import Backing, open_flash
from virtflash.backing.emulated_flash import EmulatedStorage, describe_changes
from virtflash.backing.flash_keeper import FlashKeeper
from virtflash.config import Flash
from virtflash.config import Volume as VolumeSection
from virtflash.engine import Reactor
from virtflash.logs import Log
from virtflash.volumes.blankness import maps_nothing
from virtflash.volumes.pool import Pool
from virtflash.volumes.table import Volume
from virtflash.volumes.volume_target import VolumeTarget
from virtflash.volumes.window import pieces_of

SECTOR_BYTES = 512
GRANULE_KIB = 512  # of what is no eMMC, which has erase groups


class SharedFlash:
    """Use `open`. `storage`: what is emulated; `pool`: its volumes."""

    def __init__(self, name: str, section: Flash, backing: Backing, storage: EmulatedStorage, pool: Pool) -> None:
        self.name, self.section, self.backing, self.storage, self.pool = name, section, backing, storage, pool
        self.log = Log(name)
        self.reactor: Reactor | None = None
        self.keeper = FlashKeeper(storage, self.log)
        self._targets: dict[str, VolumeTarget] = {}

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
            undo.pop_all()
        return cls(name, section, backing, storage, pool)

    def own(self, reactor: Reactor) -> None:
        """From now on it is this reactor's, until it is closed."""
        self.reactor = reactor
        self.storage.target.owner = reactor.run
        self.log.info("%s", self.storage.story())

    @property
    def read_only(self) -> bool:
        return self.backing.read_only

    def make(self, name: str, section: VolumeSection) -> Volume:
        """What a configuration says of a volume becomes true: it is made, grown, or marked. VolumeError, OSError."""
        sectors = section.size // SECTOR_BYTES
        known = {volume.name: volume for volume in self.pool.volumes}
        if name not in known:
            volume = self.pool.create(name, sectors, read_only=section.read_only, secure_delete=section.secure_delete)
            self.log.info("volume %s made: %d bytes", name, section.size)
            return volume
        volume = known[name]
        if sectors != volume.sectors:
            volume = self.pool.grow(name, sectors)
            self.log.info("volume %s has %d bytes now", name, section.size)
        if (volume.read_only, volume.secure_delete) != (section.read_only, section.secure_delete):
            volume = self.pool.mark(name, read_only=section.read_only, secure_delete=section.secure_delete)
        return volume

    def volume_backing(self, name: str) -> Backing:
        """A volume that is there, as what an export serves. VolumeError."""
        volume = self.pool.find(name)
        target = VolumeTarget(self.storage.target, self._pieces(volume))
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
        volume = self.pool.grow(name, sectors)
        if name in self._targets:
            self._targets[name].extend(self._pieces(volume))

    def delete(self, name: str, *, secure: bool | None = None) -> None:
        """Nobody serves it any more. VolumeError, OSError."""
        self.pool.delete(name, secure=secure)

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
    part = storage.profile.emmc
    return Pool.open(
        storage.target,
        identity=storage.chip.superblock.uuid,
        granule_bytes=(GRANULE_KIB if part is None else part.erase_group_kib) * 1024,
        read_only=read_only,
        is_blank=lambda: maps_nothing(storage.target),
    )
