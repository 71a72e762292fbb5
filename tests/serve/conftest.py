"""The server in this process."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from served_disk import Disk, ServeDisk, make_image
from watched_server import has_direct_io

from virtflash.server import Options, Server, ServerError, Volume


@pytest.fixture(scope="session")
def quick_collection() -> Iterator[None]:
    """What is there before the first of these tests is not looked at again when its garbage is collected."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def serve_disk(tmp_path: Path, quick_collection: None) -> Iterator[ServeDisk]:
    """Serve an image, by default a new one (see make_image); `null` instead; options as of the command line."""
    with ExitStack() as stack:

        def serve(image: Path | None = None, *, null: int | None = None, full: bool = False, **options: Any) -> Disk:
            if options.get("direct") and null is None and not has_direct_io(tmp_path):
                pytest.skip(f"{tmp_path}: its file system has no direct I/O")
            socket = tmp_path / f"{len(list(tmp_path.iterdir()))}.sock"
            if image is None and null is None:
                image = make_image(tmp_path / "disk.img", full=full)
            try:
                server = Server.create([Volume(image, null, socket)], Options(**options))
            except ServerError as error:
                if options.get("io", "").startswith("io_uring"):
                    pytest.skip(str(error))
                raise
            return Disk(stack.enter_context(server), image)

        yield serve
    gc.collect()  # a binding and its queues know each other: their descriptors are given back now, not in another test
