"""One eMMC shared by two virtual machines: one writes until its wear budget is spent, the other goes on as before, and
meets a flash that is too hot, and one whose supply is too low."""

import time
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
from virtflash.demo.uml_guest import REPORT_PREFIX, UmlGuest, watch
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

[health]
defaults = false

[[health.rule]]
sensor = "emmc0.temperature"
above = "105 degC"
until = "100 degC"
state = "read-only"

[[health.rule]]
sensor = "emmc0.voltage"
below = "2.7 V"
until = "2.8 V"
state = "read-only"
on_enter = "freeze"
"""
# What a guest asks for, and what the emulated part measures then.
WEATHER = {
    "heat": ("emmc0.temperature", 107.0),
    "shade": ("emmc0.temperature", 40.0),
    "brown-out": ("emmc0.voltage", 2.5),
    "supply": ("emmc0.voltage", 3.3),
}
SCRIPTS = {
    # Small writes, each of them synced, and all of them found again. Then one page, again and again, whatever comes.
    "cluster": """
mkfs.ext4 -q -F /dev/vda
mkdir /run/disk; mount /dev/vda /run/disk
for number in $(seq 1 40); do echo "trip $number" >"/run/disk/$number"; sync "/run/disk/$number"; done
umount /run/disk; mount /dev/vda /run/disk
files=$(grep -l trip /run/disk/[0-9]* | wc -l)
umount /run/disk
head -c 4k /dev/urandom >/run/page
page() { dd if=/run/page of=/dev/vda bs=4k seek=64 oflag=direct conv=notrunc status=none 2>/run/error; }
for step in "heat shade" "brown-out supply"; do
    report want "${step% *}"
    while page; do :; done
    report saw "a write fails: ${step% *}"
    report want "${step#* }"
    until page; do :; done
    report saw "and succeeds again: ${step#* }"
done
dd if=/dev/vda bs=4k skip=64 count=1 iflag=direct status=none | cmp - /run/page
report kept "$files of 40 files, each synced by itself; its page too"
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
SHOWN = ("front-end-connected", "budget-spent", "budget-restored", "state-changed", "left")
TEXT_COLUMNS = 56


@dataclass(frozen=True)
class Moment:
    """Unix time, whom it is about, and what happened, in words."""

    time: float
    who: str
    text: str


@dataclass(frozen=True)
class Shared:
    """What happened, in the order of time; what guests say; what it cost; the wear of the blocks."""

    moments: list[Moment]
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
        with Client(server.socket) as client:
            kept, seen = run_guests(directory, stack, client)
            events = list(until_both_have_left(client.events(events=SHOWN, recent=256)))
            wear = msgspec.convert(client.call("wear"), list[WearStatus])
        server.stop()
        moments = sorted([*map(moment, events), *seen], key=lambda each: each.time)
        return Shared(moments, kept, wear, wear_picture(look_at(directory / "emmc0.vflash").columns))


def moment(event: Event) -> Moment:
    return Moment(event.time, event.volume or "", event.text.partition(";")[0].partition(" since ")[0])


def run_guests(directory: Path, stack: ExitStack, client: Client) -> tuple[dict[str, str], list[Moment]]:
    """What they kept, and what they saw of what they asked for."""
    guests = [
        stack.enter_context(UmlGuest(name, [directory / f"{name}.sock"], script, directory))
        for name, script in SCRIPTS.items()
    ]
    seen = []
    for guest, line in watch(guests, DEADLINE_SECONDS):
        kind, _, text = line.removeprefix(REPORT_PREFIX).partition(" ")
        if kind == "want" and text in WEATHER:
            sensor, value = WEATHER[text]
            client.call("simulate", sensor=sensor, value=value)
        elif kind == "saw" and line.startswith(REPORT_PREFIX):
            seen.append(Moment(time.time(), guest.name, f"its machine: {text}"))
    return {guest.name: guest.outcome()["kept"] for guest in guests}, seen


def until_both_have_left(events: Iterator[Event]) -> Iterator[Event]:
    left = 0
    for event in events:
        yield event
        left += event.kind == "left"
        if left == len(SCRIPTS):
            return


def shared_summary(shared: Shared) -> list[str]:
    """Lines of at most 80 columns."""
    start = shared.moments[0].time
    lines = [TITLE, ""]
    lines += [f"{each.time - start:6.2f} s  {each.who:<13} {each.text[:TEXT_COLUMNS]}" for each in shared.moments]
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
