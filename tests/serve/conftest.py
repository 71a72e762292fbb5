"""The server in this process."""

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from served_disk import IMAGE_BYTES, Disk, ServeDisk

from virtflash.server import Options, Server, Volume


@pytest.fixture
def serve_disk(tmp_path: Path) -> Iterator[ServeDisk]:
    """Serve an image, by default a new one of random content; `null` instead; options as of the command line."""
    with ExitStack() as stack:

        def serve(image: Path | None = None, *, null: int | None = None, **options: Any) -> Disk:
            socket = tmp_path / f"{len(list(tmp_path.iterdir()))}.sock"
            if image is None and null is None:
                image = tmp_path / "disk.img"
                image.write_bytes(os.urandom(IMAGE_BYTES))
            server = Server.create([Volume(image, null, socket)], Options(**options))
            return Disk(stack.enter_context(server))

        yield serve
    gc.collect()  # a binding and its queues know each other: their descriptors are given back now, not in another test
