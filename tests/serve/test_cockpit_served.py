"""The example of a cockpit, served as it stands; and a configuration as systemd starts it."""

import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from configured import Configured

from virtflash.backing import create_flash
from virtflash.config import read_configuration
from virtflash.control.client import Client
from virtflash.driver.blk import BlkDriver
from virtflash.service import Service
from virtflash.surroundings import Surroundings
from virtflash.virtio.blk import Status

COCKPIT = Path(__file__).parents[2] / "examples" / "cockpit.toml"


def test_the_example_is_served_as_it_says(tmp_path: Path) -> None:
    """What each key has led to, as the server itself tells it, and as a guest finds it."""
    shutil.copy(COCKPIT, tmp_path)
    create_flash(tmp_path / "emmc0.vflash", "automotive-tlc-emmc", capacity_bytes=8 << 30)
    path = tmp_path / COCKPIT.name
    configuration = read_configuration(path)
    with Service.create(path, configuration) as service, Surroundings(service):
        with Client(tmp_path / "run" / "control.sock") as client:
            status: dict[str, Any] = client.call("status")
        told = {volume["name"]: volume for volume in status["volumes"]}
        assert list(told) == list(configuration.volume)
        for name, section in configuration.volume.items():
            assert told[name]["size"] == section.size
            assert told[name]["limits"]["iops"] == section.iops
            assert told[name]["limits"]["wear_budget"] == section.wear_budget
            assert told[name]["queues"] == section.queues
            assert (tmp_path / section.socket).stat().st_mode & 0o777 == int(section.mode, 8)
            volume = service.server.flashes["emmc0"].pool.find(name)
            assert volume.secure_delete == section.secure_delete
            with BlkDriver(tmp_path / section.socket) as driver:
                assert driver.capacity * 512 == section.size
                serial = driver.get_id().check().data.rstrip(b"\0").decode()
                assert serial == (name if section.serial is None else section.serial)
                assert driver.write(0, name.encode().ljust(512)).status == Status.OK
                assert driver.read(0, 512).check().data == name.encode().ljust(512)
        assert told["infotainment"]["budget"]["burst"] == 2_000_000_000
        limits, section = told["infotainment"]["limits"], configuration.volume["infotainment"]
        for burst in ("iops_burst", "bandwidth_burst", "wear_burst"):
            assert limits[burst] == getattr(section, burst)
        assert told["cluster"]["budget"] is None
        assert status["flashes"][0]["size"] == configuration.flash["emmc0"].capacity
        assert "virtflash_volume_written_bytes_total" in (tmp_path / "virtflash.prom").read_text()
    assert not (tmp_path / "virtflash.prom").exists()


@pytest.fixture
def systemd(tmp_path: Path) -> socket.socket:
    """Where systemd would listen."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(20)
    return listening


def heard(listening: socket.socket, what: str) -> list[str]:
    """All up to the message that says so."""
    messages = []
    while not messages or what not in messages[-1].splitlines():
        messages.append(listening.recv(4096).decode())
    return messages


def test_systemd_is_told_how_it_goes(tmp_path: Path, systemd: socket.socket) -> None:
    configured = Configured(tmp_path, {"cluster": "8 MiB"})
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with systemd, configured.in_a_child(environment=environment) as child:
        assert any("STATUS=1 volumes are served" in message for message in heard(systemd, "READY=1"))
        for _ in range(3):
            heard(systemd, "WATCHDOG=1")
        configured.write({"cluster": "9 MiB"})
        child.send_signal(signal.SIGHUP)
        heard(systemd, "RELOADING=1")
        heard(systemd, "READY=1")
        configured.ask("shutdown")
        heard(systemd, "STOPPING=1")
