"""The block device (virtio 1.4 §5.2): feature bits, configuration layout, request formats, statuses."""

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum, IntFlag

SECTOR_BYTES = 512  # the unit of every sector number in the protocol, whatever blk_size says (§5.2.5)
REQUEST_HEADER = struct.Struct("<IIQ")  # type, reserved, sector (§5.2.6)
REQUEST_HEADER_BYTES = 16
STATUS_BYTES = 1
RANGE_SEGMENT = struct.Struct("<QII")  # sector, num_sectors, flags: discard, write zeroes, secure erase (§5.2.6)
RANGE_SEGMENT_BYTES = 16
RANGE_FLAG_UNMAP = 1
DEVICE_ID_BYTES = 20  # the answer to GET_ID; no NUL when all are used (§5.2.6)
LIFETIME = struct.Struct("<HHH")  # pre_eol_info, device_lifetime_est_typ_a, device_lifetime_est_typ_b
LIFETIME_BYTES = 6
LIFETIME_ESTIMATE_MAX = 11  # estimated lifetime exceeded; above it values are reserved


class BlkFeature(IntFlag):
    """Feature bits of the block device (§5.2.3), as masks."""

    BARRIER = 1 << 0  # legacy (§5.2.3.1)
    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    SCSI = 1 << 7  # legacy (§5.2.3.1)
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14
    LIFETIME = 1 << 15
    SECURE_ERASE = 1 << 16
    ZONED = 1 << 17


class RequestType(IntEnum):
    """Request types (§5.2.6)."""

    IN = 0
    OUT = 1
    SCSI_CMD = 2  # legacy; never offered here
    SCSI_CMD_OUT = 3  # legacy; never offered here
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14
    ZONE_APPEND = 15
    ZONE_REPORT = 16
    ZONE_OPEN = 18
    ZONE_CLOSE = 20
    ZONE_FINISH = 22
    ZONE_RESET = 24
    ZONE_RESET_ALL = 26


class Status(IntEnum):
    """The byte that ends every request (§5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    ZONE_INVALID_CMD = 3
    ZONE_UNALIGNED_WP = 4
    ZONE_OPEN_RESOURCE = 5
    ZONE_ACTIVE_RESOURCE = 6


class PreEolInfo(IntEnum):
    """Share of the reserved blocks that is consumed (§5.2.6)."""

    UNDEFINED = 0
    NORMAL = 1
    WARNING = 2  # 80 %
    URGENT = 3  # 90 %


class ZoneModel(IntEnum):
    """Model of a zoned device (§5.2.4)."""

    NONE = 0
    HOST_MANAGED = 1
    HOST_AWARE = 2


CONFIG_LAYOUT = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3xIIIIIIIIB3x")
CONFIG_BYTES = CONFIG_LAYOUT.size
CONFIG_WRITEBACK_OFFSET = 32


@dataclass(slots=True)
class BlkConfig:
    """`struct virtio_blk_config` (§5.2.4), fields in the order of the layout; padding is written as zero (§5.2.5.2).

    Sectors are 512 bytes; `min_io_size` and `opt_io_size` are in logical blocks (`blk_size`).
    """

    capacity: int  # sectors
    size_max: int = 0  # bytes
    seg_max: int = 0
    cylinders: int = 0
    heads: int = 0
    sectors: int = 0
    blk_size: int = SECTOR_BYTES  # bytes
    physical_block_exp: int = 0
    alignment_offset: int = 0
    min_io_size: int = 0
    opt_io_size: int = 0
    writeback: int = 0
    num_queues: int = 1
    max_discard_sectors: int = 0
    max_discard_seg: int = 0
    discard_sector_alignment: int = 0
    max_write_zeroes_sectors: int = 0
    max_write_zeroes_seg: int = 0
    write_zeroes_may_unmap: int = 0
    max_secure_erase_sectors: int = 0
    max_secure_erase_seg: int = 0
    secure_erase_sector_alignment: int = 0
    zone_sectors: int = 0
    max_open_zones: int = 0
    max_active_zones: int = 0
    max_append_sectors: int = 0
    write_granularity: int = 0  # bytes
    zone_model: int = ZoneModel.NONE

    def pack(self) -> bytes:
        """The little-endian bytes that a driver reads, `CONFIG_BYTES` long."""
        return CONFIG_LAYOUT.pack(*astuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> "BlkConfig":
        """Read a configuration space; one that is shorter (an older device's) reads as if padded with zeroes."""
        return cls(*CONFIG_LAYOUT.unpack(data[:CONFIG_BYTES].ljust(CONFIG_BYTES, b"\0")))
