"""The register EXT_CSD of an eMMC (JESD84-B51, 7.4), written down once: what each byte means, when it may be written.

JEDEC's text was not at hand. Indices, values and meanings come from Linux (include/linux/mmc/mmc.h) and mmc-utils; how
a field may be written, where those do not show it, is recalled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

EXT_CSD_BYTES = 512
PROPERTIES = 192  # from here on a SWITCH never writes


class Write(Enum):
    """How bits of the register may be written, and when they lose what was written."""

    READ_ONLY = "R"
    ONE_TIME = "R/W"  # for ever
    KEPT = "R/W/E"
    POWER_CYCLE = "R/W/C_P"  # once in each power cycle
    VOLATILE = "R/W/E_P"  # reset by a power cycle, a hardware reset and CMD0
    TRIGGER = "W/E_P"  # starts something; reads as 0


@dataclass(frozen=True)
class Bits:
    mask: int
    write: Write
    allowed: tuple[int, ...] | None = None  # values of these bits; None: all


@dataclass(frozen=True)
class Field:
    """A field: `size` bytes from `index` on, little-endian. What no `Bits` name reads as it is and is never written."""

    name: str
    index: int
    size: int = 1
    bits: tuple[Bits, ...] = ()


def one(mask: int, write: Write, *allowed: int) -> tuple[Bits, ...]:
    return (Bits(mask, write, allowed or None),)


def each(write: Write, *positions: int) -> tuple[Bits, ...]:
    """Bits that are written independently of each other."""
    return tuple(Bits(1 << position, write) for position in positions)


FIELDS = (
    Field("CMDQ_MODE_EN", 15),
    Field("SECURE_REMOVAL_TYPE", 16, 1, one(0x30, Write.ONE_TIME, 0)),
    Field("BARRIER_CTRL", 31, 1, one(0x01, Write.VOLATILE)),
    Field("FLUSH_CACHE", 32, 1, one(0x03, Write.TRIGGER)),
    Field("CACHE_CTRL", 33, 1, one(0x01, Write.VOLATILE)),
    Field("POWER_OFF_NOTIFICATION", 34, 1, one(0xFF, Write.VOLATILE, 0, 1, 2, 3, 4)),
    Field("EXCEPTION_EVENTS_STATUS", 54, 2),
    Field("EXCEPTION_EVENTS_CTRL", 56, 2, one(0x01, Write.VOLATILE)),
    Field("PERIODIC_WAKEUP", 131, 1, one(0xFF, Write.KEPT)),
    Field("TCASE_SUPPORT", 132, 1, one(0xFF, Write.TRIGGER)),
    Field("PARTITIONING_SUPPORT", 160),
    Field("HPI_MGMT", 161, 1, one(0x01, Write.VOLATILE)),
    Field("RST_N_FUNCTION", 162, 1, one(0x03, Write.ONE_TIME, 1, 2)),
    Field("BKOPS_EN", 163, 1, (*one(0x01, Write.ONE_TIME), *one(0x02, Write.KEPT))),
    Field("BKOPS_START", 164, 1, one(0xFF, Write.TRIGGER)),
    Field("SANITIZE_START", 165, 1, one(0xFF, Write.TRIGGER)),
    Field("WR_REL_PARAM", 166),
    Field("WR_REL_SET", 167),
    Field("RPMB_SIZE_MULT", 168),
    Field("FW_CONFIG", 169),
    Field(
        "USER_WP",
        171,
        1,
        (*each(Write.VOLATILE, 0, 2), *each(Write.POWER_CYCLE, 3), *each(Write.ONE_TIME, 4, 6, 7)),
    ),
    Field("BOOT_WP", 173, 1, (*each(Write.POWER_CYCLE, 0, 1, 3, 6, 7), *each(Write.ONE_TIME, 2, 4))),
    Field("BOOT_WP_STATUS", 174),
    Field("ERASE_GROUP_DEF", 175, 1, one(0x01, Write.VOLATILE)),
    Field("BOOT_BUS_CONDITIONS", 177, 1, one(0x1F, Write.KEPT)),
    Field("PARTITION_CONFIG", 179, 1, (*one(0x07, Write.VOLATILE, 0, 1, 2), *one(0x78, Write.KEPT))),
    Field("ERASED_MEM_CONT", 181),
    Field("BUS_WIDTH", 183, 1, one(0x8F, Write.TRIGGER)),
    Field("HS_TIMING", 185, 1, one(0xFF, Write.VOLATILE)),
    Field("CMD_SET_REV", 189),
    Field("CMD_SET", 191, 1, one(0x07, Write.VOLATILE)),
    Field("EXT_CSD_REV", 192),
    Field("CSD_STRUCTURE", 194),
    Field("DEVICE_TYPE", 196),
    Field("OUT_OF_INTERRUPT_TIME", 198),
    Field("PARTITION_SWITCH_TIME", 199),
    Field("SECURE_WP_INFO", 211),
    Field("SEC_COUNT", 212, 4),
    Field("S_A_TIMEOUT", 217),
    Field("HC_WP_GRP_SIZE", 221),
    Field("REL_WR_SEC_C", 222),
    Field("ERASE_TIMEOUT_MULT", 223),
    Field("HC_ERASE_GRP_SIZE", 224),
    Field("ACC_SIZE", 225),
    Field("BOOT_SIZE_MULT", 226),
    Field("BOOT_INFO", 228),
    Field("SEC_TRIM_MULT", 229),
    Field("SEC_ERASE_MULT", 230),
    Field("SEC_FEATURE_SUPPORT", 231),
    Field("TRIM_MULT", 232),
    Field("CACHE_FLUSH_POLICY", 240),
    Field("INI_TIMEOUT_AP", 241),
    Field("CORRECTLY_PRG_SECTORS_NUM", 242, 4),
    Field("BKOPS_STATUS", 246),
    Field("POWER_OFF_LONG_TIME", 247),
    Field("GENERIC_CMD6_TIME", 248),
    Field("CACHE_SIZE", 249, 4),  # in kilobits
    Field("FIRMWARE_VERSION", 254, 8),
    Field("OPTIMAL_TRIM_UNIT_SIZE", 264),
    Field("OPTIMAL_WRITE_SIZE", 265),
    Field("OPTIMAL_READ_SIZE", 266),
    Field("PRE_EOL_INFO", 267),
    Field("DEVICE_LIFE_TIME_EST_TYP_A", 268),
    Field("DEVICE_LIFE_TIME_EST_TYP_B", 269),
    Field("CMDQ_SUPPORT", 308),
    Field("BARRIER_SUPPORT", 486),
    Field("SUPPORTED_MODES", 493),
    Field("BKOPS_SUPPORT", 502),
    Field("HPI_FEATURES", 503),
    Field("S_CMD_SET", 504),
)  # fmt: skip

BY_NAME = {field.name: field for field in FIELDS}
BY_INDEX = {index: field for field in FIELDS for index in range(field.index, field.index + field.size)}


class Access(IntEnum):
    """What a SWITCH (CMD6) does with its value: bits 25:24 of the argument."""

    COMMAND_SET = 0
    SET_BITS = 1
    CLEAR_BITS = 2
    WRITE_BYTE = 3


class SwitchError(Exception):
    """A SWITCH that the device answers with SWITCH_ERROR (bit 7 of the status); one line."""


class ExtCsd:
    """The bytes of the register, and which of its bits can still be written.

    `fixed`: by name, what the device says of itself. `kept`: what `stored` gave in an earlier power cycle.
    """

    def __init__(self, fixed: dict[str, int], kept: bytes | None = None) -> None:
        self._values = bytearray(EXT_CSD_BYTES)
        self._spent = bytearray(EXT_CSD_BYTES)  # bits that were written once, for ever
        self._spent_now = bytearray(EXT_CSD_BYTES)  # in this power cycle
        for name, value in fixed.items():
            self.set(name, value)
        self._fresh = bytes(self._values)
        if kept is not None:
            self._take(kept)

    def _take(self, kept: bytes) -> None:
        values, spent = kept[:EXT_CSD_BYTES], kept[EXT_CSD_BYTES:]
        for index, bits in persistent_bits():
            self._values[index] = self._values[index] & ~bits.mask | values[index] & bits.mask
            self._spent[index] = spent[index]

    def stored(self) -> bytes:
        """1024 bytes that outlive the supply: the register, and its bits that were written once."""
        values = bytearray(EXT_CSD_BYTES)
        for index, bits in persistent_bits():
            values[index] |= self._values[index] & bits.mask
        return bytes(values) + bytes(self._spent)

    def power_cycle(self) -> None:
        """What is volatile reads again as it did when the device was new."""
        self._spent_now = bytearray(EXT_CSD_BYTES)
        for field in FIELDS:
            for bits in field.bits:
                if bits.write in (Write.POWER_CYCLE, Write.VOLATILE):
                    self._assign(field.index, bits.mask, self._fresh[field.index])

    def get(self, name: str) -> int:
        field = BY_NAME[name]
        return int.from_bytes(self._values[field.index : field.index + field.size], "little")

    def set(self, name: str, value: int) -> None:
        """The device's own word, for what no SWITCH may write. OverflowError: it does not fit."""
        field = BY_NAME[name]
        self._values[field.index : field.index + field.size] = value.to_bytes(field.size, "little")

    def read(self) -> bytes:
        return bytes(self._values)

    def switch(self, access: Access, index: int, value: int) -> Field:
        """What CMD6 does to a byte. Returns the field. SwitchError: it must not, and nothing was changed."""
        field = BY_INDEX.get(index)
        if field is None or not field.bits or index != field.index or index >= PROPERTIES:
            raise SwitchError(f"byte {index} of EXT_CSD cannot be written")
        wanted = self._wanted(access, index, value)
        self._check(field, index, wanted)
        for bits in field.bits:
            self._write(index, bits, wanted)
        return field

    def _wanted(self, access: Access, index: int, value: int) -> int:
        now = self._values[index]
        return {Access.SET_BITS: now | value, Access.CLEAR_BITS: now & ~value, Access.WRITE_BYTE: value}.get(
            access, now
        )

    def _check(self, field: Field, index: int, wanted: int) -> None:
        now = self._values[index]
        writable = 0
        for bits in field.bits:
            writable |= bits.mask
            if (wanted ^ now) & bits.mask & (self._spent[index] | self._spent_now[index]):
                raise SwitchError(f"{field.name}: bits {bits.mask:#04x} can be written once, and have been")
            if bits.allowed is not None and (wanted & bits.mask) not in (*bits.allowed, now & bits.mask):
                raise SwitchError(f"{field.name}: no value {wanted & bits.mask:#04x}")
        if (wanted ^ now) & ~writable:
            raise SwitchError(f"{field.name}: bits {(wanted ^ now) & ~writable:#04x} cannot be written")

    def _write(self, index: int, bits: Bits, wanted: int) -> None:
        changed = (wanted ^ self._values[index]) & bits.mask
        if bits.write is Write.TRIGGER:
            return
        if bits.write is Write.ONE_TIME and changed:
            self._spent[index] |= bits.mask
        if bits.write is Write.POWER_CYCLE and changed:
            self._spent_now[index] |= bits.mask
        self._assign(index, bits.mask, wanted)

    def _assign(self, index: int, mask: int, value: int) -> None:
        self._values[index] = self._values[index] & ~mask | value & mask


def persistent_bits() -> Iterator[tuple[int, Bits]]:
    for field in FIELDS:
        for bits in field.bits:
            if bits.write in (Write.ONE_TIME, Write.KEPT):
                yield field.index, bits
