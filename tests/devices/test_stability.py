"""The table of docs/design.md, "Stability": when must a completed write be stable?"""

import pytest

from virtflash.devices.stability import WRITE_BACK, WRITE_THROUGH, is_write_through, negotiated_writeback
from virtflash.virtio.blk import BlkFeature
from virtflash.virtio.ring_features import RingFeature

FLUSH, WCE, MODERN = BlkFeature.FLUSH, BlkFeature.CONFIG_WCE, RingFeature.VERSION_1

TABLE = [  # features, `writeback` before, written by the driver before?, `writeback` after, write-through?
    # Neither: condition 1. Without CONFIG_WCE the field is not the driver's, and stays as it is
    (MODERN, WRITE_BACK, False, WRITE_BACK, True),
    (0, WRITE_BACK, False, WRITE_BACK, True),
    # FLUSH alone: condition 3
    (MODERN | FLUSH, WRITE_BACK, False, WRITE_BACK, False),
    (MODERN | FLUSH, WRITE_THROUGH, True, WRITE_THROUGH, False),
    (FLUSH, WRITE_THROUGH, True, WRITE_THROUGH, False),
    # CONFIG_WCE alone: `writeback` begins at 0 (§5.2.5.2)
    (MODERN | WCE, WRITE_BACK, False, WRITE_THROUGH, True),
    # Both: it begins at 1
    (MODERN | FLUSH | WCE, WRITE_BACK, False, WRITE_BACK, False),
    (MODERN | FLUSH | WCE, WRITE_THROUGH, False, WRITE_BACK, False),
    # The driver's own word, brought to us before its features, stands
    (MODERN | FLUSH | WCE, WRITE_THROUGH, True, WRITE_THROUGH, True),
    (MODERN | FLUSH | WCE, WRITE_BACK, True, WRITE_BACK, False),
    (MODERN | WCE, WRITE_BACK, True, WRITE_BACK, False),
    # Legacy: with CONFIG_WCE, feature bits do not touch it (§5.2.5.3)
    (WCE, WRITE_BACK, False, WRITE_BACK, False),
    (FLUSH | WCE, WRITE_BACK, False, WRITE_BACK, False),
    (FLUSH | WCE, WRITE_THROUGH, True, WRITE_THROUGH, True),
]


@pytest.mark.parametrize(("features", "before", "set_by_driver", "after", "through"), TABLE)
def test_the_mode_that_was_negotiated(
    features: int, before: int, set_by_driver: bool, after: int, through: bool
) -> None:
    writeback = negotiated_writeback(features, before, set_by_driver=set_by_driver)
    assert writeback == after
    assert is_write_through(features, writeback, reply_ack=True) is through


@pytest.mark.parametrize("writeback", [WRITE_THROUGH, WRITE_BACK])
def test_without_acks_the_stronger_mode_holds_where_the_driver_can_choose(writeback: int) -> None:
    assert is_write_through(MODERN | FLUSH | WCE, writeback, reply_ack=False)
    assert not is_write_through(MODERN | FLUSH, WRITE_BACK, reply_ack=False)
