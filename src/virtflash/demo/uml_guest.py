"""A real Linux guest in a process: user-mode Linux on the host's file system (read-only) and on vhost-user disks."""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from virtflash.children import end_with_parent

BLOCK_DEVICE_ID = 2
REPORT_PREFIX = "virtflash-guest: "
KERNEL = "linux.uml"
INIT = Path(__file__).parent / "guest_init.sh"
READ_BYTES = 1 << 16


class GuestError(Exception):
    """The guest could not be started, did not finish in time, or its script failed.

    `reason`: one line; `console`: what the guest printed last, many.
    """

    def __init__(self, reason: str, console: str = "") -> None:
        super().__init__(f"{reason}, after this:\n{console}" if console else reason)
        self.reason = reason
        self.console = console


@dataclass
class Console:
    """What a guest printed, and the lines of it that its script reported."""

    lines: list[str] = field(default_factory=list)

    @property
    def reports(self) -> dict[str, str]:
        """The last report of each kind: "virtflash-guest: KIND TEXT"."""
        reported = (line.removeprefix(REPORT_PREFIX) for line in self.lines if line.startswith(REPORT_PREFIX))
        return {kind: text for kind, _, text in (line.partition(" ") for line in reported)}

    def tail(self, count: int = 100) -> str:
        return "\n".join(self.lines[-count:])


def find_kernel() -> str:
    path = shutil.which(KERNEL)
    if path is None:
        raise GuestError(f"{KERNEL} is not installed (Debian: apt-get install user-mode-linux kmod)")
    return path


class UmlGuest:
    """A context manager: entering boots the guest, leaving it makes sure that nothing of it is left.

    `script` is sourced by a POSIX shell as root of the guest, with `set -eu` and with `report KIND TEXT` and
    `load MODULE...` defined. The disks are /dev/vda and so on, in the order of `sockets`. `environment` goes over the
    kernel's command line, so its values are single words.
    """

    def __init__(
        self,
        name: str,
        sockets: Sequence[Path],
        script: str,
        directory: Path,
        *,
        memory: str = "256M",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.console = Console()
        self._sockets = sockets
        self._script = script
        self._directory = directory / f"guest-{name}"
        self._memory = memory
        self._environment = environment or {}
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir()
        body = self._directory / "body.sh"
        body.write_text(self._script)
        init = self._directory / "init.sh"
        shutil.copy(INIT, init)
        init.chmod(0o755)
        self._process = subprocess.Popen(
            self._command(init, body),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(),  # noqa: PLW1509 - it only makes system calls
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _command(self, init: Path, body: Path) -> list[str]:
        return [
            find_kernel(),
            f"mem={self._memory}",
            "root=/dev/root",
            "rootfstype=hostfs",
            "hostfs=/",
            "ro",
            f"uml_dir={self._directory}",
            *(f"virtio_uml.device={socket}:{BLOCK_DEVICE_ID}" for socket in self._sockets),
            f"init={init}",
            "con=null",
            "con0=fd:0,fd:1",
            f"body={body}",
            *(f"{key}={value}" for key, value in self._environment.items()),
        ]

    def kill(self) -> None:
        """As pulling the plug. The kernel's helper processes are of its session, so they go with it."""
        if self._process is None:
            return
        # The process is not reaped yet, so its number is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._read_what_is_left()
        self._process = None

    def _read_what_is_left(self) -> None:
        """What the guest printed before it was killed stays in the pipe, and is of its console."""
        if self._process is None or self._process.stdout is None or self._process.stdout.closed:
            return
        os.set_blocking(self.fileno(), False)
        with contextlib.suppress(BlockingIOError):  # a process of the guest that is not quite gone holds it open
            while self.read_lines() is not None:
                pass
        self._process.stdout.close()

    def fileno(self) -> int:
        """Readable when the guest has printed something or is gone."""
        if self._process is None or self._process.stdout is None:
            raise GuestError(f"guest {self.name} does not run")
        return self._process.stdout.fileno()

    def read_lines(self) -> list[str] | None:
        """Whole lines printed since the last call; None: the guest is gone."""
        data = os.read(self.fileno(), READ_BYTES)
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [raw.decode(errors="replace").rstrip("\r") for raw in whole]
        self.console.lines.extend(lines)
        return lines

    def wait_for(self, kind: str, text: str, deadline_seconds: float) -> None:
        """Return as soon as the script has reported this."""
        wanted = f"{REPORT_PREFIX}{kind} {text}"
        for _guest, line in watch([self], deadline_seconds):
            if line == wanted:
                return
        raise GuestError(f"guest {self.name} ended without reporting {kind} {text}", self.console.tail())

    def run(self, deadline_seconds: float) -> dict[str, str]:
        """Wait until the guest has powered off; return what its script reported. GuestError: it failed."""
        for _ in watch([self], deadline_seconds):
            pass
        return self.outcome()

    def outcome(self) -> dict[str, str]:
        """What the script of a guest that is gone reported. GuestError: it failed."""
        reports = self.console.reports
        if reports.get("status") != "0":
            reason = f"its script ended with status {reports['status']}" if "status" in reports else "it died"
            step = f' at "{reports["step"]}"' if "step" in reports else ""
            raise GuestError(f"guest {self.name}: {reason}{step}", self.console.tail())
        return reports


def watch(guests: Iterable[UmlGuest], deadline_seconds: float) -> Iterator[tuple[UmlGuest, str]]:
    """Yield the lines of all guests as they come, until the last of them is gone. GuestError: one is too slow."""
    deadline = time.monotonic() + deadline_seconds
    with selectors.DefaultSelector() as selector:
        for guest in guests:
            selector.register(guest, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                late = [key.fileobj for key in selector.get_map().values() if isinstance(key.fileobj, UmlGuest)]
                names = ", ".join(f"guest {guest.name}" for guest in late)
                raise GuestError(f"not finished after {deadline_seconds:.0f} s: {names}", late[0].console.tail())
            for key, _ in ready:
                if isinstance(key.fileobj, UmlGuest):
                    yield from _lines(key.fileobj, selector)


def _lines(guest: UmlGuest, selector: selectors.BaseSelector) -> Iterator[tuple[UmlGuest, str]]:
    lines = guest.read_lines()
    if lines is None:
        selector.unregister(guest)
    else:
        yield from ((guest, line) for line in lines)
