"""What happened between two statuses of a server: rates, latencies, write amplification."""

from collections.abc import Sequence

from msgspec import Struct

from virtflash.status import FlashStatus, Status, VolumeStatus


class Latency(Struct, frozen=True):
    """Of the requests of one class: how many, and percentiles in seconds; None: there were none."""

    requests: int
    p50: float | None
    p99: float | None


class VolumeRates(Struct, frozen=True, kw_only=True):
    """A second, unless a name says otherwise."""

    iops: float
    bytes_read: float
    bytes_written: float
    delayed: float
    errors: int  # in all of the interval
    latency: dict[str, Latency]
    programmed: float | None  # bytes of flash; None: not counted
    write_amplification: float | None  # of the interval; None: nothing was written, or it is not counted


class FlashRates(Struct, frozen=True, kw_only=True):
    """A second."""

    programmed: float
    erases: float
    write_amplification: float | None


class Rates(Struct, frozen=True, kw_only=True):
    """By name."""

    seconds: float
    volumes: dict[str, VolumeRates]
    flashes: dict[str, FlashRates]


def rates_between(earlier: Status | None, later: Status) -> Rates:
    """None, or a status of another run of the server: since this one began."""
    same_run = earlier is not None and earlier.started == later.started and earlier.uptime < later.uptime
    before = earlier if same_run else None
    seconds = max(later.uptime - (before.uptime if before else 0.0), 1e-9)
    volumes = {volume.name: volume for volume in before.volumes} if before else {}
    flashes = {flash.name: flash for flash in before.flashes} if before else {}
    bounds = later.latency_bounds_ns
    return Rates(
        seconds=seconds,
        volumes={v.name: volume_rates(volumes.get(v.name), v, seconds, bounds) for v in later.volumes},
        flashes={f.name: flash_rates(flashes.get(f.name), f, seconds) for f in later.flashes},
    )


def volume_rates(before: VolumeStatus | None, now: VolumeStatus, seconds: float, bounds: Sequence[int]) -> VolumeRates:
    """One that was not there before, or was made anew (its counters fell), began at zero."""
    if before is not None and sum(now.requests.values()) < sum(before.requests.values()):
        before = None
    written = now.bytes_written - (before.bytes_written if before else 0)
    programmed = None if now.programmed is None else now.programmed - ((before and before.programmed) or 0)
    failed = now.errors - (before.errors if before else 0)
    return VolumeRates(
        iops=(sum(now.requests.values()) - (sum(before.requests.values()) if before else 0)) / seconds,
        bytes_read=(now.bytes_read - (before.bytes_read if before else 0)) / seconds,
        bytes_written=written / seconds,
        delayed=(now.delayed - (before.delayed if before else 0)) / seconds,
        errors=failed,
        latency={
            name: latency(counts, before.latency.get(name, []) if before else [], bounds)
            for name, counts in now.latency.items()
        },
        programmed=None if programmed is None else programmed / seconds,
        write_amplification=programmed / written if programmed is not None and written > 0 else None,
    )


def flash_rates(before: FlashStatus | None, now: FlashStatus, seconds: float) -> FlashRates:
    """What was before the server began is in the image's counters: without an earlier status nothing is known."""
    before = before or now
    written, programmed = now.host_bytes - before.host_bytes, now.programmed_bytes - before.programmed_bytes
    return FlashRates(
        programmed=programmed / seconds,
        erases=(now.erases - before.erases) / seconds,
        write_amplification=programmed / written if written > 0 else None,
    )


def latency(now: Sequence[int], before: Sequence[int], bounds_ns: Sequence[int]) -> Latency:
    counts = [count - (before[i] if i < len(before) else 0) for i, count in enumerate(now)]
    return Latency(sum(counts), percentile(counts, bounds_ns, 0.5), percentile(counts, bounds_ns, 0.99))


def percentile(counts: Sequence[int], bounds_ns: Sequence[int], share: float) -> float | None:
    """Seconds that this share of the requests did not exceed: the upper bound of a bucket, at most a quarter too much.

    Of the last bucket, which has no upper bound: its lower one.
    """
    wanted, seen = share * sum(counts), 0
    if not wanted:
        return None
    for position, count in enumerate(counts[:-1]):
        seen += count
        if seen >= wanted:
            return bounds_ns[position] / 1e9
    return bounds_ns[len(counts) - 2] / 1e9
