"""Two Linux guests at the same time, each on its own emulated eMMC: file system, data, checksums, trim, and what became
of the flash."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from virtflash.backing.emulated_flash import create_flash, open_storage
from virtflash.demo.host import SYSTEM_PATH, check_host, full_place
from virtflash.demo.progress import Progress
from virtflash.demo.server_process import ServerProcess
from virtflash.demo.uml_guest import REPORT_PREFIX, GuestError, UmlGuest, watch
from virtflash.report.flash_report import FlashReport, report_flash

EXERCISE = Path(__file__).parent / "exercise.sh"
VOLUME_BYTES = 512 << 20
DEADLINE_SECONDS = 90.0
SEED = 1  # of the devices: which blocks are bad from the factory, and how good the others are


@dataclass(frozen=True)
class Part:
    """One virtual machine of the car and what it puts on its volume."""

    name: str
    filesystem: str
    profile: str


@dataclass
class Outcome:
    """What one guest did, what its server saw, and what it left of the flash."""

    part: Part
    reports: dict[str, str]
    seconds: float
    peak_host_bytes: int
    statistics: dict[str, Any]
    flash: FlashReport


class Run:
    """A guest on its server, with what was seen of it while it ran."""

    def __init__(self, part: Part, server: ServerProcess, guest: UmlGuest) -> None:
        self.part = part
        self.server = server
        self.guest = guest
        self.peak_host_bytes = 0
        self._started = time.monotonic()
        self.seconds = 0.0

    def saw(self, line: str, progress: Progress) -> None:
        self.seconds = time.monotonic() - self._started
        self.peak_host_bytes = max(self.peak_host_bytes, self.server.host_bytes())
        kind, _, text = line.removeprefix(REPORT_PREFIX).partition(" ")
        if line.startswith(REPORT_PREFIX) and kind == "step":
            progress.step(self.part.name, text)
        elif line.startswith(REPORT_PREFIX) and kind == "status":
            progress.end(self.part.name, succeeded=text == "0")

    def outcome(self) -> Outcome:
        """Ends the server, which completes its statistics. GuestError: with what the server logged, too."""
        try:
            reports = self.guest.outcome()
        except GuestError as error:
            log = self.server.log.read_text(errors="replace")
            raise GuestError(error.reason, f"{error.console}\n\nIts server:\n{log}") from error
        self.server.stop()
        statistics = self.server.statistics()
        return Outcome(self.part, reports, self.seconds, self.peak_host_bytes, statistics, look_at(self.server.image))


def parts() -> list[Part]:
    """f2fs is made for flash; where its tools are missing both guests use ext4."""
    second = "f2fs" if shutil.which("mkfs.f2fs", path=SYSTEM_PATH) else "ext4"
    return [Part("cluster", "ext4", "automotive-tlc-emmc"), Part("infotainment", second, "mlc-emmc")]


def look_at(image: Path) -> FlashReport:
    """What is to be said of a flash that nobody serves any more."""
    storage = open_storage(image, read_only=True, host_sync=False)
    try:
        return report_flash(image, storage)
    finally:
        storage.close()


def steps() -> int:
    """How many steps a guest reports."""
    return sum(line.startswith("report step ") for line in EXERCISE.read_text().splitlines())


def run_demo(progress: Progress, *, server_options: Sequence[str] = ()) -> list[Outcome]:
    """GuestError, ServerError: what went wrong. Nothing is left behind in any case."""
    check_host()
    with TemporaryDirectory(prefix="virtflash-demo-") as directory, ExitStack() as stack:
        runs = [_boot(part, Path(directory), stack, server_options) for part in parts()]
        try:
            return _watch(runs, progress)
        except GuestError as error:
            if (place := full_place()) is None:
                raise
            raise GuestError(f"{place} is full ({error.reason})", error.console) from error


def _watch(runs: Sequence[Run], progress: Progress) -> list[Outcome]:
    by_guest = {run.guest: run for run in runs}
    for guest, line in watch(by_guest, DEADLINE_SECONDS):
        by_guest[guest].saw(line, progress)
    return [run.outcome() for run in runs]


def _boot(part: Part, directory: Path, stack: ExitStack, server_options: Sequence[str]) -> Run:
    image, socket = directory / f"{part.name}.vflash", directory / f"{part.name}.sock"
    create_flash(image, part.profile, capacity_bytes=VOLUME_BYTES, seed=SEED)
    server = stack.enter_context(ServerProcess(image, socket, kind="flash", options=server_options))
    environment = {"filesystem": part.filesystem}
    guest = UmlGuest(part.name, [server.socket], EXERCISE.read_text(), directory, environment=environment)
    return Run(part, server, stack.enter_context(guest))
