"""`virtflash serve` as a child process under observation: its log, its descriptors, its threads, its memory."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 10.0
STOP_SECONDS = 60.0  # a disk that others keep busy
SETTLE_SECONDS = 5.0
LOOK_SECONDS = 0.002  # between two looks at something that tells nobody when it changes
ACCEPTS_CONNECTIONS = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix
LOUD = re.compile(r"^\S+ (warning|error)\s")


@dataclass(frozen=True)
class Vitals:
    """What must be as before when an attack is over. Memory in KiB, of the process's own (RssAnon)."""

    descriptors: int
    threads: int  # of the server: neither the kernel's workers nor those of its pools
    memory_kib: int


def wait_until(condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = SETTLE_SECONDS) -> None:
    """For what announces itself to nobody. AssertionError: it did not come to be in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(LOOK_SECONDS)


def has_direct_io(directory: Path) -> bool:
    """Some file systems refuse O_DIRECT."""
    path = directory / "direct"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


class WatchedServer:
    """A context manager: entering returns when all sockets listen, leaving ends the server, which must exit 0.

    Image number i is served at `sockets[i]`. `log` is the file that its standard error goes to.
    """

    def __init__(
        self,
        directory: Path,
        images: Sequence[Path],
        *options: str,
        sockets: Sequence[Path] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.images = list(images)
        self.sockets = [directory / f"{image.stem}.sock" for image in images] if sockets is None else list(sockets)
        self.log = directory / "server.log"
        named = [part for image in self.images for part in ("--image", str(image))]
        named += [part for path in self.sockets for part in ("--socket", str(path))]
        self._command = [str(Path(sys.executable).with_name("virtflash")), "serve", *named, *options]
        self._pass_fds = tuple(pass_fds)
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, configuration: Path, sockets: Sequence[Path]) -> Self:
        """A server of all that `configuration` names; `sockets` are those to wait for."""
        server = cls(configuration.parent, [], sockets=sockets)
        server._command = [*server._command[:2], str(configuration)]
        return server

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = self.stop()
        if error is None:
            assert status == 0, f"the server ended with status {status}: {self.lines()[-3:]}"

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=self._pass_fds
            )
        try:
            wait_until(self._listens, lambda: f"the server does not listen: {self.lines()[-3:]}", START_SECONDS)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _listens(self) -> bool:
        assert self.alive, f"the server ended at its start: {self.lines()[-3:]}"
        rows = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        listening = {row[7] for row in rows if len(row) == 8 and int(row[3], 16) & ACCEPTS_CONNECTIONS}
        return {str(path) for path in self.sockets} <= listening

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def vitals(self) -> Vitals:
        proc = Path(f"/proc/{self.pid}")
        (memory,) = re.findall(r"^RssAnon:\s+(\d+) kB", (proc / "status").read_text(), re.MULTILINE)
        names = [path.read_text() for path in proc.glob("task/*/comm")]
        threads = {name for name in names if not name.startswith("iou-")}  # those of a pool are called as their reactor
        return Vitals(len(list((proc / "fd").iterdir())), len(threads), int(memory))

    def cpu_seconds(self) -> float:
        """Of user and kernel together, since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100  # USER_HZ, which is 100 wherever it matters

    def lines(self) -> list[str]:
        """What it said so far."""
        return self.log.read_text(errors="replace").splitlines()

    def loud_lines(self, since: int = 0) -> list[str]:
        """Warnings and errors from line number `since` on."""
        return [line for line in self.lines()[since:] if LOUD.match(line)]

    def wait_line(self, pattern: str, since: int = 0, seconds: float = SETTLE_SECONDS) -> None:
        """Until a line from number `since` on matches."""
        found = re.compile(pattern)
        wait_until(
            lambda: any(found.search(line) for line in self.lines()[since:]),
            lambda: f"no line like {pattern!r} in {self.lines()[since:]}",
            seconds,
        )
