"""What is spent of wear budgets, on the flash: bytes, two places, damage, cuts; and who notes it."""

import errno
import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched_server import wait_until

from virtflash.backing import create_flash
from virtflash.backing.emulated_flash import open_storage
from virtflash.engine.allowance import Allowance
from virtflash.logs import Log
from virtflash.shared_flash import open_pool
from virtflash.volumes.budget_ledger import BudgetLedger
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.wear_record import ENTRIES_MOST, Owed, WearRecord, WearRecords, parsed, serialised

owed = st.builds(Owed, st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
records = st.builds(WearRecord, st.integers(0, (1 << 64) - 1), st.dictionaries(st.uuids(), owed, max_size=ENTRIES_MOST))


@given(records)
def test_what_is_written_is_read(record: WearRecord) -> None:
    assert parsed(serialised(record)) == record


@given(records, st.integers(0, 4095), st.integers(1, 255))
def test_damage_is_found(record: WearRecord, place: int, change: int) -> None:
    data = bytearray(serialised(record))
    data[place] ^= change
    assert parsed(bytes(data)) is None


def test_there_is_room_for_all_volumes_and_no_more() -> None:
    entries = {UUID(int=number): Owed(number, number) for number in range(ENTRIES_MOST)}
    assert ENTRIES_MOST == 127
    assert parsed(serialised(WearRecord(1, entries))) == WearRecord(1, entries)
    with pytest.raises(ValueError, match="128 budgets"):
        serialised(WearRecord(1, {**entries, UUID(int=999): Owed(1, 1)}))


@pytest.mark.parametrize(
    ("seconds", "left"), [(0, 1000), (10, 900), (1000, 0), (-50, 1000)], ids=["now", "later", "paid", "clock went back"]
)
def test_time_pays_by_the_wall_clock(seconds: int, left: int) -> None:
    then = 1_700_000_000_000_000_000
    assert Owed(1000, then).left_of_it(10, then + seconds * 1_000_000_000) == left


class Carved:
    """An eMMC of 96 MiB with a table of volumes."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "emmc0.vflash"
        create_flash(self.path, "automotive-tlc-emmc", capacity_bytes=96 << 20, seed=5)
        self.open()

    def open(self) -> None:
        self.storage = open_storage(self.path, host_sync=False)
        self.pool = open_pool(self.storage)

    def reopen(self) -> None:
        self.storage.close()
        self.open()

    @property
    def records(self) -> WearRecords:
        return WearRecords(self.storage.target, self.pool.granule_sectors)

    def ledger(self, clock: Callable[[], int] = time.time_ns) -> BudgetLedger:
        return BudgetLedger(self.storage.target, self.pool.granule_sectors, Log("emmc0"), clock=clock)


@pytest.fixture
def carved(tmp_path: Path) -> Iterator[Carved]:
    flash = Carved(tmp_path)
    yield flash
    flash.storage.chip.close()


def test_two_places_in_turn_and_none_of_them_the_tables(carved: Carved) -> None:
    carved.pool.create("cluster", 8)
    for generation in range(1, 6):
        carved.records.write(WearRecord(generation, {UUID(int=1): Owed(generation, 0)}))
        assert carved.records.newest().generation == generation
    carved.reopen()
    assert [volume.name for volume in carved.pool.volumes] == ["cluster"]
    assert carved.records.newest().owed == {UUID(int=1): Owed(5, 0)}


def test_granules_without_room_are_refused(carved: Carved) -> None:
    with pytest.raises(VolumeError, match="no room"):
        WearRecords(carved.storage.target, 64)


@pytest.mark.parametrize("after", range(1, 4))
@pytest.mark.parametrize("how", range(4))
def test_a_cut_leaves_the_old_record_or_the_new_one(carved: Carved, after: int, how: int) -> None:
    carved.records.write(WearRecord(1, {UUID(int=1): Owed(1, 0)}))
    carved.storage.chip.arm_cut(after, how)
    written = 1
    try:
        for generation in range(2, 9):
            carved.records.write(WearRecord(generation, {UUID(int=1): Owed(generation, 0)}))
            written = generation
    except OSError:
        carved.storage.chip.close()
        carved.open()
    found = carved.records.newest()
    assert found.generation in (written, written + 1)
    assert found.owed == {UUID(int=1): Owed(found.generation, 0)}


def test_nobody_is_kept_waiting_for_what_cannot_be_noted(
    carved: Carved, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget holds on, for as long as the server runs."""
    ledger, allowance = carved.ledger(), Allowance()
    allowance.set_rates(wear=1000, wear_burst=1 << 20, ledger_fd=ledger.fd)
    ledger.open_account(UUID(int=7), allowance, 1000)

    def fails(_record: WearRecord) -> None:
        raise OSError(errno.EROFS, "the flash takes no more")

    monkeypatch.setattr(WearRecords, "write", lambda _self, record: fails(record))
    ledger.start()
    with caplog.at_level(logging.ERROR, "virtflash"):
        allowance.admit(4096, writes=True, now_ns=time.monotonic_ns())
        wait_until(lambda: allowance.closed_until() is not None, "the mark is moved all the same")
        ledger.stop()
    assert "cannot be noted" in caplog.text
    os.close(ledger.fd)


def test_who_asks_before_the_account_is_there_is_heard(carved: Carved) -> None:
    """A guest that writes while its volume gets a budget; its requests would wait for ever."""
    ledger, allowance = carved.ledger(), Allowance()
    ledger.start()
    allowance.set_rates(wear=1000, wear_burst=1 << 20, ledger_fd=ledger.fd)
    allowance.admit(4096, writes=True, now_ns=time.monotonic_ns())
    wait_until(lambda: not select.select([ledger.fd], [], [], 0)[0], "it was asked")
    with ledger._lock:
        assert allowance.closed_until() is None
        ledger.open_account(UUID(int=7), allowance, 1000)
    wait_until(lambda: allowance.closed_until() is not None, "the mark is moved")
    ledger.stop()
    ledger.close()


def test_accounts_over_restarts(carved: Carved) -> None:
    """A byte in a thousand seconds is paid: nothing, while a test runs."""
    uuid = UUID(int=7)
    for owed, spent in ((0, 3000), (3000, 2000), (5000, 1)):
        ledger, allowance = carved.ledger(), Allowance()
        allowance.set_rates(wear=0.001, wear_burst=1 << 20, ledger_fd=ledger.fd)
        ledger.open_account(uuid, allowance, 0.001)
        assert (1 << 20) - allowance.left() == pytest.approx(owed, abs=2)
        allowance.admit(spent, writes=True, now_ns=time.monotonic_ns())
        ledger.stop()
        ledger.close()
        carved.reopen()


def test_a_volume_that_is_gone_owes_nothing(carved: Carved) -> None:
    uuid, other = UUID(int=7), UUID(int=8)
    carved.records.write(WearRecord(1, {uuid: Owed(5, 0), other: Owed(6, 0)}))
    ledger, allowance = carved.ledger(), Allowance()
    ledger.close_account(uuid, forget=True)
    allowance.set_rates(wear=1, wear_burst=100, ledger_fd=ledger.fd)
    ledger.open_account(other, allowance, 1)
    ledger.close()
    assert set(carved.records.newest().owed) == {other}
