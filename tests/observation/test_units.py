"""The units under packaging/, as systemd reads and rates them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import require

PACKAGING = Path(__file__).resolve().parent.parent.parent / "packaging"
SERVICE = PACKAGING / "systemd/virtflash.service"
PROGRAM = Path(sys.executable).with_name("virtflash")
EXPOSURE_LIMIT = 2.0
IO_URING = {"io_uring_setup", "io_uring_enter", "io_uring_register"}


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    require("systemd-analyze")
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def exposure(unit: Path) -> float:
    rated = analyze("security", "--offline=true", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rated.stdout)
    assert found, rated.stdout + rated.stderr
    return float(found[1])


def test_the_service_is_exposed_little() -> None:
    assert exposure(SERVICE) < EXPOSURE_LIMIT


def test_a_service_without_its_hardening_would_be_found_out(tmp_path: Path) -> None:
    bare = tmp_path / "virtflash.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) > EXPOSURE_LIMIT


@pytest.mark.parametrize(
    ("unit", "name"),
    [(SERVICE, "virtflash.service"), (SERVICE.with_name("virtflash@.socket"), "virtflash@cluster.socket")],
)
def test_units_are_understood(unit: Path, name: str, tmp_path: Path) -> None:
    for path in SERVICE.parent.glob("virtflash*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/virtflash", str(PROGRAM)))
    checked = analyze("verify", "--man=no", tmp_path / name)
    assert checked.returncode == 0
    assert "virtflash" not in checked.stderr, checked.stderr
    assert unit.exists()


def allowed_calls() -> set[str]:
    """Of the service's filter: lists are united, ~ lists taken away, in their order."""
    allowed: set[str] = set()
    for line in SERVICE.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            words = line.removeprefix("SystemCallFilter=")
            calls = {call for word in words.removeprefix("~").split() for call in members(word)}
            allowed = allowed - calls if words.startswith("~") else allowed | calls
    return allowed


def members(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    listed = analyze("syscall-filter", word).stdout.splitlines()[1:]
    names = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return {call for name in names for call in members(name)}


def test_the_data_plane_may_make_its_calls() -> None:
    needed = IO_URING | {"mmap", "recvmsg", "accept4", "fallocate", "fdatasync", "mlock", "eventfd2", "prctl", "ioctl"}
    assert needed <= allowed_calls()
    assert not {"mount", "ptrace", "bpf", "reboot"} & allowed_calls()


def test_peers_can_be_told_apart() -> None:
    """SO_PEERCRED tells a volume's owner only outside of a user namespace."""
    settings = [line for line in SERVICE.read_text().splitlines() if not line.startswith("#")]
    assert "PrivateUsers=yes" not in settings
    assert "User=virtflash" in settings
    assert "u virtflash " in (PACKAGING / "sysusers.d/virtflash.conf").read_text()
