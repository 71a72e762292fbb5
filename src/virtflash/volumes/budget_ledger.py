"""Who notes on the flash what volumes spend of their wear budgets, ahead of it: kill -9 and power cuts forget nothing.

A thread that sleeps until a reactor asks: then all budgets are noted up to their next marks, and the marks are moved.
Until then a volume that has come to its mark takes nothing from its rings.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from virtflash.engine.allowance import Allowance
from virtflash.logs import Log
from virtflash.volumes.flash import Flash
from virtflash.volumes.wear_record import Owed, WearRecord, WearRecords

FOR_EVER = (1 << 63) - 1


class Ledgered(Flash, Protocol):
    """A flash that also keeps the host's disk in step."""

    def sync(self) -> None: ...


@dataclass
class Account:
    """`rate`: bytes a second."""

    allowance: Allowance
    rate: float


class BudgetLedger:
    """`fd`: what allowances write to when they want another mark. `clock`: nanoseconds since 1970."""

    def __init__(
        self, flash: Ledgered, granule_sectors: int, log: Log, *, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._flash, self._log, self._clock = flash, log, clock
        self._records = WearRecords(flash, granule_sectors)
        self._record = self._records.newest()
        self._accounts: dict[UUID, Account] = {}
        self._lock = threading.RLock()
        self._stopping = False
        self._thread = threading.Thread(target=self._keep, name="vf-ledger", daemon=True)
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Note what was truly spent: nothing is ahead of it any more. Also of one that was never started."""
        self._stopping = True
        os.eventfd_write(self.fd, 1)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self, *, noted: bool = True) -> None:
        """After the last front end has left. Not `noted`: the flash may not be written, and the next start takes all up
        to the marks for spent."""
        with self._lock:
            if self._accounts and noted:
                self._note({uuid: account.allowance.wear["paid_ns"] for uuid, account in self._accounts.items()})
            self._accounts.clear()
        os.close(self.fd)

    def open_account(self, uuid: UUID, allowance: Allowance, rate: float) -> None:
        """A volume has a budget of so many bytes a second from now on. What it owes already is told once, when its
        first account is opened."""
        with self._lock:
            owed = self._record.owed.get(uuid)
            if uuid not in self._accounts and owed is not None:
                allowance.owe(owed.left_of_it(rate, self._clock()))
            self._accounts[uuid] = Account(allowance, rate)
            if allowance.wear["wanted"]:  # it asked while it had no account, and nobody heard it: it will not ask again
                os.eventfd_write(self.fd, 1)

    def close_account(self, uuid: UUID, *, forget: bool = False, noted: bool = True) -> None:
        """It has none any more. `forget`: the volume is gone. `noted`: as of `close`."""
        with self._lock:
            account = self._accounts.pop(uuid, None)
            if forget:
                self._record = WearRecord(
                    self._record.generation, {other: owed for other, owed in self._record.owed.items() if other != uuid}
                )
            elif account is not None and noted:
                self._note({uuid: account.allowance.wear["paid_ns"]}, {uuid: account})

    def _keep(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not self._stopping:
            poll.poll()
            os.eventfd_read(self.fd)
            if not self._stopping:
                self._move_marks()

    def _move_marks(self) -> None:
        with self._lock:
            marks = {uuid: account.allowance.next_mark() for uuid, account in self._accounts.items()}
            kept = self._note(marks)
            for uuid, mark in marks.items():
                self._accounts[uuid].allowance.mark(mark if kept else FOR_EVER)

    def _note(self, marks: dict[UUID, int], accounts: dict[UUID, Account] | None = None) -> bool:
        """False: it cannot be. Guests do not wait for what never comes."""
        accounts = self._accounts if accounts is None else accounts
        now = self._clock()
        owed = {uuid: Owed(round(accounts[uuid].allowance.owed(mark)), now) for uuid, mark in marks.items()}
        record = WearRecord(self._record.generation + 1, {**self._record.owed, **owed})
        try:
            self._records.write(record)
            self._flash.sync()
        except OSError as error:
            self._log.error("what was spent of wear budgets cannot be noted: %s", error.strerror)
            return False
        self._record = record
        return True
