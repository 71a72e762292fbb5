"""User-mode Linux 6.1, unmodified, on the real program: what one guest writes the next one finds."""

import os
from pathlib import Path

import pytest
from block_exercise import MEBIBYTE, SLACK_BYTES
from served import Serve, digest, image_bytes, requests, volume_statistics, write_image
from uml_machine import FILE_BYTES, FIND_AND_TRIM, MAKE_FILE_SYSTEM, run_uml

from virtflash.driver.blk import BlkDriver

pytestmark = pytest.mark.timeout(120)


CHECK = "e2fsck -fn /dev/vda"


def test_the_next_guest_finds_the_file_system_and_trims_it(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    first = run_uml(server, MAKE_FILE_SYSTEM, tmp_path, "first")
    full = server.host_bytes()
    second = run_uml(server, FIND_AND_TRIM + CHECK, tmp_path, "second")
    assert second["digest"] == first["digest"]
    assert full >= FILE_BYTES
    assert server.host_bytes() <= full - FILE_BYTES + SLACK_BYTES
    volume = volume_statistics(server)
    assert requests(volume)["flush"] > 0
    assert sum(queue["bytes_discarded"] for queue in volume["queues"]) >= FILE_BYTES
    assert sum(queue["errors"] for queue in volume["queues"]) == 0


RAW = """
read_at() { dd if=/dev/vda bs=1M skip="$1" count="$2" iflag=direct status=none; }
report found "$(read_at 8 4 | sha256sum)"
head -c 4M /dev/urandom >/run/data
report wrote "$(tail -c 3M /run/data | sha256sum)"
dd if=/run/data of=/dev/vda bs=1M seek=16 oflag=direct status=none
blkdiscard -o 8M -l 2M /dev/vda
blkdiscard -z -o 16M -l 1M /dev/vda
report zeroes "$(read_at 16 1 | tr -d '\\000' | wc -c)"
"""


def test_sectors_between_a_driver_and_a_guest(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    data = os.urandom(4 * MEBIBYTE)
    with BlkDriver(server.socket) as driver:
        driver.write(8 * MEBIBYTE // 512, data).check()
    reports = run_uml(server, RAW, tmp_path)
    assert reports["found"] == digest(data)
    assert reports["zeroes"] == "0"
    with BlkDriver(server.socket) as driver:
        assert digest(driver.read(17 * MEBIBYTE // 512, 3 * MEBIBYTE).check().data) == reports["wrote"]
    assert image_bytes(server.image, 16 * MEBIBYTE, MEBIBYTE) == bytes(MEBIBYTE)
    # 4 of the driver and 4 of the guest, less 2 discarded; what was zeroed without UNMAP keeps its blocks.
    assert abs(server.host_bytes() - 6 * MEBIBYTE) <= SLACK_BYTES
    served = requests(volume_statistics(server))
    assert served["discard"] > 0
    assert served["write_zeroes"] > 0


CACHE_MODES = """
sync_writes() { for n in $(seq "$1"); do dd if=/dev/urandom of=/dev/vda bs=4k count=1 conv=fsync status=none; done; }
report before "$(cat /sys/block/vda/cache_type)"
sync_writes 5
echo "write through" >/sys/block/vda/cache_type
report after "$(cat /sys/block/vda/cache_type)"
sync_writes 20
"""


def test_a_guest_switches_to_write_through_and_needs_no_flush(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    reports = run_uml(server, CACHE_MODES, tmp_path)
    assert (reports["before"], reports["after"]) == ("write back", "write through")
    assert "write-through" in server.log.read_text()
    assert 5 <= requests(volume_statistics(server))["flush"] < 20


CACHE_BACK = """
for mode in "write through" "write back"; do echo "$mode" >/sys/block/vda/cache_type; done
report mode "$(cat /sys/block/vda/cache_type)"
dd if=/dev/urandom of=/dev/vda bs=4k count=1 conv=fsync status=none
"""


def test_a_guest_switches_back_to_write_back(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    assert run_uml(server, CACHE_BACK, tmp_path)["mode"] == "write back"
    assert requests(volume_statistics(server))["flush"] >= 1


IDENTITY = """
cd /sys/block/vda
report serial "$(cat serial)"
report size "$(cat size)"
cd queue
for limit in logical_block_size physical_block_size minimum_io_size max_segments discard_max_bytes \\
    discard_granularity write_zeroes_max_bytes max_segment_size zoned; do
    report "$limit" "$(cat "$limit")"
done
if blkzone report /dev/vda; then report zones yes; else report zones no; fi
"""


def test_a_guest_sees_the_identity_and_the_limits(serve: Serve, tmp_path: Path) -> None:
    server = serve("--serial", "cluster-0815", size=100 * MEBIBYTE + 512)
    with BlkDriver(server.socket) as driver:
        config = driver.config
    reports = run_uml(server, IDENTITY, tmp_path)
    assert reports["serial"] == "cluster-0815"
    assert int(reports["size"]) == config.capacity == 100 * MEBIBYTE // 512 + 1
    assert (reports["zoned"], reports["zones"]) == ("none", "no")
    block = config.blk_size
    limits = {
        "logical_block_size": block,
        "physical_block_size": block << config.physical_block_exp,
        "minimum_io_size": block * config.min_io_size,
        "max_segments": config.seg_max,
        "max_segment_size": config.size_max,
        "discard_max_bytes": config.max_discard_sectors * 512,
        "discard_granularity": config.discard_sector_alignment * 512,
        "write_zeroes_max_bytes": config.max_write_zeroes_sectors * 512,
    }
    assert {limit: int(reports[limit]) for limit in limits} == limits


READ_ONLY = """
report read-only "$(cat /sys/block/vda/ro)"
report found "$(dd if=/dev/vda bs=1M count=1 iflag=direct status=none | sha256sum)"
if dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct; then report write done; else report write refused; fi
"""


def test_a_guest_cannot_write_what_is_read_only(serve: Serve, tmp_path: Path) -> None:
    server = serve("--read-only")
    data = os.urandom(MEBIBYTE)
    write_image(server.image, 0, data)
    reports = run_uml(server, READ_ONLY, tmp_path)
    assert (reports["read-only"], reports["write"]) == ("1", "refused")
    assert reports["found"] == digest(data)
    assert image_bytes(server.image, 0, MEBIBYTE) == data
