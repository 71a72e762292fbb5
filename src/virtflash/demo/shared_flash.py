"""One eMMC shared by two virtual machines: one writes until its wear budget is spent, the other goes on as before."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from virtflash.backing.emulated_flash import create_flash
from virtflash.control.client import Client
from virtflash.control.events import Event
from virtflash.demo.demo import DEADLINE_SECONDS, SEED, look_at
from virtflash.demo.server_process import ServerProcess
from virtflash.demo.uml_guest import UmlGuest, watch
from virtflash.report.quantities import binary_bytes, decimal_bytes
from virtflash.report.wear_picture import wear_picture
from virtflash.status import WearStatus
from virtflash.text_table import aligned

CAPACITY_BYTES = 512 << 20
TITLE = "One eMMC, two virtual machines: infotainment has a wear budget"
CONFIGURATION = """
[server]
control = "control.sock"

[flash.emmc0]
kind = "emmc"
path = "emmc0.vflash"

[volume.cluster]
flash = "emmc0"
size = "128 MiB"
socket = "cluster.sock"

[volume.infotainment]
flash = "emmc0"
size = "256 MiB"
socket = "infotainment.sock"
wear_budget = "1 GB/day"
wear_burst = "64 MiB"
when_spent = "read-only"
"""
SCRIPTS = {
    # Small writes, each of them synced, and all of them found again.
    "cluster": """
mkfs.ext4 -q -F /dev/vda
mkdir /run/disk; mount /dev/vda /run/disk
for number in $(seq 1 40); do echo "trip $number" >"/run/disk/$number"; sync "/run/disk/$number"; done
umount /run/disk; mount /dev/vda /run/disk
report kept "$(grep -l trip /run/disk/[0-9]* | wc -l) of 40 files, each synced by itself"
umount /run/disk
""",
    # As fast as it goes, until the device refuses.
    "infotainment": """
head -c 8M /dev/urandom >/run/data
number=0
while dd if=/run/data of=/dev/vda bs=1M oflag=direct seek=$((number % 24 * 8)) status=none 2>/run/error; do
    number=$((number + 1))
done
dd if=/dev/vda bs=1M count=8 iflag=direct status=none | cmp - /run/data
report kept "refused after $((number * 8)) MiB; what it wrote can be read"
""",
}
SHOWN = ("front-end-connected", "budget-spent", "budget-restored", "left")
TEXT_COLUMNS = 56


@dataclass(frozen=True)
class Shared:
    """What happened, in the order of time; what guests say; what it cost; the wear of the blocks."""

    events: list[Event]
    kept: dict[str, str]
    wear: list[WearStatus]
    picture: list[str]


def run_shared() -> Shared:
    """GuestError, ServerError, ControlError, BackingError: what went wrong. Nothing is left behind in any case."""
    with TemporaryDirectory(prefix="virtflash-demo-") as name, ExitStack() as stack:
        directory = Path(name)
        path = directory / "virtflash.toml"
        path.write_text(CONFIGURATION)
        create_flash(directory / "emmc0.vflash", "automotive-tlc-emmc", capacity_bytes=CAPACITY_BYTES, seed=SEED)
        server = stack.enter_context(ServerProcess(path, directory / "control.sock", kind="configuration"))
        kept = run_guests(directory, stack)
        with Client(server.socket) as client:
            events = list(until_both_have_left(client.events(events=SHOWN, recent=256)))
            wear = msgspec.convert(client.call("wear"), list[WearStatus])
        server.stop()
        return Shared(events, kept, wear, wear_picture(look_at(directory / "emmc0.vflash").columns))


def run_guests(directory: Path, stack: ExitStack) -> dict[str, str]:
    guests = [
        stack.enter_context(UmlGuest(name, [directory / f"{name}.sock"], script, directory))
        for name, script in SCRIPTS.items()
    ]
    for _ in watch(guests, DEADLINE_SECONDS):
        pass
    return {guest.name: guest.outcome()["kept"] for guest in guests}


def until_both_have_left(events: Iterator[Event]) -> Iterator[Event]:
    left = 0
    for event in events:
        yield event
        left += event.kind == "left"
        if left == len(SCRIPTS):
            return


def shared_summary(shared: Shared) -> list[str]:
    """Lines of at most 80 columns."""
    start = shared.events[0].time
    lines = [TITLE, ""]
    for event in shared.events:
        text = event.text.partition(";")[0][:TEXT_COLUMNS]
        lines.append(f"{event.time - start:6.2f} s  {event.volume or '':<13} {text}")
    lines += ["", *(f"{name}: {text}" for name, text in shared.kept.items()), ""]
    rows = [("", "written", "programmed", "amplification", "budget a day", "left now"), *map(row, shared.wear)]
    return [*lines, *aligned(rows), "", "wear across the flash that both share", *shared.picture]


def row(wear: WearStatus) -> tuple[str, ...]:
    amplification = "-" if wear.write_amplification is None else f"{wear.write_amplification:.2f}"
    programmed = "-" if wear.programmed is None else binary_bytes(wear.programmed)
    budget = ("none", "-") if wear.budget is None else (decimal_bytes(wear.budget.per_day), left_of(wear.budget.left))
    return (wear.name, binary_bytes(wear.bytes_written), programmed, amplification, *budget)


def left_of(left: int) -> str:
    return binary_bytes(left) if left >= 0 else f"-{binary_bytes(-left)}"
