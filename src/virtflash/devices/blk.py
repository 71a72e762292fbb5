"""The block device as a guest sees it (virtio 1.4 §5.2): which features are offered, and the configuration space."""

from dataclasses import dataclass

from virtflash.backing import Backing
from virtflash.devices.stability import WRITE_BACK, WRITE_THROUGH, is_write_through, negotiated_writeback
from virtflash.virtio.blk import CONFIG_WRITEBACK_OFFSET, DEVICE_ID_BYTES, BlkConfig, BlkFeature
from virtflash.virtio.ring_features import RingFeature

SEGMENTS_MAX = 126  # of data in a request: with header and status they fit in the 128 entries that rings have at least
# Just under 1 GiB: SeaBIOS 1.16 takes the lowest 16 bits of size_max * seg_max for the most it may read at once, and
# where they are 0, as with 1 GiB, it reads nothing, forever.
SEGMENT_BYTES_MAX = (1 << 30) - (60 << 10)
RANGES_MAX = 16  # ranges in one discard or write zeroes; the engine's bound
HEADS, SECTORS_PER_TRACK, CYLINDERS_MAX = 16, 63, 65535  # a geometry for those that still ask

# What a driver of virtio 1.0 knows, and DISCARD, which automotive guests of that age carry as a patch.
SPEC_1_0 = (
    BlkFeature.SIZE_MAX
    | BlkFeature.SEG_MAX
    | BlkFeature.GEOMETRY
    | BlkFeature.RO
    | BlkFeature.BLK_SIZE
    | BlkFeature.FLUSH
    | BlkFeature.TOPOLOGY
    | BlkFeature.CONFIG_WCE
    | BlkFeature.DISCARD
)
RING_FEATURES = RingFeature.VERSION_1 | RingFeature.ANY_LAYOUT | RingFeature.INDIRECT_DESC | RingFeature.EVENT_IDX


class ConfigError(ValueError):
    """A write to the configuration space that the specification does not allow; one line."""


@dataclass(frozen=True)
class BlkOptions:
    """How a device presents itself. `spec`: the version of virtio whose features are offered; None: the newest."""

    serial: bytes = b""
    queues: int = 1
    spec: str | None = None

    def __post_init__(self) -> None:
        if len(self.serial) > DEVICE_ID_BYTES or not self.serial.isascii() or not self.serial.decode().isprintable():
            raise ValueError(f"a serial has up to {DEVICE_ID_BYTES} printable ASCII characters")


class BlkDevice:
    """One virtio-blk device on a backing: what it offers, and the state that a driver can change (`writeback`)."""

    def __init__(self, backing: Backing, options: BlkOptions) -> None:
        self.options = options
        self.features = offered_features(backing, options)
        self._config = initial_config(backing, options)
        self._negotiated = 0
        self._reply_ack = False
        self._set_by_driver = False
        self._asked_for = WRITE_BACK

    @property
    def write_through(self) -> bool:
        """Must writes be stable when they complete? (§5.2.6.2)

        QEMU keeps a copy of what a driver wrote to `writeback` over resets of the guest and shows it to the next driver
        as if we had begun with it. So a 0 holds until the front end writes a 1 or leaves, whatever we begin with.
        """
        choice = self._config.writeback & self._asked_for
        return is_write_through(self._negotiated, choice, reply_ack=self._reply_ack)

    @property
    def capacity_sectors(self) -> int:
        return self._config.capacity

    def grow(self, capacity_sectors: int) -> None:
        self._config.capacity = capacity_sectors

    def resume(self) -> None:
        """A driver goes on that we have not seen begin: it may count on a `writeback` of 0 that it wrote elsewhere."""
        self._asked_for = WRITE_THROUGH

    def front_end_left(self) -> None:
        """The next one begins with what it reads."""
        self.reset()
        self._asked_for = WRITE_BACK

    def reset(self) -> None:
        """As before any driver came."""
        self._negotiated = 0
        self._reply_ack = self._set_by_driver = False
        self._config.writeback = WRITE_BACK

    def negotiate(self, features: int, *, reply_ack: bool) -> None:
        self._negotiated, self._reply_ack = features, reply_ack
        self._config.writeback = negotiated_writeback(
            features, self._config.writeback, set_by_driver=self._set_by_driver
        )

    def read_config(self) -> bytes:
        return self._config.pack()

    def write_config(self, offset: int, data: bytes) -> None:
        """ConfigError: only `writeback` may be written, with 0 or 1, where CONFIG_WCE is offered (§5.2.5)."""
        writeback = self._writeback_in(offset, data)
        if writeback > WRITE_BACK:
            raise ConfigError(f"writeback set to {writeback}: it is 0 or 1")
        if not self.features & BlkFeature.CONFIG_WCE or (
            self._negotiated and not self._negotiated & BlkFeature.CONFIG_WCE
        ):
            raise ConfigError("writeback was written without CONFIG_WCE")
        self._config.writeback = self._asked_for = writeback
        self._set_by_driver = True

    def _writeback_in(self, offset: int, data: bytes) -> int:
        """What a write makes of `writeback`. ConfigError: it is a write to something else."""
        if offset == CONFIG_WRITEBACK_OFFSET and len(data) == 1:
            return data[0]
        # A front end that knows nothing of the device (QEMU's vhost-user-device) writes all that it has read before.
        if offset == 0 and len(data) > CONFIG_WRITEBACK_OFFSET:
            unchanged = bytearray(self.read_config()[: len(data)])
            unchanged[CONFIG_WRITEBACK_OFFSET] = data[CONFIG_WRITEBACK_OFFSET]
            if unchanged == data:
                return data[CONFIG_WRITEBACK_OFFSET]
        raise ConfigError(f"{len(data)} bytes at {offset} of the configuration space: only writeback may be written")


def offered_features(backing: Backing, options: BlkOptions) -> int:
    """Feature bits, of the device and of the ring: whatever the backing can, and nothing else."""
    features = (
        BlkFeature.SIZE_MAX
        | BlkFeature.SEG_MAX
        | BlkFeature.GEOMETRY
        | BlkFeature.BLK_SIZE
        | BlkFeature.FLUSH
        | BlkFeature.TOPOLOGY
        | BlkFeature.CONFIG_WCE
        | BlkFeature.MQ
    )
    possible = {
        BlkFeature.RO: backing.read_only,
        BlkFeature.DISCARD: backing.max_discard_sectors > 0,
        BlkFeature.WRITE_ZEROES: backing.max_write_zeroes_sectors > 0,
        BlkFeature.SECURE_ERASE: backing.max_secure_erase_sectors > 0,
        BlkFeature.LIFETIME: backing.lifetime or (backing.life_time_fd >= 0 and backing.pre_eol_fd >= 0),
    }
    for feature, offered in possible.items():
        features |= feature if offered else 0
    if options.spec == "1.0":
        features &= SPEC_1_0
    return features | RING_FEATURES


def initial_config(backing: Backing, options: BlkOptions) -> BlkConfig:
    """Fields of what is not offered are not there (§5.2.4): they read as 0, and num_queues as 1."""
    features = offered_features(backing, options)
    config = BlkConfig(
        capacity=backing.capacity_sectors,
        size_max=SEGMENT_BYTES_MAX,
        seg_max=SEGMENTS_MAX,
        blk_size=backing.logical_block_bytes,
        writeback=WRITE_BACK,
        num_queues=options.queues if features & BlkFeature.MQ else 1,
    )
    set_geometry(config)
    set_topology(config, backing)
    set_ranges(config, backing, features)
    return config


def set_geometry(config: BlkConfig) -> None:
    config.heads, config.sectors = HEADS, SECTORS_PER_TRACK
    config.cylinders = min(config.capacity // (HEADS * SECTORS_PER_TRACK), CYLINDERS_MAX)


def set_topology(config: BlkConfig, backing: Backing) -> None:
    """In logical blocks (§5.2.4)."""
    blocks = max(backing.physical_block_bytes // backing.logical_block_bytes, 1)
    config.physical_block_exp = blocks.bit_length() - 1
    config.min_io_size = blocks
    config.opt_io_size = backing.optimal_io_bytes // backing.logical_block_bytes


def set_ranges(config: BlkConfig, backing: Backing, features: int) -> None:
    """Limits of discard, write zeroes and secure erase."""
    if features & BlkFeature.DISCARD:
        config.max_discard_sectors, config.max_discard_seg = backing.max_discard_sectors, RANGES_MAX
        config.discard_sector_alignment = backing.discard_alignment_sectors
    if features & BlkFeature.WRITE_ZEROES:
        config.max_write_zeroes_sectors, config.max_write_zeroes_seg = backing.max_write_zeroes_sectors, RANGES_MAX
        config.write_zeroes_may_unmap = int(backing.unmap_zeroes)
    if features & BlkFeature.SECURE_ERASE:
        config.max_secure_erase_sectors = backing.max_secure_erase_sectors
        config.max_secure_erase_seg = RANGES_MAX
        config.secure_erase_sector_alignment = backing.secure_erase_alignment_sectors
