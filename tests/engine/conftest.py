"""Reactors on every I/O path that this kernel allows, a disk, and rings that are put away afterwards."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from served_ring import PATHS, SECTORS, ServedRing, make_disk, reactor_on

from virtflash.engine import Binding, Reactor


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    """An I/O path of a reactor."""
    return str(request.param)


@pytest.fixture
def reactor(path: str) -> Iterator[Reactor]:
    try:
        with reactor_on(path) as reactor:
            yield reactor
    except OSError as error:
        pytest.skip(f"this kernel allows no {path}: {error}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file of SECTORS sectors, each of which says its number."""
    fd = make_disk(tmp_path / "disk", SECTORS)
    yield fd
    os.close(fd)


@pytest.fixture
def serve(reactor: Reactor) -> Iterator[Callable[..., ServedRing]]:
    """Makes a ring that runs: serve(fd, sectors, binding options..., ring={...}); fd -1 is the null backing."""
    with ExitStack() as stack:

        def make(
            fd: int = -1, sectors: int = SECTORS, *, ring: dict[str, Any] | None = None, **options: Any
        ) -> ServedRing:
            served = ServedRing(options.pop("on", reactor), Binding(fd, sectors, **options), **(ring or {}))
            stack.callback(served.put_away)
            return served

        yield make
