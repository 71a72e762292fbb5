"""An export in this process, driven through its socket, with a look at what the data plane was told."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtflash.driver.blk import BlkDriver
from virtflash.export import Export
from virtflash.server import Options, Server, Volume


@pytest.fixture
def export(tmp_path: Path) -> Iterator[tuple[Export, Path]]:
    image, socket = tmp_path / "disk.img", tmp_path / "disk.sock"
    image.touch()
    os.truncate(image, 1 << 20)
    with Server.create([Volume(image, socket_path=socket)], Options()) as server:
        yield server.served[0].export, socket


@pytest.mark.parametrize(("base", "through"), [(0, False), (5, True), (0xFFFF, True)])
def test_a_ring_that_begins_in_its_middle_is_write_through(
    export: tuple[Export, Path], base: int, through: bool
) -> None:
    """Its driver may have chosen so before, at a server that is gone."""
    served, socket = export
    with BlkDriver(socket, start=False) as driver:
        driver.negotiate()
        driver.share_memory()
        driver.make_queues()
        driver.queues[0].reset(base)
        driver.queues[0].start(driver.front_end, base=base)
        driver.write(0, bytes(512)).check()
        assert served.binding.write_through is through
        driver.front_end.set_config(32, b"\1")
        driver.front_end.round_trip()
        assert not served.binding.write_through, "the driver's own choice"


def test_a_ring_that_the_same_front_end_stopped_goes_on_as_it_was(export: tuple[Export, Path]) -> None:
    served, socket = export
    with BlkDriver(socket) as driver:
        for _ in range(3):
            driver.write(0, bytes(512)).check()
        (base,) = driver.stop_queues()
        assert base == 3
        driver.queues[0].start(driver.front_end, base=base)
        driver.write(0, bytes(512)).check()
        assert not served.binding.write_through
