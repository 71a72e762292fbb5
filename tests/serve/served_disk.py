"""A volume that is served in this process, where a test can look at it and make its disk fail."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtflash.export import Export
from virtflash.server import Server

IMAGE_BYTES = 4 << 20
WRITTEN_BYTES = 512 << 10


def make_image(path: Path, *, full: bool = False) -> Path:
    """IMAGE_BYTES of which the first part, or all, is of random content; the rest is a hole, which spares the disk."""
    path.write_bytes(os.urandom(IMAGE_BYTES if full else WRITTEN_BYTES))
    os.truncate(path, IMAGE_BYTES)
    return path


class Disk:
    """A volume that is served: `socket` for front ends, `export` for a look behind."""

    def __init__(self, server: Server, image: Path | None = None) -> None:
        self.server = server
        served = server.served[0]
        self.export: Export = served.export
        assert served.socket_path is not None
        self.socket: Path = served.socket_path
        self.image = image or Path()

    @property
    def binding(self) -> Any:
        return self.export.binding

    def content(self, sector: int, length: int) -> bytes:
        """What the image holds, in bytes."""
        with self.image.open("rb") as file:
            return os.pread(file.fileno(), length, sector * 512)


ServeDisk = Callable[..., Disk]
