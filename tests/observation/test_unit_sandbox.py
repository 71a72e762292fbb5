"""The server under what its unit imposes: all that it does, and which system calls it was refused meanwhile."""

import os
import signal
import socket
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest
from configured import Configured
from requirements import unavailable
from unit_sandbox import SandboxedProcess, has_namespaces
from unit_settings import METRICS_ADDRESS, SERVICE, UnitSettings
from watched_server import LOUD

from virtflash.driver.blk import BlkDriver

PROGRAM = Path(sys.executable).with_name("virtflash")
MIB = 1 << 20
GROUP = 61234  # of nobody
SECTORS = 4 * MIB // 512
VOLUMES = {"cluster": "16 MiB\nqueues = 2", "radio": '16 MiB\nwear_budget = "10 GB/day"\niops = "100000 /s"'}
# clone3: the C library takes clone instead. mbind: numpy's linear algebra would like its memory nearby.
DISPENSABLE = {"clone3", "mbind"}


# What the sandbox is

# What the unit forbids, how one is told, and by which call.
FORBIDDEN = {
    "a program that writes itself": ("import mmap; mmap.mmap(-1, 4096, prot=6)", "PermissionError", "mmap"),
    "a network": ("import socket; socket.socket(socket.AF_INET)", "Address family not supported", "socket"),
    "a namespace": (
        "import ctypes, os; c = ctypes.CDLL(None, use_errno=True);"
        "c.unshare(0x10000000); raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))",
        "PermissionError",
        "unshare",
    ),
    "another user": ("import os; os.setuid(7)", "PermissionError", "setuid"),
    "a set-user-id file": ("import os; os.chmod('f', 0o4755)", "PermissionError", "chmod"),
}


def ended(code: str, tmp_path: Path) -> tuple[int, str, Counter[str]]:
    log = tmp_path / "log"
    with SandboxedProcess(UnitSettings(), [sys.executable, "-c", code], log) as sandboxed:
        status = sandboxed.process.wait(20)
    return status, log.read_text(), sandboxed.refused.calls


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_forbidden_is_refused(what: str, tmp_path: Path) -> None:
    code, told, call = FORBIDDEN[what]
    status, log, refused = ended(code, tmp_path)
    assert status == 1
    assert told in log
    assert refused[call] == 1


# What there is not, and how one is told.
ABSENT = {
    "a place to write": ("open('{outside}/f', 'w')", "Read-only file system"),
    "a setting of the kernel": ("open('/proc/sys/kernel/hostname', 'w')", "Read-only file system"),
    "a device": ("open('/dev/fuse')", "No such file"),
    "a process of somebody else": ("open('/proc/1/status')", "No such file"),
    "a network": ("import os; assert len(os.listdir('/proc/self/net/dev_snmp6')) > 1", "AssertionError"),
}


@pytest.mark.parametrize("what", ABSENT)
def test_what_is_not_there_is_not_found(what: str, tmp_path: Path) -> None:
    if not has_namespaces():
        unavailable("namespaces of mounts and network cannot be had here")
    code, told = ABSENT[what]
    (tmp_path / "own").mkdir()
    status, log, _ = ended(code.format(outside=tmp_path), tmp_path / "own")
    assert status == 1
    assert told in log


def test_what_is_usual_is_not(tmp_path: Path) -> None:
    """The C library makes threads in an older way where clone3 is not known."""
    code = "import threading, os; t = threading.Thread(target=print); t.start(); t.join(); os.mkdir('d')"
    status, log, refused = ended(f"import os; os.chdir({str(tmp_path)!r}); {code}", tmp_path)
    assert (status, log, set(refused)) == (0, "", {"clone3"})
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700


def test_no_capability_is_left(tmp_path: Path) -> None:
    _, log, _ = ended("import sys; sys.stderr.write(open('/proc/self/status').read())", tmp_path)
    told = dict(line.split(":\t", 1) for line in log.splitlines())
    assert [int(told[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd", "Amb")] == [0] * 4
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")


# The server in it


class Systemd:
    """Where it listens for what its services tell."""

    def __init__(self, directory: Path) -> None:
        path = directory / "notify"
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}

    def hear(self, word: str) -> None:
        while word not in self.socket.recv(4096).decode().splitlines():
            continue


class Unit:
    """The service of a configuration. A context manager: started as its unit does it, and killed if it still runs."""

    def __init__(self, directory: Path, server: str = "", drop_in: str = "", volumes: dict[str, str] = VOLUMES) -> None:
        """`server`: lines of its section. `drop_in`: lines that are added to the unit's."""
        self.server, self.log = server, directory / "log"
        self.configured = Configured(directory, volumes)
        self.write(volumes)
        more = directory / "drop-in.conf"
        more.write_text(drop_in)
        self.settings = UnitSettings([SERVICE, more])

    def __enter__(self) -> Self:
        self.systemd = Systemd(self.configured.directory)
        command: list[str | Path] = [PROGRAM, "serve", self.configured.path]
        self.sandboxed = SandboxedProcess(self.settings, command, self.log, self.systemd.environment)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.systemd.socket.close()
        self.sandboxed.__exit__(*exception)

    def write(self, volumes: dict[str, str]) -> None:
        self.configured.write(volumes)
        text = self.configured.path.read_text()
        self.configured.path.write_text(text.replace("[server]", f"[server]\n{self.server}", 1))

    @property
    def io(self) -> set[str]:
        return {reactor["io"] for reactor in self.configured.ask("status")["reactors"]}

    def end(self) -> set[str]:
        """As `systemctl stop`. What it was refused that it cannot do without."""
        self.sandboxed.process.terminate()
        self.systemd.hear("STOPPING=1")
        refused = self.sandboxed.end()
        assert [line for line in self.log.read_text().splitlines() if LOUD.match(line)] == []
        return set(refused) - DISPENSABLE


def use_as_a_guest(path: Path, serial: str) -> None:
    with BlkDriver(path) as driver:
        pattern = serial.encode().ljust(4096, b".") * 16
        driver.write(8, pattern).check()
        driver.flush().check()
        assert driver.read(8, len(pattern)).check().data == pattern
        driver.discard(0, SECTORS).check()
        driver.flush().check()
        assert driver.read(8, len(pattern)).check().data == bytes(len(pattern))
        driver.write_zeroes(0, 8).check()
        assert driver.get_id().check().data.rstrip(b"\0") == serial.encode()


# What an operator may ask for, in this order.
CALLS: dict[str, dict[str, Any]] = {
    "create": {"name": "new", "flash": "emmc0", "size": "4 MiB", "socket": "new.sock"},
    "grow": {"name": "cluster", "size": "17 MiB"},
    "flush": {},
    "erase": {"name": "cluster", "secure": True},
    "refresh": {"older_than": "1 h"},
    "delete": {"name": "new", "secure": True},
    "limits": {"name": "cluster", "iops": "100000 /s"},
    "wear": {},
    "log_level": {"level": "debug"},
    "methods": {},
    "status": {},
}


def reload_with_more(unit: Unit) -> None:
    unit.write({**VOLUMES, "cluster": "20 MiB\nqueues = 2"})
    unit.sandboxed.process.send_signal(signal.SIGHUP)
    unit.systemd.hear("RELOADING=1")
    unit.systemd.hear("READY=1")
    assert {volume["name"]: volume["size"] for volume in unit.configured.ask("volumes")}["cluster"] == 20 * MIB


@pytest.mark.parametrize(
    ("io", "drop_in", "taken"),
    [
        ("auto", "", "io_uring"),
        ("io_uring-plain", "", "io_uring-plain"),
        ("threads", "", "threads"),
        ("auto", "SystemCallFilter=~io_uring_setup io_uring_enter io_uring_register\n", "threads"),
    ],
)
def test_it_does_all_that_it_does(io: str, drop_in: str, taken: str, tmp_path: Path) -> None:
    with Unit(tmp_path, f'io = "{io}"', drop_in) as unit:
        unit.systemd.hear("READY=1")
        assert unit.io == {taken}
        for name in VOLUMES:
            use_as_a_guest(unit.configured.socket(name), name)
        for method, parameters in CALLS.items():
            unit.configured.ask(method, **parameters)
        reload_with_more(unit)
        unit.systemd.hear("WATCHDOG=1")
        told = tmp_path / "virtflash.prom"
        assert "virtflash_volume_written_bytes_total" in told.read_text()
        assert told.stat().st_mode & 0o777 == 0o644, "the node exporter is another user"
        assert unit.end() == ({"io_uring_setup"} if drop_in else set())


def test_what_it_kept_is_there_when_it_comes_again(tmp_path: Path) -> None:
    unit, kept = Unit(tmp_path), bytes([7]) * 4096
    with unit, BlkDriver(ready(unit, "cluster")) as driver:
        driver.write(0, kept).check()
        driver.flush().check()
        assert unit.end() == set()
    with unit, BlkDriver(ready(unit, "cluster")) as driver:
        assert driver.read(0, len(kept)).check().data == kept
        assert unit.end() == set()


def ready(unit: Unit, name: str) -> Path:
    """Where that volume is served now."""
    unit.systemd.hear("READY=1")
    return unit.configured.socket(name)


def test_a_socket_goes_to_a_group_that_the_service_belongs_to(tmp_path: Path) -> None:
    """Of which no capability is needed."""
    if os.geteuid() != 0:
        unavailable("only root can belong to any group")
    volumes = {"cluster": f'16 MiB\nowner = "group:{GROUP}"\nmode = "0660"'}
    with Unit(tmp_path, drop_in=f"SupplementaryGroups={GROUP}\n", volumes=volumes) as unit:
        found = ready(unit, "cluster").stat()
        assert (found.st_gid, found.st_mode & 0o777) == (GROUP, 0o660)
        assert unit.end() == set()


def free_port() -> int:
    with socket.socket() as anywhere:
        anywhere.bind(("127.0.0.1", 0))
        return int(anywhere.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_prometheus_is_answered_with_the_drop_in_for_it(host: str, tmp_path: Path) -> None:
    port = free_port()
    with Unit(tmp_path, f'metrics = "{host}:{port}"', METRICS_ADDRESS.read_text()) as unit:
        ready(unit, "cluster")
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=20) as answer:
            assert "virtflash_volume_written_bytes_total" in answer.read().decode()
        assert unit.end() == set()


def test_without_it_the_service_says_in_one_line_that_it_cannot_be(tmp_path: Path) -> None:
    with Unit(tmp_path, 'metrics = "127.0.0.1:9477"') as unit:
        assert unit.sandboxed.process.wait(20) == 1
    (line,) = [line for line in unit.log.read_text().splitlines() if str(unit.configured.path) in line]
    assert "[server] metrics: " in line
    assert "Traceback" not in unit.log.read_text()


@pytest.mark.parametrize("io", ["auto", "threads"])
def test_an_image_is_served_too(io: str, tmp_path: Path) -> None:
    """What a drop-in for a real block device will need of the filter."""
    image, path, log = tmp_path / "disk.img", tmp_path / "s", tmp_path / "log"
    image.write_bytes(bytes(16 * MIB))
    command: list[str | Path] = [PROGRAM, "serve", "--image", image, "--socket", path, "--io", io]
    with SandboxedProcess(UnitSettings(), command, log) as sandboxed:
        assert sandboxed.process.stdout is not None
        assert "serves" in sandboxed.process.stdout.readline()
        use_as_a_guest(path, "disk")
        sandboxed.process.terminate()
        assert set(sandboxed.end()) <= DISPENSABLE
