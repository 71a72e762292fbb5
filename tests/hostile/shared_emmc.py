"""An emulated eMMC in a directory, and a configuration of volumes that share it."""

from collections.abc import Sequence
from pathlib import Path

from watched_server import WatchedServer

from virtflash.backing import create_flash

SECTION = """
[volume.{name}]
flash = "emmc0"
size = "{size} MiB"
socket = "{name}.sock"
read_only = {read_only}
"""


class SharedEmmc:
    """`names` are its volumes, of `size` MiB each. The directory is the caller's."""

    def __init__(self, directory: Path, names: Sequence[str], size: int) -> None:
        self.names, self.size = names, size
        self.path = directory / "virtflash.toml"
        self.sockets = [directory / f"{name}.sock" for name in names]
        capacity = 2 * len(names) * size << 20
        create_flash(directory / "emmc0.vflash", "automotive-tlc-emmc", capacity_bytes=capacity, seed=1)

    def server(self, *, read_only: bool = False) -> WatchedServer:
        """Not started yet. There is one at a time."""
        shown = str(read_only).lower()
        volumes = [SECTION.format(name=name, size=self.size, read_only=shown) for name in self.names]
        self.path.write_text('[flash.emmc0]\nkind = "emmc"\npath = "emmc0.vflash"\n' + "".join(volumes))
        return WatchedServer.of(self.path, self.sockets)
