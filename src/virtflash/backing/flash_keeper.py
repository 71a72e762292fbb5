"""Who looks after a flash while it is served: time passes for it, its data is patrolled, and judgement is passed on it.

A thread of its own, that wakes every few seconds. It looks at a snapshot of the block table without stopping anybody,
and hands over what comes of it; requests never wait for it.
"""

import threading
from typing import TYPE_CHECKING

from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.logs import Log

if TYPE_CHECKING:
    from virtflash.ftl.judgement import Advice, AgeLimits

TICK_SECONDS = 10.0
ROUND_SECONDS = 86400.0  # in which the patrol has read all that nobody else reads
FRAMES_AT_ONCE = 8  # between two turns of those who wait
STEPS_AT_ONCE = 1024  # of work ahead of need, in one tick: some blocks
BLOCKS_AT_ONCE = 1  # erased between two turns
REFRESH_SHARE = 0.6  # of the ECC's strength, for data that is only old; reads mark their blocks at 75 %


class FlashKeeper:
    """Keeps one flash. An error of the flash ends it, with a line in the log."""

    def __init__(self, storage: EmulatedStorage, log: Log, *, tick_seconds: float = TICK_SECONDS) -> None:
        self._storage = storage
        self._log = log
        self._tick_seconds = tick_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="vf-keeper", daemon=True)
        self._limits: tuple[AgeLimits, AgeLimits | None] | None = None
        self._generation = -1
        self._next_block = 0
        self._synced = self._written = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Also of one that was never started. The flash's owner has to be running still."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        while not self._stop.wait(self._tick_seconds):
            try:
                self.look_after()
            except OSError as error:
                self._log.error("the flash is looked after no more: %s", error.strerror or error)
                return

    def look_after(self) -> None:
        """One tick."""
        self._storage.age()
        if self._storage.read_only or not self._storage.target.background:
            return
        self._sync()
        advice = self._judge()
        self._storage.target.care(refresh=advice.refresh, collect=advice.collect)
        idle = self._is_idle()
        if idle:
            self._work_ahead()
        self._patrol()
        if idle:
            self._erase_ahead()

    @property
    def _host_units(self) -> int:
        return int(self._storage.translation.counters["host_units"])

    def _is_idle(self) -> bool:
        """Has nothing been written since the last tick?"""
        before, self._written = self._written, self._host_units
        return before == self._written

    def _goes_on(self) -> bool:
        """Still idle, and not to stop."""
        return not self._stop.is_set() and self._host_units == self._written

    def _work_ahead(self) -> None:
        """Refresh and the like. A reactor does it for a machine that is connected and idle, sooner; nobody else does
        where all machines are off."""
        for _ in range(STEPS_AT_ONCE):
            if not self._goes_on() or not self._storage.target.work():
                return

    def refresh_now(self) -> int:
        """Blocks whose data is too old are written anew; how many. OSError."""
        advice = self._judge()
        self._storage.target.care(refresh=advice.refresh)
        return len(advice.refresh)

    def _sync(self) -> None:
        """A guest that never flushes shall not keep checkpoints waiting: recovery would take ever longer."""
        sequence = self._storage.translation.sequence
        if sequence != self._synced:
            self._synced = sequence
            self._storage.target.sync()

    def _judge(self) -> "Advice":
        from virtflash.ftl.judgement import judge  # noqa: PLC0415

        translation = self._storage.translation
        table, self._generation = translation.snapshot()
        limits, slc_limits = self._limits or self._make_limits()
        return judge(
            table,
            translation.hours,
            translation.sequence,
            limits,
            slc_limits,
            block_units=translation.block_units,
        )

    def _make_limits(self) -> "tuple[AgeLimits, AgeLimits | None]":
        from virtflash.ftl.judgement import profile_limits  # noqa: PLC0415

        profile = self._storage.profile
        physics = profile.physics()
        slc = profile_limits(physics, share=REFRESH_SHARE, slc=True) if profile.geometry.slc_page_bytes else None
        self._limits = profile_limits(physics, share=REFRESH_SHARE), slc
        return self._limits

    def _patrol(self) -> None:
        frames = self._storage.frames * self._tick_seconds / ROUND_SECONDS
        for _ in range(max(round(frames / FRAMES_AT_ONCE), 1)):
            if self._stop.is_set() or self._storage.target.care(frames=FRAMES_AT_ONCE):
                return

    def _erase_ahead(self) -> None:
        """No write has to wait for it then, and the image gives its room back to the host."""
        for first in range(0, self._storage.blocks, BLOCKS_AT_ONCE):
            if not self._goes_on():
                return
            self._storage.target.care(first_block=first, blocks=BLOCKS_AT_ONCE)
