"""What the block device offers, and its configuration space."""

import pytest

from virtflash.backing import Backing
from virtflash.devices.blk import RANGES_MAX, SEGMENT_BYTES_MAX, BlkDevice, BlkOptions, ConfigError
from virtflash.virtio.blk import CONFIG_WRITEBACK_OFFSET, BlkConfig, BlkFeature
from virtflash.virtio.ring_features import RingFeature

ALWAYS = (
    BlkFeature.SIZE_MAX
    | BlkFeature.SEG_MAX
    | BlkFeature.GEOMETRY
    | BlkFeature.BLK_SIZE
    | BlkFeature.FLUSH
    | BlkFeature.TOPOLOGY
    | BlkFeature.CONFIG_WCE
    | BlkFeature.MQ
    | RingFeature.VERSION_1
    | RingFeature.ANY_LAYOUT
    | RingFeature.INDIRECT_DESC
    | RingFeature.EVENT_IDX
)
ALL = {
    "max_discard_sectors": 1000,
    "max_write_zeroes_sectors": 2000,
    "max_secure_erase_sectors": 3000,
    "life_time_fd": 0,
    "pre_eol_fd": 0,
}


def device(options: BlkOptions | None = None, **able: object) -> BlkDevice:
    backing = Backing("test", -1, 1 << 21, **able)  # type: ignore[arg-type]
    return BlkDevice(backing, options or BlkOptions())


OFFERS = [
    ({}, 0),
    ({"read_only": True}, BlkFeature.RO),
    ({"max_discard_sectors": 8}, BlkFeature.DISCARD),
    ({"max_write_zeroes_sectors": 8}, BlkFeature.WRITE_ZEROES),
    ({"max_secure_erase_sectors": 8}, BlkFeature.SECURE_ERASE),
    ({"life_time_fd": 0}, 0),
    ({"life_time_fd": 0, "pre_eol_fd": 0}, BlkFeature.LIFETIME),
]


@pytest.mark.parametrize(("able", "more"), OFFERS)
def test_a_feature_is_offered_where_the_backing_can(able: dict[str, object], more: int) -> None:
    assert device(**able).features == ALWAYS | more


def test_spec_1_0_offers_what_its_drivers_know_and_trim() -> None:
    offered = device(BlkOptions(spec="1.0"), **ALL).features
    newer = BlkFeature.MQ | BlkFeature.WRITE_ZEROES | BlkFeature.SECURE_ERASE | BlkFeature.LIFETIME
    assert not offered & newer
    assert offered & BlkFeature.DISCARD
    assert offered & RingFeature.VERSION_1


def test_config_space() -> None:
    config = BlkConfig.unpack(
        device(
            BlkOptions(queues=4),
            logical_block_bytes=512,
            physical_block_bytes=4096,
            optimal_io_bytes=65536,
            discard_alignment_sectors=8,
            unmap_zeroes=True,
            **ALL,
        ).read_config()
    )
    assert config == BlkConfig(
        capacity=1 << 21,
        size_max=SEGMENT_BYTES_MAX,
        seg_max=126,
        cylinders=(1 << 21) // (16 * 63),
        heads=16,
        sectors=63,
        blk_size=512,
        physical_block_exp=3,
        min_io_size=8,
        opt_io_size=128,
        writeback=1,
        num_queues=4,
        max_discard_sectors=1000,
        max_discard_seg=RANGES_MAX,
        discard_sector_alignment=8,
        max_write_zeroes_sectors=2000,
        max_write_zeroes_seg=RANGES_MAX,
        write_zeroes_may_unmap=1,
        max_secure_erase_sectors=3000,
        max_secure_erase_seg=RANGES_MAX,
        secure_erase_sector_alignment=1,
    )


WRITES = [  # offset, bytes, allowed
    (CONFIG_WRITEBACK_OFFSET, b"\0", True),
    (CONFIG_WRITEBACK_OFFSET, b"\1", True),
    (CONFIG_WRITEBACK_OFFSET, b"\2", False),
    (CONFIG_WRITEBACK_OFFSET, b"\xff", False),
    (CONFIG_WRITEBACK_OFFSET, b"", False),
    (CONFIG_WRITEBACK_OFFSET, b"\0\0", False),
    (CONFIG_WRITEBACK_OFFSET - 1, b"\0\0", False),
    (0, b"\0" * 8, False),
    (0, b"\0" * 96, False),
    (96, b"\0", False),
    (255, b"\0", False),
]


@pytest.mark.parametrize(("offset", "data", "allowed"), WRITES)
def test_only_writeback_may_be_written(offset: int, data: bytes, allowed: bool) -> None:
    made = device()
    made.negotiate(ALWAYS, reply_ack=True)
    before = made.read_config()
    if allowed:
        made.write_config(offset, data)
        assert made.read_config()[CONFIG_WRITEBACK_OFFSET] == data[0]
        assert made.write_through is (data[0] == 0)
    else:
        with pytest.raises(ConfigError):
            made.write_config(offset, data)
        assert made.read_config() == before


@pytest.mark.parametrize("length", [CONFIG_WRITEBACK_OFFSET + 1, 60, 96])
def test_a_front_end_may_write_all_of_the_space_with_only_writeback_changed(length: int) -> None:
    made = device()
    made.negotiate(ALWAYS, reply_ack=True)
    space = bytearray(made.read_config()[:length])
    space[CONFIG_WRITEBACK_OFFSET] = 0
    made.write_config(0, bytes(space))
    assert made.write_through
    space[0] ^= 1
    with pytest.raises(ConfigError):
        made.write_config(0, bytes(space))


def test_a_driver_that_did_not_negotiate_config_wce_cannot_write_it() -> None:
    made = device()
    made.negotiate(RingFeature.VERSION_1 | BlkFeature.FLUSH, reply_ack=True)
    with pytest.raises(ConfigError):
        made.write_config(CONFIG_WRITEBACK_OFFSET, b"\0")


def test_after_a_reset_writeback_is_1_but_what_a_driver_asked_for_is_stronger() -> None:
    """The front end may show the next driver a 0 that it remembers from the last one."""
    made = device()
    made.negotiate(ALWAYS, reply_ack=True)
    made.write_config(CONFIG_WRITEBACK_OFFSET, b"\0")
    made.reset()
    made.negotiate(ALWAYS, reply_ack=True)
    assert made.read_config()[CONFIG_WRITEBACK_OFFSET] == 1
    assert made.write_through
    made.write_config(CONFIG_WRITEBACK_OFFSET, b"\1")
    assert not made.write_through


def test_what_a_driver_asked_for_is_forgotten_with_its_front_end() -> None:
    made = device()
    made.negotiate(ALWAYS, reply_ack=True)
    made.write_config(CONFIG_WRITEBACK_OFFSET, b"\0")
    made.front_end_left()
    made.negotiate(ALWAYS, reply_ack=True)
    assert not made.write_through


def test_a_driver_without_config_wce_leaves_writeback_for_the_next_one() -> None:
    """Firmware often is such a driver; a front end may show the next one the field before it brings its features."""
    made = device()
    made.negotiate(RingFeature.VERSION_1, reply_ack=True)
    assert made.write_through
    assert made.read_config()[CONFIG_WRITEBACK_OFFSET] == 1
    made.negotiate(ALWAYS, reply_ack=True)
    assert not made.write_through


@pytest.mark.parametrize("serial", [b"x" * 21, "ü".encode(), b"a\nb"])
def test_serials_that_no_guest_could_show(serial: bytes) -> None:
    with pytest.raises(ValueError, match="serial"):
        BlkOptions(serial)
