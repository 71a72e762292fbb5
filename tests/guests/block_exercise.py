"""What a Linux guest does with a raw disk in one boot, and what must then be true of the image."""

import os

from served import digest, image_bytes, requests, volume_statistics

from virtflash.demo.server_process import ServerProcess
from virtflash.driver.blk import BlkDriver

MEBIBYTE = 1 << 20
SLACK_BYTES = MEBIBYTE // 4  # what a host's file system may need for itself to describe the holes of a file
SERIAL = "telematics"
# For busybox, which has no more options than this.
SCRIPT = """
read_at() { dd if=/dev/vda bs=1M skip="$1" count="$2" iflag=direct; }
device=$(readlink -f /sys/bus/virtio/devices/virtio0)
report pci "$(cat "$device/../device")"
report features "$(cat "$device/features")"
report serial "$(cat /sys/block/vda/serial)"
report found "$(read_at 8 4 | sha256sum)"
dd if=/dev/urandom of=/run/data bs=1M count=4
report wrote "$(sha256sum </run/data)"
dd if=/run/data of=/dev/vda bs=1M seek=16 conv=fsync
echo 3 >/proc/sys/vm/drop_caches
report again "$(read_at 16 4 | sha256sum)"
blkdiscard -o $((8 << 20)) -l $((2 << 20)) /dev/vda
dd if=/dev/urandom of=/dev/vda bs=4k count=1 conv=fsync
for mode in "write through" "write back"; do
    echo "$mode" >/sys/block/vda/cache_type
    report "mode-${mode#write }" "$(cat /sys/block/vda/cache_type)"
done
"""


def prepare(server: ServerProcess) -> bytes:
    """Write, as another front end, what the guest is to find."""
    data = os.urandom(4 * MEBIBYTE)
    with BlkDriver(server.socket) as driver:
        driver.write(8 * MEBIBYTE // 512, data).check()
    return data


def check(server: ServerProcess, data: bytes, reports: dict[str, str]) -> None:
    """`data`: of prepare(). Stops the server."""
    assert reports["serial"] == SERIAL
    assert reports["found"] == digest(data)
    assert reports["again"] == reports["wrote"]
    assert (reports["mode-through"], reports["mode-back"]) == ("write through", "write back")
    with BlkDriver(server.socket) as driver:
        assert digest(driver.read(16 * MEBIBYTE // 512, 4 * MEBIBYTE).check().data) == reports["wrote"]
    check_image(server)
    volume = volume_statistics(server)
    assert sum(queue["bytes_discarded"] for queue in volume["queues"]) == 2 * MEBIBYTE
    assert requests(volume)["flush"] >= 2
    assert sum(queue["errors"] for queue in volume["queues"]) == 0


def check_image(server: ServerProcess) -> None:
    """4 MiB of the driver and 4 of the guest, less 2 trimmed."""
    assert image_bytes(server.image, 8 * MEBIBYTE, 2 * MEBIBYTE) == bytes(2 * MEBIBYTE)
    assert abs(server.host_bytes() - 6 * MEBIBYTE) <= SLACK_BYTES


def has_feature(reports: dict[str, str], feature: int) -> bool:
    """Linux shows the features that its driver negotiated with bit 0 first."""
    return reports["features"][feature.bit_length() - 1] == "1"
