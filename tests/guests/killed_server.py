"""Servers of emulated flash that die by SIGKILL under a guest's load, again and again on the same image.

A guest's life: mount what the killed server left behind, check the file system, check the files that were on the flash
when the server died, then write and fsync files until the next server is killed. What the guest reports of a file comes
after its fsync, so from then on it has to be there.
"""

import random
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from uml_machine import BOOT_SECONDS

from virtflash.backing import create_flash
from virtflash.demo.server_process import ServerProcess
from virtflash.demo.uml_guest import REPORT_PREFIX, UmlGuest, watch

FSYNC_LOAD = Path(__file__).parent / "fsync_load.py"
CAPACITY = 96 << 20
LOAD_SECONDS = (0.3, 1.5)  # of load before a kill
MOUNT_SECONDS = 0.3  # the kill comes within this after the guest has begun to mount
KEPT_FILES = 120  # of about 64 KiB; what is older is removed when the next guest begins
EARLY_KILLS = 6  # one of so many lives ends while the guest mounts and checks
CHECKSUM_DIGITS = 64
MOVED_BY_COLLECTION = 4  # in the statistics' list

CHECK = """
directory=/run/disk
mkdir $directory
[ "$filesystem" != f2fs ] || load crypto/crc32_generic fs/f2fs/f2fs
dmesg -n 1 # nothing shall come between the reports
report mounting now
mount -o "$options" /dev/vda $directory
umount $directory
case $filesystem in ext4) e2fsck -fn /dev/vda ;; f2fs) fsck.f2fs --dry-run -f /dev/vda ;; esac
mount -o "$options" /dev/vda $directory
cd $directory
if [ -s "$expected" ] && ! sha256sum --quiet -c "$expected" >/run/bad 2>&1; then
    while read -r line; do report violation "$line"; done </run/bad
fi
report checked "$(wc -l <"$expected")"
"""
LOAD = """
find . -maxdepth 1 -type f -printf '%f\\n' | grep -vxFf "$needed" | xargs -r rm
"$python" -I -S "$load" "$life"
"""
# What a guest does that is to die early. ext4's journal can be replayed again. f2fs (Linux 6.1) rolls forward along a
# chain of nodes, and may write new nodes over that chain before the checkpoint that makes it needless: what was fsync'd
# is gone then, on any disk (seen block by block in images before and after such mounts). There the guest only reads.
READ = """
report mounting now
cat /dev/vda >/dev/null
"""
EARLY = {"ext4": CHECK + LOAD, "f2fs": READ}
MAKE = {"ext4": "mkfs.ext4 -q -F /dev/vda", "f2fs": "mkfs.f2fs -q -f /dev/vda"}


@dataclass(frozen=True)
class Setup:
    """A file system on a flash. `options`: of the mount; `server`: options of it."""

    filesystem: str
    profile: str
    options: str = "rw"
    server: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.filesystem, self.profile, self.options, *self.server])


@dataclass
class Tally:
    """What was seen. `violations`: a line for each file that was not kept, or file system that is broken."""

    kills: int = 0
    early_kills: int = 0
    files_checked: int = 0
    recoveries: int = 0
    collected_units: int = 0
    erases: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills under load, {self.early_kills} while the guest mounted, {self.recoveries} recoveries "
            f"of the flash, {self.erases} erases, {self.collected_units} units moved by collection, "
            f"{self.files_checked} files checked, {len(self.violations)} violations"
        )


class KilledServers:
    """A chain of lives on one image. A context manager: leaving ends whatever runs."""

    def __init__(self, setup: Setup, directory: Path, seed: int) -> None:
        self.setup, self.directory, self.random = setup, directory, random.Random(seed)
        self.image = directory / "disk.vflash"
        self.tally = Tally()
        self._kept: dict[str, str] = {}  # names to checksums, oldest first
        self._needless: list[str] = []  # of them
        self._life = 0
        self._lost = False  # the file system could not be mounted or is inconsistent: nothing further can be said
        self._server = ServerProcess(self.image, directory / "disk.sock", kind="flash", options=setup.server)
        create_flash(self.image, setup.profile, capacity_bytes=CAPACITY, seed=seed)

    def __enter__(self) -> Self:
        self._server.start()
        with self._guest(MAKE[self.setup.filesystem]) as guest:
            guest.run(BOOT_SECONDS)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.kill()

    def run(self, kills: int) -> Tally:
        """That many kills under load, and at the end a look at what the last one left."""
        while self.tally.kills < kills and not self._lost:
            self._live()
        if not self._lost:
            self._look()
        self._server.stop()
        self._take_figures()
        return self.tally

    def _take_figures(self) -> None:
        """The flash counts on over restarts."""
        (volume,) = self._server.statistics()["volumes"]
        translation = volume["flash"]["translation"]
        self.tally.erases = translation["erases"]
        self.tally.collected_units = translation["moved_units"][MOVED_BY_COLLECTION]
        self.tally.recoveries = self._server.log.read_text().count("recovered: its server was killed")

    def _live(self) -> None:
        """One guest, until its server is killed, and the start of the next server."""
        early = self.random.randrange(EARLY_KILLS) == 0
        self._needless = list(self._kept)[: -KEPT_FILES or None]
        with self._guest(EARLY[self.setup.filesystem] if early else CHECK + LOAD) as guest:
            if seen(guest, "mounting" if early else "kept"):
                listen(guest, self.random.uniform(0, MOUNT_SECONDS) if early else self.random.uniform(*LOAD_SECONDS))
                self.tally.early_kills += early
                self.tally.kills += not early
            else:
                self._give_up(guest)
            self._server.kill()
        self._take(guest)
        self._start_again()

    def _look(self) -> None:
        with self._guest(CHECK) as guest:
            for _ in watch([guest], BOOT_SECONDS):
                pass
        self._take(guest)
        if guest.console.reports.get("status") != "0":
            self._give_up(guest)

    def _give_up(self, guest: UmlGuest) -> None:
        self._lost = True
        self.tally.violations.append(f"{guest.name}: the file system is broken:\n{guest.console.tail()}")

    def _take(self, guest: UmlGuest) -> None:
        """Believe what the guest reported, in its order."""
        (self.directory / f"{guest.name}.console").write_text("\n".join(guest.console.lines))
        for kind, words in (report for line in guest.console.lines if (report := parsed(line))):
            if kind == "kept":
                self._kept[words[0]] = words[1]
            elif kind == "dropped":
                self._kept.pop(words[0], None)
            elif kind == "checked":
                self.tally.files_checked += int(words[0])
                for name in self._needless:
                    self._kept.pop(name, None)  # it was removed when an earlier guest had begun
            elif kind == "gone":
                assert words[0] != "No", "no space left: the load is too large for this disk"
            elif kind == "violation":
                self.tally.violations.append(f"{guest.name}: {' '.join(words)}")

    def _guest(self, script: str) -> UmlGuest:
        self._life += 1
        expected, needed = self.directory / "expected", self.directory / "needed"
        expected.write_text("".join(f"{checksum}  {name}\n" for name, checksum in self._kept.items()))
        # A file that was not reported again before a kill is no one's, and there are more of them after each.
        needed.write_text("".join(f"{name}\n" for name in ["scratch", *(self._kept.keys() - self._needless)]))
        environment = {
            "filesystem": self.setup.filesystem,
            "options": self.setup.options,
            "expected": str(expected),
            "needed": str(needed),
            "life": str(self._life),
            "python": sys.executable,
            "load": str(FSYNC_LOAD),
        }
        name = f"life{self._life}"
        return UmlGuest(name, [self._server.socket], script, self.directory, environment=environment)

    def _start_again(self) -> None:
        """On the image as the killed server left it, of which a copy stays until the next one is killed."""
        copy = ["cp", "--sparse=always", str(self.image), str(self.directory / "before.vflash")]
        subprocess.run(copy, check=True)
        self._server.start()


def seen(guest: UmlGuest, kind: str) -> bool:
    """Wait until the guest reports this. False: it ended before."""
    return any(line.startswith(f"{REPORT_PREFIX}{kind} ") for _guest, line in watch([guest], BOOT_SECONDS))


def listen(guest: UmlGuest, seconds: float) -> None:
    """For so long. What a guest prints into a full pipe is lost, and with it that a file was written over."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([guest], [], [], left)[0] and guest.read_lines() is None:
            return


def parsed(line: str) -> tuple[str, list[str]] | None:
    """The kind and the words of a whole report; None: it is none, or was cut off with the guest."""
    kind, *words = line.removeprefix(REPORT_PREFIX).split()[:3] if line.startswith(REPORT_PREFIX) else [""]
    whole = {"kept": len(words) == 2 and len(words[-1]) == CHECKSUM_DIGITS, "dropped": len(words) == 1}
    return (kind, words) if whole.get(kind, bool(kind)) else None
