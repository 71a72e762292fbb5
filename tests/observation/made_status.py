"""Statuses for tests: as a server fills them, with figures that tell the fields apart."""

import msgspec

from virtflash.engine import LATENCY_BOUNDS
from virtflash.status import Budget, FlashStatus, FrontEnd, Limits, ReactorStatus, SensorStatus, Status, VolumeStatus

KINDS = ("read", "write", "flush", "discard", "write_zeroes", "secure_erase", "get_id", "lifetime", "unknown")
CLASSES = ("read", "write", "flush", "other")
STARTED = 1_700_000_000.0


def histogram(**counts_by_microseconds: int) -> list[int]:
    """us100=5: five requests of 100 microseconds."""
    counts = [0] * len(LATENCY_BOUNDS)
    for key, count in counts_by_microseconds.items():
        counts[bucket_of(int(key.removeprefix("us")) * 1000)] += count
    return counts


def bucket_of(nanoseconds: int) -> int:
    return next((i for i, bound in enumerate(LATENCY_BOUNDS[:-1]) if nanoseconds < bound), len(LATENCY_BOUNDS) - 1)


def volume(name: str, **fields: object) -> VolumeStatus:
    """A volume that has done nothing yet, without limits."""
    plain = VolumeStatus(
        name=name,
        flash=None,
        size=1 << 30,
        socket=f"run/{name}.sock",
        state="serving",
        read_only=False,
        critical=False,
        queues=1,
        front_end=None,
        write_through=False,
        requests=dict.fromkeys(KINDS, 0),
        bytes_read=0,
        bytes_written=0,
        bytes_discarded=0,
        errors=0,
        refused=0,
        unsupported=0,
        malformed=0,
        in_flight=0,
        delayed=0,
        latency={name: histogram() for name in CLASSES},
        limits=Limits(),
    )
    return msgspec.structs.replace(plain, **fields)


def flash(name: str, **fields: object) -> FlashStatus:
    plain = FlashStatus(
        name=name,
        path=f"{name}.vflash",
        profile="MLC eMMC",
        kind="emmc",
        size=8 << 30,
        free=1 << 30,
        read_only=False,
        celsius=45.5,
        pre_eol_info=1,
        lifetime_a=1,
        lifetime_b=2,
        host_bytes=0,
        programmed_bytes=0,
        write_amplification=1.0,
        erases=0,
        blocks=512,
        free_blocks=100,
        bad_blocks=3,
        spare_blocks=8,
        lost_units=0,
        corrected_bits=0,
    )
    return msgspec.structs.replace(plain, **fields)


def status(
    volumes: list[VolumeStatus] | None = None, flashes: list[FlashStatus] | None = None, **fields: object
) -> Status:
    plain = Status(
        version="0.1.0",
        process=4242,
        started=STARTED,
        uptime=100.0,
        configuration="cockpit.toml",
        log_level="info",
        latency_bounds_ns=LATENCY_BOUNDS,
        volumes=volumes or [],
        flashes=flashes or [],
        sensors=[SensorStatus(name="emmc0.temperature", unit="degC", value=41.5, age=0.5)],
        reactors=[ReactorStatus(name="reactor-0", io="io_uring", wakeups=17)],
    )
    return msgspec.structs.replace(plain, **fields)


def cockpit() -> Status:
    """One with everything in it: three volumes on a flash, one beside it; every optional field is filled somewhere."""
    cluster = volume(
        "cluster",
        flash="emmc0",
        critical=True,
        queues=2,
        front_end=FrontEnd(process=811, user=990, since=STARTED + 5),
        requests={kind: 1000 * (i + 1) for i, kind in enumerate(KINDS)},
        bytes_read=4_096_000,
        bytes_written=8_192_000,
        bytes_discarded=1_048_576,
        errors=3,
        refused=0,
        unsupported=4,
        malformed=5,
        in_flight=7,
        latency={
            "read": histogram(us100=990, us5000=10),
            "write": histogram(us200=2000),
            "flush": histogram(us3000=3000),
            "other": histogram(us2_000_000_000=33),
        },
        programmed=20_000_000,
    )
    infotainment = volume(
        "infotainment",
        flash="emmc0",
        size=4 << 30,
        state="read-only",
        write_through=True,
        delayed=120,
        limits=Limits(iops=5000, bandwidth=100_000_000, wear_budget=20_000_000_000, when_spent="read-only"),
        budget=Budget(per_day=20_000_000_000, burst=2_000_000_000, left=-5_000_000, spent=True, times_spent=2),
        programmed=30_000_000_000,
    )
    telematics = volume(
        "telematics",
        flash="emmc0",
        state="failed",
        limits=Limits(wear_budget=1_000_000_000, when_spent="alarm"),
        budget=Budget(per_day=1_000_000_000, burst=500_000_000, left=250_000_000, spent=False, times_spent=0),
        programmed=1_500_000,
    )
    boot = volume("boot", read_only=True)
    emmc = flash(
        "emmc0",
        host_bytes=10_000_000_000,
        programmed_bytes=30_021_500_000,
        write_amplification=3.0,
        erases=4321,
        lost_units=6,
        corrected_bits=987_654,
        read_only=True,
    )
    return status([cluster, infotainment, telematics, boot], [emmc, flash("nor0", kind="nor", lifetime_a=0)])
