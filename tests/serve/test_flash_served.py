"""Emulated flash, served: what is offered, that it does what it says, and that it outlives its server."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from watched_server import WatchedServer

from virtflash.backing import BackingError, create_flash, open_flash
from virtflash.backing.emmc import EmmcError, SwitchError
from virtflash.driver.blk import BlkDriver
from virtflash.server import Options, Server, Volume
from virtflash.virtio.blk import CONFIG_WRITEBACK_OFFSET, LIFETIME, BlkFeature, Status

SECTOR = 512
MIB = 1 << 20
CAPACITY = 96 * MIB
PROFILES = {
    "tlc": ("automotive-tlc-emmc", CAPACITY, 65536),
    "mlc": ("mlc-emmc", CAPACITY, 16384),
    "nand": ("slc-nand-256m", None, 4096),
    "nor": ("qspi-nor-64m", None, 4096),
}
ServeFlash = Callable[..., tuple[Server, Path]]


def make_flash(path: Path, kind: str = "tlc") -> Path:
    profile, capacity, _ = PROFILES[kind]
    create_flash(path, profile, capacity_bytes=capacity, seed=5)
    return path


@pytest.fixture
def serve_flash(tmp_path: Path) -> Iterator[ServeFlash]:
    """Serve an image of emulated flash in this process, by default a new one. Returns the server and the socket."""
    with ExitStack() as stack:

        def serve(image: Path | None = None, kind: str = "tlc", **options: Any) -> tuple[Server, Path]:
            socket = tmp_path / f"{len(list(tmp_path.iterdir()))}.sock"
            image = image or make_flash(tmp_path / f"{kind}.vflash", kind)
            server = stack.enter_context(Server.create([Volume(flash=image, socket_path=socket)], Options(**options)))
            return server, socket

        yield serve


@pytest.mark.parametrize("kind", PROFILES)
def test_what_is_offered_is_the_flashs_own(serve_flash: ServeFlash, kind: str) -> None:
    _, socket = serve_flash(kind=kind)
    with BlkDriver(socket) as driver:
        config = driver.config
        for feature in ("FLUSH", "CONFIG_WCE", "DISCARD", "WRITE_ZEROES", "SECURE_ERASE", "LIFETIME", "TOPOLOGY"):
            assert driver.front_end.offered & BlkFeature[feature], feature
        assert config.blk_size << config.physical_block_exp == 4096
        assert config.opt_io_size * SECTOR == PROFILES[kind][2]
        assert config.discard_sector_alignment == config.secure_erase_sector_alignment == 8
        assert config.write_zeroes_may_unmap == 1
        assert LIFETIME.unpack(driver.get_lifetime().check().data) == (1, 1, 1)
        if PROFILES[kind][1]:
            assert config.capacity == CAPACITY // SECTOR


@pytest.mark.parametrize("options", [{}, {"io": "threads"}, {"queues": 3, "reactors": 2}], ids=str)
def test_it_reads_as_it_was_written(serve_flash: ServeFlash, options: dict[str, Any]) -> None:
    _, socket = serve_flash(**options)
    rng, model = random.Random(1), bytearray(2 * MIB)
    queues = options.get("queues", 1)
    with BlkDriver(socket, queues=queues) as driver:
        for step in range(300):
            sector, count = rng.randrange(len(model) // SECTOR - 300), rng.randrange(1, 300)
            span, queue = slice(sector * SECTOR, (sector + count) * SECTOR), step % queues
            kind = rng.choice(["write", "write", "read", "zeroes", "unmap", "flush"])
            if kind == "write":
                model[span] = rng.randbytes(count * SECTOR)
                driver.write(sector, bytes(model[span]), queue=queue).check()
            elif kind == "read":
                assert driver.read(sector, count * SECTOR, queue=queue).check().data == model[span]
            elif kind == "flush":
                driver.flush(queue=queue).check()
            else:
                model[span] = bytes(count * SECTOR)
                driver.write_zeroes(sector, count, unmap=kind == "unmap", queue=queue).check()
        for sector in range(0, len(model) // SECTOR, 512):
            data = driver.read(sector, 512 * SECTOR).check().data
            assert data == model[sector * SECTOR : (sector + 512) * SECTOR]


def test_a_discard_unmaps_and_a_secure_erase_leaves_no_copy(serve_flash: ServeFlash, tmp_path: Path) -> None:
    server, socket = serve_flash()
    secret = b"top secret pattern " * 1000
    secret = secret[: len(secret) // 4096 * 4096]
    translation = server.served[0].export.backing.flash.translation
    with BlkDriver(socket) as driver:
        for _ in range(2):
            driver.write(0, secret).check()
            driver.flush().check()
        driver.discard(0, len(secret) // SECTOR).check()
        driver.flush().check()
        assert not any(driver.read(0, len(secret)).check().data)
        assert not translation.is_mapped(0)
        assert b"top secret pattern" in (tmp_path / "tlc.vflash").read_bytes(), "stale pages still hold it"
        driver.secure_erase(0, len(secret) // SECTOR).check()
        assert b"top secret pattern" not in (tmp_path / "tlc.vflash").read_bytes()


def test_a_secure_erase_that_is_not_aligned_is_refused(serve_flash: ServeFlash) -> None:
    _, socket = serve_flash()
    with BlkDriver(socket) as driver:
        driver.write(0, b"s" * 8192).check()
        assert driver.secure_erase(1, 8).status != Status.OK
        assert driver.read(0, 8192).check().data == b"s" * 8192


def test_ranges_of_the_whole_device(serve_flash: ServeFlash) -> None:
    _, socket = serve_flash(kind="nor")
    with BlkDriver(socket) as driver:
        driver.write(64, b"w" * 65536).check()
        driver.discard(0, driver.capacity).check()
        driver.write_zeroes(0, driver.capacity, unmap=True).check()
        driver.secure_erase(0, driver.capacity // 8 * 8).check()
        driver.flush().check()
        assert not any(driver.read(64, 65536).check().data)


def test_counters_of_the_flash(serve_flash: ServeFlash) -> None:
    server, socket = serve_flash(kind="mlc")
    with BlkDriver(socket) as driver:
        driver.write(0, os.urandom(MIB)).check()
        driver.flush().check()
        driver.read(0, 4096).check()
        driver.discard(0, 256).check()
    flash = server.statistics()["volumes"][0]["flash"]
    assert flash["kind"] == "emmc"
    assert flash["device"]["bytes_written"] == MIB
    assert flash["device"]["bytes_read"] == 4096
    assert flash["device"]["units_trimmed"] == 32
    assert flash["device"]["evicted_units"] == flash["translation"]["host_units"] == 256
    assert flash["translation"]["read_units"] >= 1
    assert flash["condition"]["read_only"] is False
    assert flash["lifetime"] == {"pre_eol_info": 1, "estimate_a": 1, "estimate_b": 1}


def test_the_device_can_be_asked_while_guests_are_served(serve_flash: ServeFlash) -> None:
    """Every call of the eMMC's face runs on the reactor, between two requests."""
    server, socket = serve_flash()
    emmc = server.served[0].export.backing.flash.emmc
    stop, failures = threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not stop.is_set():
                assert emmc.ext_csd()[192] == emmc.profile.revision
                emmc.switch(32, 1)  # FLUSH_CACHE
                emmc.switch(165, 1)  # SANITIZE_START
                emmc.set_write_protect(emmc.layout.user - 1)
        except (AssertionError, OSError, EmmcError, SwitchError) as error:
            failures.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    with BlkDriver(socket) as driver:
        for number in range(150):
            data = bytes([number]) * 65536
            driver.write(number * 64, data).check()
            assert driver.read(number * 64, 65536).check().data == data
        stop.set()
        asker.join()
        assert not failures
        assert driver.write(driver.capacity - 8, bytes(4096)).status == Status.IOERR, "its group is protected"
        driver.flush().check()


def test_it_is_all_there_after_a_stop_and_nothing_has_to_be_replayed(serve_flash: ServeFlash, tmp_path: Path) -> None:
    image, data = make_flash(tmp_path / "flash.vflash"), os.urandom(MIB)
    with Server.create([Volume(flash=image, socket_path=tmp_path / "a.sock")], Options()) as server:
        with BlkDriver(tmp_path / "a.sock") as driver:
            driver.write(8, data).check()  # and no flush: a stop in order loses nothing
        assert server.served[0].export.backing.flash.emmc is not None
    server, socket = serve_flash(image)
    assert server.served[0].export.backing.flash.translation.clean
    with BlkDriver(socket) as driver:
        assert driver.read(8, MIB).check().data == data


def test_read_only(serve_flash: ServeFlash, tmp_path: Path) -> None:
    image = make_flash(tmp_path / "flash.vflash")
    earlier = Server.create([Volume(flash=image, socket_path=tmp_path / "a.sock")], Options())
    with earlier, BlkDriver(tmp_path / "a.sock") as driver:
        driver.write(0, b"r" * 4096).check()
    before = image.read_bytes()
    _, socket = serve_flash(image, read_only=True)
    with BlkDriver(socket) as driver:
        assert driver.front_end.offered & BlkFeature.RO
        assert not driver.front_end.offered & (BlkFeature.DISCARD | BlkFeature.SECURE_ERASE)
        assert driver.read(0, 4096).check().data == b"r" * 4096
        assert driver.write(0, bytes(4096)).status == Status.IOERR
        driver.flush().check()
    assert image.read_bytes() == before


def test_two_servers_cannot_have_one_flash(serve_flash: ServeFlash, tmp_path: Path) -> None:
    serve_flash()
    with pytest.raises(BackingError, match="another"):
        open_flash(tmp_path / "tlc.vflash")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no image|empty|not|short"), (b"\x00" * 65536, "not|no "), (os.urandom(65536), "not|no ")],
    ids=["empty", "zeroes", "noise"],
)
def test_what_is_no_flash_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.img"
    path.write_bytes(content)
    with pytest.raises(BackingError, match=message) as refused:
        open_flash(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


# Killing the server is a power cut


@pytest.fixture(params=[(), ("--no-host-sync",), ("--io", "threads")], ids=["host-sync", "no-host-sync", "threads"])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WatchedServer]:
    image = make_flash(tmp_path / "flash.vflash", "mlc")
    server = WatchedServer(tmp_path, [], "--flash", str(image), *request.param, sockets=[tmp_path / "flash.sock"])
    with server:
        yield server


def test_what_was_flushed_outlives_kill_9(process: WatchedServer) -> None:
    rng, flushed = random.Random(2), dict[int, bytes]()
    for _ in range(6):
        with BlkDriver(process.sockets[0]) as driver:
            for sector, data in flushed.items():
                assert driver.read(sector, len(data)).check().data == data
            for _ in range(20):
                sector = rng.randrange(2000) * 16
                flushed[sector] = rng.randbytes(8192)
                driver.write(sector, flushed[sector]).check()
            driver.flush().check()
            for _ in range(20):
                driver.write(32000 + rng.randrange(2000) * 16, rng.randbytes(8192)).check()
            process.signal(signal.SIGKILL)
            assert process.process is not None
            process.process.wait()
        process.start()
    assert "recovered" in "\n".join(process.lines())


def test_what_completed_in_write_through_outlives_kill_9(process: WatchedServer) -> None:
    data = os.urandom(65536)
    with BlkDriver(process.sockets[0]) as driver:
        driver.front_end.set_config(CONFIG_WRITEBACK_OFFSET, b"\0")
        driver.write(100, data).check()
        driver.write_zeroes(100, 8).check()
        process.signal(signal.SIGKILL)
        assert process.process is not None
        process.process.wait()
    process.start()
    with BlkDriver(process.sockets[0]) as driver:
        assert driver.read(100, 65536).check().data == bytes(4096) + data[4096:]


def test_real_time(serve_flash: ServeFlash) -> None:
    """A read waits for the cells; what the cache takes does not."""
    _, socket = serve_flash(kind="mlc", timing="real")
    with BlkDriver(socket) as driver:
        driver.write(0, os.urandom(4096)).check()
        start = time.monotonic_ns()
        driver.flush().check()
        flushed = time.monotonic_ns() - start
        assert flushed > 100_000, "a program takes longer"
        start = time.monotonic_ns()
        driver.read(0, 4096).check()
        assert time.monotonic_ns() - start > 20_000
