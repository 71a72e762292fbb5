"""Where the areas of an eMMC lie in the units of its flash: the user's first, two boot partitions, then the registers.

The registers, 64 KiB: in the first unit EXT_CSD and what goes with it, in the others the write protection of groups.
"""

from dataclasses import dataclass

from virtflash.flash.profile_sections import Emmc as EmmcProfile

SECTOR_BYTES = 512
SECTORS_PER_KIB = 1024 // SECTOR_BYTES
REGISTER_BYTES = 65536


class LayoutError(Exception):
    """A capacity that such a device cannot have; one line."""


@dataclass(frozen=True)
class Layout:
    """In sectors."""

    user: int
    boot: int  # of each of the two
    registers: int = REGISTER_BYTES // SECTOR_BYTES

    @property
    def total(self) -> int:
        return self.user + 2 * self.boot + self.registers

    def boot_start(self, partition: int) -> int:
        """`partition`: 1 or 2."""
        return self.user + (partition - 1) * self.boot

    @property
    def registers_start(self) -> int:
        return self.user + 2 * self.boot


def boot_sectors(profile: EmmcProfile) -> int:
    return profile.boot_partition_kib * 1024 // SECTOR_BYTES


def lay_out(total_sectors: int, profile: EmmcProfile) -> Layout:
    """Of a flash with so many sectors in all."""
    boot = boot_sectors(profile)
    return Layout(total_sectors - 2 * boot - REGISTER_BYTES // SECTOR_BYTES, boot)


def total_bytes(capacity_bytes: int, profile: EmmcProfile) -> int:
    """That the flash has to hold for a user area of this size. LayoutError: no such device can be."""
    if capacity_bytes // SECTOR_BYTES > 0xFFFFFFFF:
        raise LayoutError(f"{capacity_bytes} bytes: SEC_COUNT counts up to 2 TiB; make it smaller")
    group = profile.write_protect_group_kib * 1024
    groups = -(-capacity_bytes // group)
    room = (REGISTER_BYTES - 4096) * 4
    if groups > room:
        raise LayoutError(
            f"{groups} write protection groups: there is room for {room}; make write_protect_group_kib larger"
        )
    return Layout(capacity_bytes // SECTOR_BYTES, boot_sectors(profile)).total * SECTOR_BYTES
