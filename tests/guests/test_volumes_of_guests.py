"""Real Linux guests on volumes of one flash: one grows under its guest, another is erased by the one that owns it."""

from contextlib import ExitStack
from pathlib import Path

from configured import MIB, Configured
from requirements import require
from uml_machine import BOOT_SECONDS

from virtflash.demo.uml_guest import UmlGuest

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
