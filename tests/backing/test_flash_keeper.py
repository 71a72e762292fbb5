"""Who looks after a flash: time passes, old data is refreshed, the patrol goes round, and room is given back."""

import logging

import pytest

from virtflash.backing.emulated_flash import create_flash, open_storage
from virtflash.backing.flash_keeper import FlashKeeper
from virtflash.ftl.judgement import CLOSED
from virtflash.logs import Log

MEBIBYTE = 1 << 20


@pytest.fixture
def storage(tmp_path):
    path = tmp_path / "flash.vflash"
    create_flash(path, "automotive-tlc-emmc", capacity_bytes=64 * MEBIBYTE, seed=3)
    storage = open_storage(path, host_sync=False)
    yield storage
    storage.close()


def keeper(storage, tick_seconds=10.0):
    return FlashKeeper(storage, Log("test"), tick_seconds=tick_seconds)


def test_time_passes_once(storage):
    before = storage.chip.counters()["hours"]
    storage.aged -= 3600
    keeper(storage).look_after()
    keeper(storage).look_after()
    assert storage.chip.counters()["hours"] - before == pytest.approx(1.0, abs=0.01)


def test_data_that_is_old_at_its_temperature_is_refreshed(storage):
    storage.target.write(0, bytes(range(256)) * 16 * 1024 * 8)
    storage.target.flush()
    looks = keeper(storage)
    for _ in range(5 * 12):  # five years, a month at a time; in one go nothing could be read after them
        storage.target.age(30 * 86400, 85.0)
        looks.look_after()
        while storage.target.work():
            pass
    assert storage.translation.counters["refreshed_blocks"] > 0
    assert storage.target.condition()["blocks_to_refresh"] == 0
    assert storage.target.read(0, 8) == bytes(range(256)) * 16


def test_the_patrol_reads_what_nobody_reads(storage):
    storage.target.write(0, bytes(8 * MEBIBYTE))
    storage.target.flush()
    reads = storage.chip.counters()["reads"]
    ended = False
    for _ in range(10_000):
        if storage.target.care(frames=8):
            ended = True
            break
    assert ended
    assert storage.chip.counters()["reads"] > reads


def test_what_is_to_be_refreshed_is_though_no_machine_is_connected(storage):
    storage.target.write(0, bytes(range(256)) * 4096 * 16)
    storage.target.flush()
    looks = keeper(storage)
    looks.look_after()  # something was written since the last time
    table, _ = storage.translation.snapshot()
    storage.target.care(refresh=[int(block) for block in (table["use"] == CLOSED).nonzero()[0]])
    due = storage.target.condition()["blocks_to_refresh"]
    assert due > 0
    looks.look_after()
    assert storage.translation.counters["refreshed_blocks"] > 0
    assert storage.target.condition()["blocks_to_refresh"] < due
    assert storage.target.read(0, 8) == bytes(range(256)) * 16


def test_room_of_trimmed_data_is_given_back_while_idle(storage, tmp_path):
    image = tmp_path / "flash.vflash"
    storage.target.write(0, b"x" * (48 * MEBIBYTE))
    storage.target.flush()
    full = image.stat().st_blocks
    storage.target.change(0, 0, 48 * MEBIBYTE // 512)
    storage.target.flush()
    looks = keeper(storage)
    looks.look_after()  # something was written since the last time
    assert image.stat().st_blocks > full // 2
    looks.look_after()
    assert image.stat().st_blocks < full // 4
    erases = storage.translation.counters["erases"]
    looks.look_after()
    assert storage.translation.counters["erases"] == erases  # what is blank is not erased again


def test_an_error_of_the_flash_ends_it_with_a_line(storage, caplog):
    def broken(_call):
        raise OSError(5, "Input/output error")

    storage.target.owner = broken
    looks = keeper(storage, tick_seconds=0.001)
    with caplog.at_level(logging.ERROR):
        looks.start()
        looks._thread.join(10)
    assert not looks._thread.is_alive()
    assert "looked after no more" in caplog.text
    storage.target.owner = None
