"""A served image, as tests look at it."""

import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from virtflash.demo.server_process import ServerProcess

IMAGE_BYTES = 256 << 20
ANNOUNCE_SECONDS = 10.0


class Serve(Protocol):
    """The fixture `serve`."""

    def __call__(self, *options: str, size: int = IMAGE_BYTES, directory: Path | None = None) -> ServerProcess:
        """Serve a new sparse image of `size` bytes in `directory`, by default the test's own, with these options."""


def announced(server: ServerProcess, word: str) -> str:
    """The line of what the server says of itself that begins so. It listens a moment before it says it."""
    until = time.monotonic() + ANNOUNCE_SECONDS
    while True:
        for line in server.log.read_text().splitlines():
            if line.split()[:1] == [word]:
                return line
        assert time.monotonic() < until, f"not announced: {word}"
        time.sleep(0.005)


def volume_statistics(server: ServerProcess) -> dict[str, Any]:
    """Stop the server, which completes its statistics, and return those of its one volume."""
    server.stop()
    (volume,) = server.statistics()["volumes"]
    assert isinstance(volume, dict)
    return volume


def requests(volume: dict[str, Any]) -> Counter[str]:
    """How many requests of each type were served, on all queues."""
    total: Counter[str] = Counter()
    for queue in volume["queues"]:
        total.update(queue["requests"])
    return total


def image_bytes(image: Path, offset: int, length: int) -> bytes:
    with image.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def write_image(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def digest(data: bytes) -> str:
    """As `sha256sum` prints it of its standard input."""
    return f"{hashlib.sha256(data).hexdigest()}  -"
