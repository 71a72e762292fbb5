"""When a completed write is stable (virtio 1.4 §5.2.6.2), decided by what was negotiated; docs/design.md has the table.

Three conditions make a write stable: neither CONFIG_WCE nor FLUSH was negotiated; `writeback` was 0 from submission to
completion; a FLUSH that was sent after its completion has completed. The first two ask for write-through, the third for
write-back.
"""

from virtflash.virtio.blk import BlkFeature
from virtflash.virtio.ring_features import RingFeature

WRITE_THROUGH = 0  # values of the `writeback` field
WRITE_BACK = 1


def negotiated_writeback(features: int, current: int, *, set_by_driver: bool) -> int:
    """The `writeback` field once the driver's features are known.

    `current`: its value before. `set_by_driver`: the driver has written it since the device was reset; a front end may
    bring us the features after that, and then the driver's word stands.
    """
    if not features & BlkFeature.CONFIG_WCE:
        return current  # not this driver's; a front end may show it to the next one before it brings us its features
    if set_by_driver or not features & RingFeature.VERSION_1:
        return current  # §5.2.5.3: for a legacy driver feature bits do not touch it
    return WRITE_BACK if features & BlkFeature.FLUSH else WRITE_THROUGH  # §5.2.5.2


def is_write_through(features: int, writeback: int, *, reply_ack: bool) -> bool:
    """Must a write be stable when it completes?

    `reply_ack`: the front end waits until a change of `writeback` is in force. One that does not may let the driver
    submit writes that count on a mode not adopted yet, so where the driver can choose, the stronger mode always holds.
    """
    if not features & BlkFeature.CONFIG_WCE:
        return not features & BlkFeature.FLUSH
    return writeback == WRITE_THROUGH or not reply_ack
