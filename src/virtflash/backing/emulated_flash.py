"""Emulated flash as backing: an image opened, its translation layer mounted, and what stands on it.

Of an eMMC this process is also the host: it turns the cache on, and tells the device before the supply goes.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virtflash.backing.backing import SECTOR_BYTES, Backing, BackingError
from virtflash.backing.regular_file import MEMORY_FILE_SYSTEMS, file_system_type

if TYPE_CHECKING:
    from virtflash.backing.emmc import Emmc
    from virtflash.backing.flash_target import FlashTarget
    from virtflash.flash.emulated import EmulatedFlash
    from virtflash.flash.profile_sections import Profile
    from virtflash.ftl.translation import Translation

UNIT_BYTES = 4096
MAX_CHANGE_SECTORS = 1 << 23  # of a discard or an erase, 4 GiB: they are done in parts
MAX_WRITE_ZEROES_SECTORS = 1 << 18
CACHE_CTRL, POWER_OFF_NOTIFICATION = 33, 34  # bytes of EXT_CSD
POWERED_ON, POWER_OFF_LONG = 1, 3


@dataclass
class EmulatedStorage:
    """All that was opened of one image. `emmc`: where it is one. `frozen`: nothing is to be written, not at its end."""

    chip: "EmulatedFlash"
    profile: "Profile"
    translation: "Translation"
    target: "FlashTarget"
    emmc: "Emmc | None" = None
    read_only: bool = False
    frozen: bool = False
    supply_volts: float = 3.3  # what the emulated supply gives
    aged: float = field(default_factory=time.monotonic)  # up to when

    def story(self) -> str:
        """What it is and how it was found, in a line."""
        if self.translation.clean:
            return f"{self.profile.part.name}, as it was left"
        causes = {"process": "its server was killed", "host": "the host crashed"}
        cause = causes.get(self.chip.crashed, "it was cut off")
        return f"{self.profile.part.name}, recovered: {cause}; {self.translation.replayed_frames} frames were replayed"

    def statistics(self) -> dict[str, Any]:
        """Counters of the device, the translation layer and the chip, as JSON can say them. Any thread may ask."""
        pre_eol, type_a, type_b = self.target.lifetime()
        return {
            "profile": self.profile.part.name,
            "kind": self.profile.part.kind,
            "lifetime": {"pre_eol_info": pre_eol, "estimate_a": type_a, "estimate_b": type_b},
            "condition": self.target.condition(),
            "device": self.target.counters(),
            "translation": self.target.translation_counters(),
            "chip": self.chip.counters(),
        }

    @property
    def blocks(self) -> int:
        return int(self.chip.superblock.blocks)

    @property
    def frames(self) -> int:
        """That the device can hold."""
        return self.blocks * self.translation.block_units // self.translation.units_of_frame

    def age(self) -> None:
        """The device becomes as much older as time has passed."""
        if not self.read_only:
            now = time.monotonic()
            self.target.age(now - self.aged)
            self.aged = now

    def close(self) -> None:
        """In order: what was written is safe, the next start has nothing to do, and the device is as much older as it
        was open. Nobody owns the flash any more.

        Frozen, nothing is written: it is as if the power had gone. OSError: what the cache held could not be saved.
        """
        self.target.owner = None
        try:
            if self.frozen:
                return
            if self.emmc is not None and not self.read_only:
                self.emmc.switch(POWER_OFF_NOTIFICATION, POWER_OFF_LONG)
            else:
                self.target.tidy()
            self.age()
        finally:
            self.chip.close()


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Whatever is wrong with an image, as one line that names it."""
    from virtflash.backing.emmc import EmmcError  # noqa: PLC0415
    from virtflash.backing.emmc.layout import LayoutError  # noqa: PLC0415
    from virtflash.backing.emmc.registers import RegistersError  # noqa: PLC0415
    from virtflash.flash.image import ImageError  # noqa: PLC0415
    from virtflash.flash.profiles import ProfileError  # noqa: PLC0415
    from virtflash.ftl.translation import TranslationError  # noqa: PLC0415

    try:
        yield
    except (ImageError, ProfileError) as error:
        raise BackingError(str(error)) from error
    except (TranslationError, LayoutError, RegistersError, EmmcError) as error:
        raise BackingError(f"{path}: {error}") from error
    except OSError as error:
        raise BackingError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise BackingError(f"{path}: not enough memory for a device of its size") from error


def create_flash(
    path: Path,
    profile: "str | Path | Profile",
    *,
    capacity_bytes: int | None = None,
    over_provisioning: float | None = None,
    seed: int | None = None,
) -> None:
    """A new image that can be opened: the chip, and a formatted translation layer.

    capacity_bytes: what guests will see; None: what a part of fixed size holds. over_provisioning: percent; None: the
    profile's. BackingError: no such device can be, or the file cannot be made.
    """
    from virtflash.flash.profiles import load_profile  # noqa: PLC0415

    with refusals(path):
        part = profile if not isinstance(profile, str | Path) else load_profile(profile)
        total = total_capacity(path, part, capacity_bytes, over_provisioning)
        make_image(path, part, total, over_provisioning, seed)


def total_capacity(path: Path, part: "Profile", capacity_bytes: int | None, over_provisioning: float | None) -> int:
    """Bytes that the translation layer exports, with what an eMMC keeps behind the user area."""
    from virtflash.backing.emmc.layout import total_bytes  # noqa: PLC0415

    if capacity_bytes is None:
        capacity_bytes = capacity_of_part(path, part, over_provisioning)
    if capacity_bytes <= 0 or capacity_bytes % UNIT_BYTES:
        raise BackingError(f"{path}: a capacity of {capacity_bytes} bytes; it has to be a multiple of {UNIT_BYTES}")
    return capacity_bytes if part.emmc is None else total_bytes(capacity_bytes, part.emmc)


def capacity_of_part(path: Path, part: "Profile", over_provisioning: float | None) -> int:
    """The most that the blocks of a part of fixed size hold, in bytes."""
    from virtflash.ftl.sizing import ChipSizes, raw_blocks  # noqa: PLC0415

    geometry, spare = part.geometry, part.over_provisioning
    if not geometry.blocks:
        raise BackingError(f"{path}: a part of this profile comes in any size; name a capacity")
    percent = spare.default_percent if over_provisioning is None else over_provisioning
    kind = "nor" if part.part.kind == "nor" else "nand"
    sizes = ChipSizes(
        kind, geometry.page_bytes, geometry.pages_per_block, geometry.slc_page_bytes, geometry.slc_pages_per_block
    )
    least, most = 0, geometry.block_bytes * geometry.blocks // UNIT_BYTES
    while least < most:  # the largest number of units that the blocks are enough for
        middle = (least + most + 1) // 2
        if raw_blocks(middle * UNIT_BYTES, UNIT_BYTES, sizes, percent, spare.reserve_percent) <= geometry.blocks:
            least = middle
        else:
            most = middle - 1
    return least * UNIT_BYTES


def make_image(
    path: Path, part: "Profile", total_bytes: int, over_provisioning: float | None, seed: int | None
) -> None:
    """The chip in its file, formatted. Spare blocks are those of the profile, less what is bad from the factory."""
    from virtflash.flash.emulated import EmulatedFlash  # noqa: PLC0415
    from virtflash.ftl.sizing import reserve_blocks  # noqa: PLC0415
    from virtflash.ftl.translation import Translation  # noqa: PLC0415

    chip = EmulatedFlash.create(
        path,
        part,
        capacity_bytes=total_bytes,
        over_provisioning=over_provisioning,
        unit_bytes=UNIT_BYTES,
        seed=seed,
        host_sync=False,
    )
    try:
        blocks = chip.superblock.blocks
        bad = sum(chip.is_bad(block) for block in range(blocks))
        spare = max(reserve_blocks(blocks, part.over_provisioning.reserve_percent) - bad, 1)
        Translation.format(chip, total_bytes // UNIT_BYTES, unit_bytes=UNIT_BYTES, reserve_blocks=spare)
    except BaseException:
        path.unlink()
        raise
    finally:
        chip.close()


def open_storage(
    path: Path,
    *,
    read_only: bool = False,
    host_sync: bool = True,
    timing: Literal["real"] | None = None,
    temperature: float | None = None,
) -> EmulatedStorage:
    """Open and mount an image; see `open_flash`."""
    from virtflash.flash.emulated import EmulatedFlash  # noqa: PLC0415
    from virtflash.flash.profiles import parse_profile  # noqa: PLC0415

    with refusals(path), ExitStack() as undo:
        sync = host_sync and not read_only and not is_in_memory(path)
        chip = EmulatedFlash.open(path, read_only=read_only, host_sync=sync, timing=timing)
        undo.callback(chip.close)
        profile = parse_profile(chip.profile_text, str(path))
        if temperature is not None:
            chip.advance(0, temperature)
        storage = mount(chip, profile, read_only=read_only, host_sync=sync, timing=timing)
        undo.pop_all()
        return storage


def is_in_memory(path: Path) -> bool:
    """A file that a crash of the host takes with it: nothing has to be kept in order for one."""
    with path.open("rb") as file:
        return file_system_type(file.fileno()) in MEMORY_FILE_SYSTEMS


def mount(
    chip: "EmulatedFlash", profile: "Profile", *, read_only: bool, host_sync: bool, timing: str | None = None
) -> EmulatedStorage:
    """The translation layer of an image that is open, and what stands on it."""
    from virtflash.backing.emmc import Emmc  # noqa: PLC0415
    from virtflash.backing.emmc.layout import SECTORS_PER_KIB, lay_out  # noqa: PLC0415
    from virtflash.backing.flash_target import FlashTarget  # noqa: PLC0415
    from virtflash.ftl.sizing import reserve_blocks  # noqa: PLC0415
    from virtflash.ftl.translation import Translation  # noqa: PLC0415

    translation = Translation.mount(
        chip,
        chip.capacity_bytes // chip.unit_bytes,
        unit_bytes=chip.unit_bytes,
        read_only=read_only,
        host_sync=host_sync,
        reserve_blocks=reserve_blocks(chip.superblock.blocks, profile.over_provisioning.reserve_percent),
    )
    part, sectors = profile.emmc, chip.capacity_bytes // SECTOR_BYTES
    target = FlashTarget(
        translation,
        user_sectors=sectors if part is None else lay_out(sectors, part).user,
        cache_bytes=0 if part is None else part.cache_kib * 1024,
        sync_fd=chip.fd if host_sync else -1,
        bus_ns_per_kib=round(1000 * profile.timing.transfer_us_per_kib) if timing == "real" else 0,
        protection_group_sectors=0 if part is None else part.write_protect_group_kib * SECTORS_PER_KIB,
        slc_share=0.0 if part is None else part.slc_share,
        read_only=read_only,
    )
    storage = EmulatedStorage(chip, profile, translation, target, read_only=read_only)
    if part is not None:
        storage.emmc = Emmc(target, part, temperature=lambda: float(chip.counters()["celsius"]))
        storage.emmc.switch(CACHE_CTRL, int(part.cache_kib > 0))
        storage.emmc.switch(POWER_OFF_NOTIFICATION, POWERED_ON)
    return storage


def open_flash(
    path: Path,
    *,
    read_only: bool = False,
    host_sync: bool = True,
    timing: Literal["real"] | None = None,
    temperature: float | None = None,
) -> Backing:
    """Open an image of emulated flash, whatever its kind.

    host_sync: what is written is kept in an order that a crash of the host survives; needless, and left out, for images
    in memory. timing: "real": as slow as the real part. temperature: of the part, degrees Celsius, from now on.

    BackingError: it is none, damaged, in use, or cannot be mounted; one line.
    """
    storage = open_storage(path, read_only=read_only, host_sync=host_sync, timing=timing, temperature=temperature)
    target, worn = storage.target, storage.translation.read_only
    backing = Backing(
        description=str(path),
        fd=-1,
        capacity_sectors=target.user_sectors,
        read_only=read_only or worn,
        physical_block_bytes=target.unit_bytes,
        optimal_io_bytes=1 << (target.frame_bytes - 1).bit_length(),
        lifetime=True,
        target=target,
        flash=storage,
    )
    if not backing.read_only:
        describe_changes(backing, target.unit_bytes // SECTOR_BYTES)
    return backing


def describe_changes(backing: Backing, unit_sectors: int) -> None:
    backing.max_discard_sectors = backing.max_secure_erase_sectors = MAX_CHANGE_SECTORS
    backing.discard_alignment_sectors = backing.secure_erase_alignment_sectors = unit_sectors
    backing.max_write_zeroes_sectors = MAX_WRITE_ZEROES_SECTORS
    backing.unmap_zeroes = True
