"""What a server tells of itself: to the control socket, to `top`, and as metrics. Any thread may read what was made.

Counters only grow while a server runs. Sizes are bytes, times are seconds, unless a name says otherwise. A volume's
counters are those of all its queues, and outlive its front ends.
"""

from typing import Literal

from msgspec import Struct, field


class FrontEnd(Struct, frozen=True, kw_only=True):
    """Who is connected to a volume, and since when (Unix time)."""

    process: int
    user: int
    since: float


class Limits(Struct, frozen=True, kw_only=True):
    """What a volume may take; None: no limit. Bursts are what may come at once, as given or else the usual ones."""

    iops: int | None = None
    iops_burst: int | None = None  # requests
    bandwidth: int | None = None  # bytes a second
    bandwidth_burst: int | None = None  # bytes
    wear_budget: int | None = None  # bytes of flash programmed a day
    wear_burst: int | None = None  # bytes of flash programmed
    when_spent: Literal["throttle", "read-only", "alarm"] = "throttle"


class Budget(Struct, frozen=True, kw_only=True):
    """Of a wear budget: how much is left of it now."""

    per_day: int  # bytes of flash programmed
    burst: int  # bytes: the most that is saved up
    left: int  # bytes that may be programmed at once; negative: collection has cost more than was foreseen
    spent: bool  # nothing is left, and what was configured for that holds
    times_spent: int  # since the server began


class HealthStatus(Struct, frozen=True, kw_only=True):
    """What the platform lets a volume do, and why."""

    state: Literal["normal", "durable", "throttled", "read-only", "offline"] = "normal"
    causes: list[str] = []  # in words
    frozen: bool = False  # what was accepted is not written either
    write_rate: int | None = None  # bytes a second, while it is throttled
    alarms: list[str] = []


# failed: a write or a sync was lost, every flush fails. Else the strictest of what the platform has it in, of what it
# was configured as, and of its budget.
VolumeState = Literal["serving", "durable", "throttled", "read-only", "offline", "failed"]


class VolumeStatus(Struct, frozen=True, kw_only=True):
    """One volume."""

    name: str
    flash: str | None  # by name; None: it is no part of one
    size: int
    socket: str
    state: VolumeState
    read_only: bool  # as it was made or configured
    critical: bool  # what it reads comes before what others want
    queues: int
    front_end: FrontEnd | None
    write_through: bool
    requests: dict[str, int]  # by kind: read, write, flush, discard, write_zeroes, secure_erase, get_id, lifetime, ...
    bytes_read: int
    bytes_written: int
    bytes_discarded: int
    errors: int
    refused: int  # of them: since the platform does not allow it
    unsupported: int
    malformed: int
    in_flight: int
    delayed: int  # requests that had to wait for a limit
    latency: dict[str, list[int]]  # by class (read, write, flush, other): requests by bucket, see Status
    limits: Limits
    programmed: int | None = None  # bytes of flash, for this volume; None: not counted
    budget: Budget | None = None
    health: HealthStatus = field(default_factory=HealthStatus)


class WearStatus(Struct, frozen=True, kw_only=True):
    """What one volume has cost its flash since the server began. None: not counted, or no budget."""

    name: str
    flash: str | None
    bytes_written: int  # by its machine
    programmed: int | None  # bytes of flash, for this volume
    write_amplification: float | None  # programmed / bytes_written; None: nothing was written yet, too
    when_spent: Literal["throttle", "read-only", "alarm"]
    budget: Budget | None


class FlashStatus(Struct, frozen=True, kw_only=True):
    """One flash that volumes share."""

    name: str
    path: str
    profile: str
    kind: str  # emmc, nand, nor
    size: int  # of the user area
    free: int  # that belongs to no volume
    read_only: bool
    celsius: float
    pre_eol_info: int  # as EXT_CSD codes it: 0 unknown, 1 normal, 2 warning, 3 urgent
    lifetime_a: int  # in tenths of the lifetime, 1: up to 10 % used; 11: exceeded
    lifetime_b: int
    host_bytes: int  # written by guests, that reached the translation layer
    programmed_bytes: int  # all frames
    write_amplification: float  # of all that was ever written
    erases: int
    blocks: int
    free_blocks: int
    bad_blocks: int
    spare_blocks: int
    lost_units: int
    corrected_bits: int


class SensorStatus(Struct, frozen=True, kw_only=True):
    """What one sensor said last."""

    name: str
    unit: str
    value: float | None  # None: there is no reading
    age: float  # seconds
    problem: str | None = None  # why there is none


class ReactorStatus(Struct, frozen=True, kw_only=True):
    """One thread of the data plane."""

    name: str
    io: str
    wakeups: int


class Status(Struct, frozen=True, kw_only=True):
    """All of a server."""

    version: str
    process: int
    started: float  # Unix time
    uptime: float
    configuration: str | None  # the file
    log_level: str
    latency_bounds_ns: list[int]  # upper bounds of the buckets of every histogram; what is above counts in the last
    volumes: list[VolumeStatus] = field(default_factory=list)
    flashes: list[FlashStatus] = field(default_factory=list)
    sensors: list[SensorStatus] = field(default_factory=list)
    reactors: list[ReactorStatus] = field(default_factory=list)
