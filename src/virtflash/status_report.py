"""A server's `Status`, taken from what runs: counters are read while the data plane goes on counting."""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from virtflash import __version__
from virtflash.engine import LATENCY_BOUNDS
from virtflash.engine.allowance import Allowance
from virtflash.export import Export
from virtflash.health.platform_state import PlatformState
from virtflash.health.policy import Verdict
from virtflash.server import Served, Server
from virtflash.shared_flash import SECTOR_BYTES, SharedFlash
from virtflash.status import (
    Budget,
    FlashStatus,
    FrontEnd,
    HealthStatus,
    Limits,
    ReactorStatus,
    Status,
    VolumeState,
    VolumeStatus,
    WearStatus,
)
from virtflash.volumes.limits import DAY_SECONDS, VolumeLimits

if TYPE_CHECKING:
    from virtflash.engine.reactor import QueueStatistics

SPENT_SHARE = 3 / 8  # of the burst: with more left than this, a budget that was spent is there again


def status(server: Server, *, configuration: str | None, log_level: str) -> Status:
    """All of it, now."""
    return Status(
        version=__version__,
        process=os.getpid(),
        started=server.started,
        uptime=time.time() - server.started,
        configuration=configuration,
        log_level=log_level,
        latency_bounds_ns=LATENCY_BOUNDS,
        volumes=[volume_status(served) for served in server.served],
        flashes=[flash_status(flash) for flash in server.flashes.values()],
        reactors=[
            ReactorStatus(name=reactor.name, io=reactor.io_path, wakeups=reactor.wakeups) for reactor in server.reactors
        ],
    )


def volume_status(served: Served) -> VolumeStatus:
    export, flash = served.export, served.flash
    counted = [queue.statistics() for queue in export.queues]
    allowance = export.binding.allowance
    limits = VolumeLimits() if flash is None else flash.limits.get(export.name, VolumeLimits())
    budget = budget_of(allowance, limits)
    return VolumeStatus(
        name=export.name,
        flash=None if flash is None else flash.name,
        size=export.device.capacity_sectors * SECTOR_BYTES,
        socket=served.at,
        state=state_of(export, limits, budget),
        read_only=export.backing.read_only,
        critical=export.binding.critical,
        queues=export.queue_count,
        front_end=front_end_of(served),
        write_through=export.binding.write_through,
        requests=requests_of(counted),
        bytes_read=sum(queue["bytes_read"] for queue in counted),
        bytes_written=sum(queue["bytes_written"] for queue in counted),
        bytes_discarded=sum(queue["bytes_discarded"] for queue in counted),
        errors=sum(queue["errors"] for queue in counted),
        refused=sum(queue["refused"] for queue in counted),
        unsupported=sum(queue["unsupported"] for queue in counted),
        malformed=sum(queue["malformed"] for queue in counted),
        in_flight=sum(queue["in_flight"] for queue in counted),
        delayed=0 if allowance is None else allowance.delayed,
        latency=latency_of(counted),
        limits=limits_of(limits),
        programmed=None if flash is None else flash.programmed(export.name),
        budget=budget,
        health=health_of(export.verdict),
    )


def health_of(verdict: Verdict) -> HealthStatus:
    return HealthStatus(
        state=verdict.state.word,
        causes=[cause.words for cause in verdict.causes],
        frozen=verdict.freeze,
        write_rate=verdict.write_rate,
        alarms=[alarm.words for alarm in verdict.alarms],
    )


SERVING: dict[PlatformState, VolumeState] = {
    PlatformState.NORMAL: "serving",
    PlatformState.DURABLE: "durable",
    PlatformState.THROTTLED: "throttled",
    PlatformState.READ_ONLY: "read-only",
    PlatformState.OFFLINE: "offline",
}


def requests_of(counted: "Sequence[QueueStatistics]") -> dict[str, int]:
    return {kind: sum(queue["requests"][kind] for queue in counted) for kind in counted[0]["requests"]}


def latency_of(counted: "Sequence[QueueStatistics]") -> dict[str, list[int]]:
    return {
        kind: [sum(bucket) for bucket in zip(*(queue["latency"][kind]["counts"] for queue in counted), strict=True)]
        for kind in counted[0]["latency"]
    }


def front_end_of(served: Served) -> FrontEnd | None:
    peer = served.door.peer  # one look: it may leave meanwhile
    return None if peer is None else FrontEnd(process=peer.process, user=peer.user, since=served.door.since)


def state_of(export: Export, limits: VolumeLimits, budget: Budget | None) -> VolumeState:
    if export.binding.sync_failed:
        return "failed"
    spent = budget is not None and budget.spent and limits.when_spent == "read-only"
    own = PlatformState.READ_ONLY if export.backing.read_only or spent else PlatformState.NORMAL
    state = max(own, export.verdict.state)
    return SERVING[state]


def limits_of(limits: VolumeLimits) -> Limits:
    return Limits(
        iops=limits.iops,
        iops_burst=burst_of(limits.iops, limits.iops_burst, limits.burst_requests),
        bandwidth=None if limits.bandwidth is None else limits.bandwidth // DAY_SECONDS,
        bandwidth_burst=burst_of(limits.bandwidth, limits.bandwidth_burst, limits.bandwidth_burst_bytes),
        wear_budget=limits.wear_budget,
        wear_burst=burst_of(limits.wear_budget, limits.wear_burst, limits.wear_burst_bytes),
        when_spent=limits.when_spent,
    )


def burst_of(limit: int | None, given: int | None, in_force: float) -> int | None:
    """One that was given is told even while there is no limit, since it waits for one."""
    return given if limit is None else round(in_force)


def budget_of(allowance: Allowance | None, limits: VolumeLimits) -> Budget | None:
    if allowance is None or limits.wear_budget is None:
        return None
    left, burst, wear = allowance.left(), limits.wear_burst_bytes, allowance.wear
    return Budget(
        per_day=limits.wear_budget,
        burst=round(burst),
        left=round(left),
        spent=wear["spent"] and left < burst * SPENT_SHARE,
        times_spent=wear["times_spent"],
    )


def wear_status(served: Served) -> WearStatus:
    volume = volume_status(served)
    written, programmed = volume.bytes_written, volume.programmed
    return WearStatus(
        name=volume.name,
        flash=volume.flash,
        bytes_written=written,
        programmed=programmed,
        write_amplification=programmed / written if written and programmed is not None else None,
        when_spent=volume.limits.when_spent,
        budget=volume.budget,
    )


def flash_status(flash: SharedFlash) -> FlashStatus:
    from virtflash.report.flash_report import amplification_of  # noqa: PLC0415

    told = flash.storage.statistics()
    translation, condition, lifetime, chip = (told[key] for key in ("translation", "condition", "lifetime", "chip"))
    unit = flash.storage.target.unit_bytes
    amplification = amplification_of(flash.storage, flash.storage.translation.counters)
    return FlashStatus(
        name=flash.name,
        path=flash.backing.description,
        profile=told["profile"],
        kind=told["kind"],
        size=flash.backing.capacity_sectors * SECTOR_BYTES,
        free=flash.pool.free_sectors * SECTOR_BYTES,
        read_only=flash.read_only or condition["read_only"],
        celsius=chip["celsius"],
        pre_eol_info=lifetime["pre_eol_info"],
        lifetime_a=lifetime["estimate_a"],
        lifetime_b=lifetime["estimate_b"],
        host_bytes=translation["host_units"] * unit,
        programmed_bytes=amplification.flash_bytes,
        write_amplification=amplification.total or 1.0,
        erases=translation["erases"],
        blocks=condition["blocks"],
        free_blocks=condition["free_blocks"],
        bad_blocks=condition["bad_blocks"],
        spare_blocks=condition["spare_blocks"],
        lost_units=translation["lost_units"],
        corrected_bits=translation["corrected_bits"],
    )
