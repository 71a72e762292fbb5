"""A flash gets too hot under a real Linux guest: its ext4 rides through, and what was told to be safe is there."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from configured import Configured
from requirements import require
from uml_machine import BOOT_SECONDS
from watched_server import wait_until

from virtflash.control.client import Client
from virtflash.demo.uml_guest import UmlGuest

RULE = """
[[health.rule]]
sensor = "emmc0.temperature"
above = "{above} degC"
until = "{until} degC"
state = "{state}"
"""
RULES = "".join(
    RULE.format(above=above, until=above - 5, state=state)
    for above, state in ((95, "throttled"), (105, "read-only"), (115, "offline"))
)
# From one step to the next: degrees, and the state that comes of them.
COURSE = (
    (97, "throttled"),
    (107, "read-only"),
    (120, "offline"),
    (108, "read-only"),
    (98, "throttled"),
    (60, "normal"),
)
WRITES = """
mkfs.ext4 -q -F /dev/vda
mkdir /run/disk; mount -o errors=remount-ro /dev/vda /run/disk
before=$(cat /sys/block/vda/size)
n=0; ok=""; failed=0
report mounted 1
while [ "$(cat /sys/block/vda/size)" = "$before" ]; do
    n=$((n + 1))
    if echo "file $n" | dd of=/run/disk/$n conv=fsync status=none 2>/dev/null; then
        ok="$ok $n"
    else
        failed=$((failed + 1))
        [ $failed -gt 1 ] || report trouble 1
    fi
    sleep 0.02
done
report failed "$failed"
umount /run/disk
e2fsck -fy /dev/vda >/dev/null || [ $? -le 1 ]
mount /dev/vda /run/disk
lost=0
for n in $ok; do [ "$(cat /run/disk/$n)" = "file $n" ] || lost=$((lost + 1)); done
report kept "$(echo $ok | wc -w)"
report lost "$lost"
echo again | dd of=/run/disk/again conv=fsync status=none
umount /run/disk
e2fsck -fn /dev/vda >/dev/null
report clean 1
"""


class Hot:
    """What the operator sees of the volume."""

    def __init__(self, configured: Configured) -> None:
        self.configured = configured

    def volume(self) -> dict[str, Any]:
        (told,) = self.configured.ask("volumes")
        return dict(told)

    def become(self, celsius: float, state: str) -> None:
        self.configured.ask("simulate", sensor="emmc0.temperature", value=celsius)
        wait_until(lambda: self.volume()["health"]["state"] == state, lambda: f"{self.volume()['health']}")

    def await_more(self, counter: str) -> None:
        """Its guest goes on."""
        before = self.count(counter)
        wait_until(lambda: self.count(counter) > before, f"no more {counter}", BOOT_SECONDS)

    def count(self, counter: str) -> int:
        return int(self.volume()["requests"][counter])


def test_a_file_system_rides_through_heat(tmp_path: Path) -> None:
    require("linux.uml")
    configured = Configured(tmp_path, {"cluster": "24 MiB"}, RULES)
    hot = Hot(configured)
    with (
        configured.in_a_child(),
        Client(configured.socket("control")) as client,
        UmlGuest("cluster", [configured.socket("cluster")], WRITES, tmp_path) as linux,
    ):
        events = client.events(events=["state-changed"])
        linux.wait_for("mounted", "1", BOOT_SECONDS)
        hot.await_more("write")
        for celsius, state in COURSE:
            hot.become(celsius, state)
            if (celsius, state) == COURSE[0]:
                hot.await_more("write")
            elif (celsius, state) == COURSE[1]:
                linux.wait_for("trouble", "1", BOOT_SECONDS)
        configured.ask("grow", name="cluster", size="32 MiB")
        reports = linux.run(BOOT_SECONDS)
        told = [next(events).data for _ in COURSE]
        refused = hot.volume()["refused"]
    assert [each["state"] for each in told] == [state for _, state in COURSE]
    assert all(after["before"] == before["state"] for before, after in pairwise(told))
    assert int(reports["kept"]) > 0
    assert int(reports["failed"]) > 0
    assert refused > 0
    assert (reports["lost"], reports["clean"]) == ("0", "1")
