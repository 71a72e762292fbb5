"""The units under packaging/, as systemd reads and rates them."""

import re
import sys
from pathlib import Path

import pytest
from unit_settings import SERVICE, UnitSettings, analyze

PACKAGING = Path(__file__).resolve().parent.parent.parent / "packaging"
PROGRAM = Path(sys.executable).with_name("virtflash")
EXPOSURE_LIMIT = 2.0
IO_URING = {"io_uring_setup", "io_uring_enter", "io_uring_register"}


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


def test_the_data_plane_may_make_its_calls() -> None:
    needed = IO_URING | {"mmap", "recvmsg", "accept4", "fallocate", "fdatasync", "mlock", "eventfd2", "prctl", "ioctl"}
    allowed = UnitSettings().allowed_calls()
    assert needed <= allowed
    assert not {"mount", "ptrace", "bpf", "reboot"} & allowed


def test_peers_can_be_told_apart() -> None:
    """SO_PEERCRED tells a volume's owner only outside of a user namespace."""
    settings = UnitSettings()
    assert not settings.says("PrivateUsers")
    assert settings.last("User") == "virtflash"
    assert "u virtflash " in (PACKAGING / "sysusers.d/virtflash.conf").read_text()
