"""What the state of the platform does to volumes that are served: verdicts of the policy, made true on the data plane.

The gate closes first, and what becomes of accepted writes comes second: they are made stable, or, frozen, nothing more
is written, and a flush succeeds only where there is nothing to flush.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock

from virtflash.export import Export
from virtflash.health.platform_state import PERMISSIONS, Permission, PlatformState
from virtflash.health.policy import FREE, Verdict
from virtflash.logs import Log
from virtflash.server import Served, Server
from virtflash.shared_flash import SharedFlash
from virtflash.volumes.errors import VolumeError

BURST_SECONDS = 0.1  # of the rate of a throttled volume
BURST_LEAST = 128 << 10  # bytes: less would let a single request wait for the whole bucket


class PlatformGate:
    """All volumes of a server; one that no verdict was passed on is free. From any thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._verdicts: dict[str, Verdict] = {}
        self._lock = RLock()

    def verdict(self, name: str) -> Verdict:
        return self._verdicts.get(name, FREE)

    def apply(self, verdicts: Mapping[str, Verdict]) -> None:
        """Critical volumes come first: there may be little time."""
        with self._lock:
            self._verdicts = dict(verdicts)
            self._restrain_flashes()
            for served in sorted(self._server.served, key=lambda served: not served.export.binding.critical):
                if served.export.name in verdicts:
                    self._change(served, served.export.verdict, self.verdict(served.export.name))

    @contextmanager
    def admitting(self, export: Export, flash: SharedFlash) -> Iterator[None]:
        """A volume that is about to be served begins in the state that holds. No verdict comes before it is served: it
        would not be found."""
        with self._lock:
            self._restrain_flashes()
            enter(export, flash, FREE, self.verdict(export.name))
            yield

    def settle(self) -> None:
        """Before the end: a flash on which a volume is frozen is not tidied up, so the others' data is made stable."""
        for served in self._server.served:
            frozen = served.flash is not None and served.flash.frozen
            if frozen and not self.verdict(served.export.name).freeze:
                make_stable(served.export)

    def _change(self, served: Served, before: Verdict, verdict: Verdict) -> None:
        """`before`: what is in force for it, and not only was passed: a change that failed is made the next time."""
        known = {alarm.rule for alarm in before.alarms}
        for alarm in verdict.alarms:
            if alarm.rule not in known:
                served.export.log.warning("alarm: %s", alarm.words, extra={"event": {"kind": "health-alarm"}})
        if before.effect == verdict.effect:
            served.export.verdict = verdict
            return
        enter(served.export, served.flash, before, verdict)
        tell(served.export.log, before.state, verdict)

    def _restrain_flashes(self) -> None:
        for flash in self._server.flashes.values():
            restrain(flash, [self.verdict(volume.name) for volume in flash.pool.volumes])


def tell(log: Log, before: PlatformState, verdict: Verdict) -> None:
    """A state that is entered or left, and why."""
    causes = [cause.words for cause in verdict.causes]
    data = {"kind": "state-changed", "state": verdict.state.word, "before": before.word, "causes": causes}
    level = logging.WARNING if verdict.state > before else logging.INFO
    why = f": {'; '.join(causes)}" if causes else ""
    frozen = ", frozen" if verdict.freeze else ""
    log.log(level, "%s%s%s", verdict.state.word, frozen, why, extra={"event": data})


def enter(export: Export, flash: SharedFlash | None, before: Verdict, verdict: Verdict) -> None:
    permission = PERMISSIONS[verdict.state]
    durable = permission.durable or verdict.durable
    refused = permission.refused | ({"flush"} if verdict.freeze else frozenset())
    export.binding.set_gate(refused, durable=durable, frozen=verdict.freeze)
    throttle(export, verdict, permission)  # with the gate closed: those that wait for a rate are refused now
    if verdict.freeze and flash is not None and has_nothing_to_flush(export, flash):
        export.binding.set_gate(permission.refused, durable=durable, frozen=True)
    elif not verdict.freeze and (before.freeze or verdict.state > before.state or (durable and not before.durable)):
        make_stable(export)  # also of what was frozen: its flushes have failed, and no driver has to repeat them
    export.verdict = verdict


def throttle(export: Export, verdict: Verdict, permission: Permission) -> None:
    rate = (verdict.write_rate or 0) if permission.limited else 0
    if export.binding.allowance is not None:
        export.binding.allowance.throttle(rate, max(rate * BURST_SECONDS, BURST_LEAST))


def make_stable(export: Export) -> None:
    """What was accepted before. A failure is latched, and told by the volume's own events too."""
    try:
        export.binding.sync()
    except OSError as error:
        export.log.error("what was accepted before could not be made stable: %s", error.strerror or error)


def has_nothing_to_flush(export: Export, flash: SharedFlash) -> bool:
    """Of a frozen volume: then a flush may say so. Nothing is accepted after this was asked."""
    try:
        return not flash.is_unstable(export.name)
    except VolumeError:  # it has been deleted meanwhile: nobody is there to flush it
        return False
    except OSError as error:
        export.log.error("frozen, and the host's disk does not keep up: %s", error.strerror or error)
        return False


def restrain(flash: SharedFlash, verdicts: Sequence[Verdict]) -> None:
    """What a flash does for its own sake has to be right for all of its volumes; writing it at all, for one of them."""
    flash.background = all(PERMISSIONS[verdict.state].background for verdict in verdicts)
    flash.writable = not verdicts or any(verdict.state < PlatformState.READ_ONLY for verdict in verdicts)
    flash.frozen = any(verdict.freeze for verdict in verdicts)
    flash.black_box.frozen = flash.frozen or not flash.writable
