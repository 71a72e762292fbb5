"""Real Linux guests on volumes of one flash: one grows under its guest, another is erased by the one that owns it."""

import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from configured import MIB, Configured
from requirements import require
from uml_machine import BOOT_SECONDS
from watched_server import wait_until

from virtflash.control.client import ControlError
from virtflash.demo.uml_guest import UmlGuest
from virtflash.driver.blk import BlkDriver

GROWS = """
mkfs.ext4 -q -F /dev/vda
mkdir /run/disk; mount /dev/vda /run/disk
head -c 4M /dev/urandom >/run/disk/file; sha256sum /run/disk/file >/run/sums; sync
before=$(cat /sys/block/vda/size)
report before "$before"
( while [ ! -e /run/enough ]; do dd if=/run/disk/file of=/dev/null bs=4k iflag=direct status=none; done ) &
report waiting 1
while [ "$(cat /sys/block/vda/size)" = "$before" ]; do sleep 0.05; done
report after "$(cat /sys/block/vda/size)"
touch /run/enough; wait
resize2fs /dev/vda
head -c 12M /dev/urandom >/run/disk/more; sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum --quiet -c /run/sums
report room "$(stat -f -c %b /run/disk)"
umount /run/disk
"""
WRITES = """
head -c 8M /dev/urandom | tee /run/data | dd of=/dev/vda bs=1M iflag=fullblock conv=fsync status=none
report written "$(sha256sum </run/data)"
"""
ERASES = """
head -c 8M /dev/urandom | dd of=/dev/vda bs=1M iflag=fullblock conv=fsync status=none
blkdiscard /dev/vda
report zeroes "$(tr -d '\\000' </dev/vda | wc -c)"
"""
READS = 'report read "$(head -c 8M /dev/vda | sha256sum)"'


def guest(configured: Configured, volume: str, script: str, life: int = 1) -> UmlGuest:
    return UmlGuest(f"{volume}{life}", [configured.socket(volume)], script, configured.directory)


def test_a_volume_grows_under_its_guest(tmp_path: Path) -> None:
    """Without a reboot, while it reads; its file system takes the room, and nothing in it has changed."""
    require("linux.uml")
    configured = Configured(tmp_path, {"cluster": "16 MiB"})
    with configured.in_a_child(), guest(configured, "cluster", GROWS) as linux:
        linux.wait_for("waiting", "1", BOOT_SECONDS)
        configured.ask("grow", name="cluster", size="48 MiB")
        reports = linux.run(BOOT_SECONDS)
        assert configured.ask("volumes")[0]["errors"] == 0
    assert (reports["before"], reports["after"]) == (str(16 * MIB // 512), str(48 * MIB // 512))
    assert int(reports["room"]) * 1024 > 24 * MIB


def test_an_erase_by_its_owner_reaches_the_flash_and_nobody_else(tmp_path: Path) -> None:
    require("linux.uml")
    configured = Configured(tmp_path, {"cluster": "16 MiB", "infotainment": "32 MiB"})
    with configured.in_a_child():
        with ExitStack() as guests:
            one = guests.enter_context(guest(configured, "cluster", WRITES))
            written = one.run(BOOT_SECONDS)["written"]
        before = {volume["name"]: volume for volume in configured.ask("wear")}
        with guest(configured, "infotainment", ERASES) as other:
            assert other.run(BOOT_SECONDS)["zeroes"] == "0"
        after = {volume["name"]: volume for volume in configured.ask("wear")}
        assert configured.ask("volumes")[1]["bytes_discarded"] >= 32 * MIB
        assert after["infotainment"]["programmed"] > 8 * MIB
        assert after["cluster"]["programmed"] == before["cluster"]["programmed"]
        with guest(configured, "cluster", READS, 2) as one:
            assert one.run(BOOT_SECONDS)["read"] == written


LOAD = """
mkdir /run/disk; mount /dev/vda /run/disk; cd /run/disk
"$python" -I -S "$load" "$sectors"
cd /; resize2fs /dev/vda
report room "$(stat -f -c %b /run/disk)"
umount /run/disk
e2fsck -fn /dev/vda
report complaints "$(dmesg | grep -ciE 'error|critical|timeout' || true)"
report stat "$(cat /sys/block/vda/stat)"
"""
STAT = ("read", "read_merges", "read_sectors", "read_ticks", "write", "write_merges", "write_sectors", "write_ticks")
STAT += ("in_flight", "io_ticks", "queue_ticks", "discard", "discard_merges", "discard_sectors", "discard_ticks")
STAT += ("flush", "flush_ticks")  # Linux, Documentation/block/stat.rst
EXACTLY = ("read", "discard", "flush")
CHANGES = 8  # of each kind
FIRST_MIB, MORE_MIB = 24, 2
LAST_MIB = FIRST_MIB + (CHANGES + 1) * MORE_MIB


class Host:
    """What an operator does to the server of a guest that works on the volume `cluster`."""

    def __init__(self, configured: Configured, server: subprocess.Popen[str]) -> None:
        self.configured, self.server = configured, server
        self.mib = FIRST_MIB

    def volumes(self) -> dict[str, dict[str, Any]]:
        return {volume["name"]: volume for volume in self.configured.ask("volumes")}

    def write(self, limits: str, *others: str) -> None:
        self.configured.write({"cluster": f"{self.mib} MiB\n{limits}", **dict.fromkeys(others, "4 MiB")})

    def hang_up(self, number: int) -> None:
        """New limits, and a volume more."""
        self.write(f'iops = "{400 + number} /s"\niops_burst = 4', "infotainment", "telematics")
        self.server.send_signal(signal.SIGHUP)
        wait_until(lambda: "telematics" in self.volumes(), "the file was read again")
        assert self.volumes()["cluster"]["limits"]["iops"] == 400 + number

    def reload(self, number: int) -> None:
        """Other limits, and a volume less."""
        self.write(f'bandwidth = "{20 + number} MB/s"\nwear_budget = "100 GB/day"', "infotainment")
        answer = self.configured.ask("reload")
        assert "[volume.telematics]: served no more" in answer["applied"] and answer["refused"] == []
        limits = self.volumes()["cluster"]["limits"]
        assert (limits["iops"], limits["bandwidth"]) == (None, (20 + number) * 1_000_000)

    def read_nonsense(self, number: int) -> None:
        """A file with a mistake, both ways."""
        before = {name: volume["limits"] for name, volume in self.volumes().items()}
        self.write(f'iops = "{number} per second"')
        with pytest.raises(ControlError, match="iops"):
            self.configured.ask("reload")
        self.server.send_signal(signal.SIGHUP)
        log = self.configured.directory / "log"
        wait_until(lambda: log.read_text().count("not read again") == number + 1, log.read_text)
        assert {name: volume["limits"] for name, volume in self.volumes().items()} == before

    def grow(self, number: int) -> None:
        """By the file and by a call in turn."""
        self.mib += MORE_MIB
        if number % 2:
            self.configured.ask("grow", name="cluster", size=f"{self.mib} MiB")
        else:
            self.write("", "infotainment")
            assert any("size" in text for text in self.configured.ask("reload")["applied"])
        assert self.volumes()["cluster"]["size"] == self.mib * MIB

    def delete(self, number: int) -> None:
        """Another volume, whose guest is there and has requests under way."""
        self.configured.ask("create", name="other", flash="emmc0", size="8 MiB", socket="other.sock")
        with BlkDriver(self.configured.socket("other")) as driver:
            for place in range(16):
                driver.submit(1, 2048 * (place % 8), bytes([place]) * 65536)
            self.configured.ask("delete", name="other", secure=bool(number % 2))
            driver.front_end.wait_closed()


@pytest.mark.timeout(120)
def test_whatever_is_changed_under_load_nothing_is_lost(tmp_path: Path) -> None:
    """Limits, volumes beside it, its size; files with mistakes. What the guest has asked for has been answered, its
    data is right, and it has no error to tell of."""
    require("linux.uml")
    configured = Configured(tmp_path, {"cluster": f"{FIRST_MIB} MiB", "infotainment": "4 MiB"})
    load = Path(__file__).parent / "verified_load.py"
    words = {"python": sys.executable, "load": str(load), "sectors": str(LAST_MIB * MIB // 512)}
    with configured.in_a_child() as server:
        host = Host(configured, server)
        with guest(configured, "cluster", "mkfs.ext4 -q -F -E lazy_itable_init=0 /dev/vda", 1) as linux:
            linux.run(BOOT_SECONDS)
        before = host.volumes()["cluster"]
        with UmlGuest("cluster2", [configured.socket("cluster")], LOAD, tmp_path, environment=words) as linux:
            linux.wait_for("loaded", "1", BOOT_SECONDS)
            for number in range(CHANGES):
                for change in (host.hang_up, host.reload, host.read_nonsense, host.grow, host.delete):
                    change(number)
                    wait_until_it_goes_on(host, linux)
            configured.ask("grow", name="cluster", size=f"{LAST_MIB} MiB")
            reports = linux.run(BOOT_SECONDS)
        check_that_nothing_is_lost(before, host.volumes()["cluster"], reports["stat"])
    assert reports["complaints"] == "0" and int(reports["rounds"]) > 5 * CHANGES
    assert int(reports["room"]) * 1024 > 0.85 * LAST_MIB * MIB


def check_that_nothing_is_lost(before: dict[str, Any], after: dict[str, Any], stat: str) -> None:
    """What a guest counted between two looks at the server's counters is what the server counted."""
    asked = dict(zip(STAT, map(int, stat.split()), strict=True))
    done = {kind: count - before["requests"][kind] for kind, count in after["requests"].items()}
    done |= {key: after[key] - before[key] for key in ("bytes_read", "bytes_written", "bytes_discarded", "delayed")}
    assert asked["in_flight"] == after["in_flight"] == after["errors"] + after["malformed"] == 0
    assert {kind: asked[kind] for kind in EXACTLY} == {kind: done[kind] for kind in EXACTLY}
    assert asked["read_sectors"] * 512 == done["bytes_read"]
    assert (asked["write_sectors"] + asked["discard_sectors"]) * 512 == done["bytes_written"] + done["bytes_discarded"]
    # To Linux a flush without data is a write of no sectors besides.
    assert 0 <= asked["write"] - done["write"] - done["write_zeroes"] <= done["flush"]
    assert min(done[kind] for kind in (*EXACTLY, "write", "delayed")) > 0


def wait_until_it_goes_on(host: Host, linux: UmlGuest) -> None:
    """With some requests more. GuestError: it has ended instead."""

    def done() -> int:
        return sum(host.volumes()["cluster"]["requests"].values())

    def has_ended() -> bool:
        return bool(select.select([linux], [], [], 0)[0]) and linux.read_lines() is None

    wanted = done() + 20
    wait_until(lambda: done() >= wanted or has_ended(), linux.console.tail, BOOT_SECONDS)
    if done() < wanted:
        linux.outcome()
