"""Read-only volumes, whatever the driver has acknowledged (virtio 1.4 §5.2.6.2)."""

from functools import partial

import pytest
from attacked_server import Attack, Files, SharedFlash

from virtflash.driver.blk import FEATURES, LEGACY_FEATURES
from virtflash.virtio.blk import RANGE_SEGMENT, BlkFeature, RequestType, Status

pytestmark = pytest.mark.parametrize(
    "server",
    [
        partial(Files, read_only=True),
        partial(Files, read_only=True, options=("--io", "threads")),
        partial(Files, read_only=True, options=("--direct",)),
        partial(SharedFlash, read_only=True),
    ],
    ids=["auto", "threads", "direct", "emmc"],
    indirect=True,
)

SECTOR = 512
FEATURE_SETS = {
    "RO": FEATURES,
    "no RO": FEATURES & ~int(BlkFeature.RO),
    "legacy, no RO": LEGACY_FEATURES & ~int(BlkFeature.RO),
    "nothing": 0,
}
REFUSED = (
    r"requests refused, the last one a request that is out of bounds, of odd length, or asks for what is not offered"
)


@pytest.mark.parametrize("features", FEATURE_SETS)
def test_write(attack: Attack, features: str) -> None:
    """Read-only: a write although RO was not acknowledged must fail, and so must whatever else changes data."""
    driver = attack.driver(features=FEATURE_SETS[features])
    before = attack.content(driver)
    attack.may_say(REFUSED)
    assert driver.request(RequestType.OUT, 0, bytes(SECTOR)).status == Status.IOERR
    assert driver.request(RequestType.OUT, 0, bytes(65536)).status == Status.IOERR
    for kind in (RequestType.DISCARD, RequestType.WRITE_ZEROES, RequestType.SECURE_ERASE):
        assert driver.request(kind, data=RANGE_SEGMENT.pack(0, 8, 0)).status in (Status.IOERR, Status.UNSUPP)
    assert driver.read(0, 4096).check().data == before[:4096]
    assert attack.content(driver) == before


@pytest.mark.parametrize("features", FEATURE_SETS)
def test_flush(attack: Attack, features: str) -> None:
    """Read-only: a flush must succeed."""
    driver = attack.driver(features=FEATURE_SETS[features])
    assert driver.flush().status == Status.OK
    attack.may_say(REFUSED)
    driver.request(RequestType.OUT, 0, bytes(SECTOR))
    assert driver.flush().status == Status.OK


def test_what_is_offered(attack: Attack) -> None:
    """Read-only: RO is offered, and nothing that would change data; the limits of it are 0."""
    driver = attack.driver()
    offered = driver.front_end.offered
    assert offered & BlkFeature.RO
    assert not offered & (BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES | BlkFeature.SECURE_ERASE)
    config = driver.config
    assert (config.max_discard_sectors, config.max_write_zeroes_sectors, config.max_secure_erase_sectors) == (0, 0, 0)
