"""A configuration in a directory of its own, served in this process or in a child, for tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from watched_server import wait_until

from virtflash.backing import create_flash
from virtflash.config import read_configuration
from virtflash.control.client import Client
from virtflash.service import Service
from virtflash.surroundings import Surroundings

MIB = 1 << 20
CAPACITY = 96 * MIB

SERVER = """
[server]
control = "control.sock"
metrics_file = "virtflash.prom"

[flash.emmc0]
kind = "emmc"
path = "emmc0.vflash"
capacity = {capacity}
"""
VOLUME = """
[volume.{name}]
flash = "emmc0"
size = "{size}"
socket = "{name}.sock"
"""


class Configured:
    """`directory` holds the configuration and its image, a new eMMC of so many bytes."""

    def __init__(
        self, directory: Path, volumes: dict[str, str], more: str = "", flash: str = "", *, capacity: int = CAPACITY
    ) -> None:
        """`volumes`: name, then size, or size and further lines; `flash`: further lines of its section."""
        self.directory, self.path, self.capacity = directory, directory / "virtflash.toml", capacity
        create_flash(
            directory / "emmc0.vflash",
            "automotive-tlc-emmc",
            capacity_bytes=capacity,
            over_provisioning=80 if "blocks" in flash else None,
            seed=5,
        )
        self.write(volumes, more, flash)

    def write(self, volumes: dict[str, str], more: str = "", flash: str = "") -> None:
        sections = [SERVER.format(capacity=self.capacity) + flash]
        for name, what in volumes.items():
            size, _, lines = what.partition("\n")
            sections.append(VOLUME.format(name=name, size=size) + lines + "\n")
        self.path.write_text("".join(sections) + more)

    def socket(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def ask(self, method: str, **parameters: Any) -> Any:
        with Client(self.socket("control")) as client:
            return client.call(method, **parameters)

    @contextmanager
    def served(self) -> Iterator[Service]:
        """In this process."""
        with Service.create(self.path, read_configuration(self.path)) as service, Surroundings(service):
            yield service

    @contextmanager
    def in_a_child(
        self, sign: signal.Signals = signal.SIGTERM, environment: Mapping[str, str] = {}
    ) -> Iterator[subprocess.Popen[str]]:
        """Which ends by a signal."""
        command = [sys.executable, "-c", "import sys; from virtflash.cli import main; sys.exit(main())", "serve"]
        with (self.directory / "log").open("w") as log:
            child = subprocess.Popen(
                [*command, str(self.path)],
                stderr=log,
                stdout=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **environment},
            )
        try:
            wait_until(self._answers, (self.directory / "log").read_text, 10)
            yield child
        finally:
            child.send_signal(sign)
            status = child.wait(30)
        assert status == (0 if sign == signal.SIGTERM else -sign)

    def _answers(self) -> bool:
        from virtflash.control.client import ControlError

        try:
            self.ask("status")
        except ControlError:
            return False
        return True
