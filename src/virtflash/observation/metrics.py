"""A server's status as Prometheus metrics: names by its conventions, base units, a help text for each.

Seconds and bytes, `_total` for what only grows, ratios and no percentages (https://prometheus.io/docs/practices/naming/).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from virtflash.status import Budget, FlashStatus, Status, VolumeState, VolumeStatus

Owner = TypeVar("Owner", VolumeStatus, Budget, FlashStatus)
Labels = dict[str, str]
Described = tuple[str, str, Callable[[Owner], float | None]]  # name, help, value; None: this one has none
Values = Iterable[tuple[Labels, float]]
STATES = get_args(VolumeState)
DAY_SECONDS = 86400
LIFETIME_STEPS = 10  # an estimate of 1 is "up to 10 % used"

VOLUME_COUNTERS: Sequence[Described[VolumeStatus]] = (
    ("read_bytes", "Bytes read by requests that succeeded.", lambda volume: volume.bytes_read),
    ("written_bytes", "Bytes written by requests that succeeded.", lambda volume: volume.bytes_written),
    ("discarded_bytes", "Bytes discarded, erased, or zeroed and unmapped.", lambda volume: volume.bytes_discarded),
    ("requests_delayed", "Requests that had to wait for a limit.", lambda volume: volume.delayed),
    ("programmed_bytes", "Bytes of flash programmed for it, amplification included.", lambda volume: volume.programmed),
)
VOLUME_GAUGES: Sequence[Described[VolumeStatus]] = (
    ("size_bytes", "What its machine sees.", lambda volume: volume.size),
    ("critical", "Whether what it reads comes first.", lambda volume: volume.critical),
    ("connected", "Whether a front end is connected.", lambda volume: volume.front_end is not None),
    ("read_only", "Whether it was made or configured read-only.", lambda volume: volume.read_only),
    ("write_through", "Whether a completed write is stable.", lambda volume: volume.write_through),
    ("queues", "Request queues.", lambda volume: volume.queues),
    ("requests_in_flight", "Requests under way.", lambda volume: volume.in_flight),
    ("limit_requests_per_second", "Most requests.", lambda volume: volume.limits.iops),
    ("limit_bytes_per_second", "Most bytes read and written.", lambda volume: volume.limits.bandwidth),
)
BUDGET_COUNTERS: Sequence[Described[Budget]] = (
    ("exhaustions", "Times that its wear budget was spent.", lambda budget: budget.times_spent),
)
BUDGET_GAUGES: Sequence[Described[Budget]] = (
    (
        "bytes_per_second",
        "Most bytes of flash programmed; configured by day, told by second.",
        lambda budget: budget.per_day / DAY_SECONDS,
    ),
    ("burst_bytes", "The most of the budget that is saved up.", lambda budget: budget.burst),
    (
        "left_bytes",
        "What may be programmed at once; negative: collection has cost more than was foreseen.",
        lambda budget: budget.left,
    ),
    ("exhausted", "Whether the budget is spent.", lambda budget: budget.spent),
)
FLASH_COUNTERS: Sequence[Described[FlashStatus]] = (
    ("host_written_bytes", "Bytes of guests that reached the translation layer.", lambda flash: flash.host_bytes),
    ("programmed_bytes", "Bytes programmed, of all kinds.", lambda flash: flash.programmed_bytes),
    ("erases", "Erases of blocks.", lambda flash: flash.erases),
    ("lost_units", "Mapping units whose data could not be read any more.", lambda flash: flash.lost_units),
    ("corrected_bits", "Bits that the error correction turned.", lambda flash: flash.corrected_bits),
)
FLASH_GAUGES: Sequence[Described[FlashStatus]] = (
    ("size_bytes", "Of the user area.", lambda flash: flash.size),
    ("unallocated_bytes", "Of the user area, that belong to no volume.", lambda flash: flash.free),
    ("read_only", "Whether it takes no more writes.", lambda flash: flash.read_only),
    ("temperature_celsius", "Of the part.", lambda flash: flash.celsius),
    (
        "pre_eol_info",
        "Use of the spare blocks as EXT_CSD codes it: 0 unknown, 1 normal, 2 warning, 3 urgent.",
        lambda flash: flash.pre_eol_info,
    ),
    ("blocks", "Erase blocks, all of them.", lambda flash: flash.blocks),
    ("free_blocks", "Erase blocks that are ready to be written.", lambda flash: flash.free_blocks),
    ("bad_blocks", "Erase blocks that are not used any more.", lambda flash: flash.bad_blocks),
    ("spare_blocks", "Erase blocks that may still go bad.", lambda flash: flash.spare_blocks),
)


class StatusCollector(Collector):
    """Asks for a status each time that somebody asks for metrics."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        return families(self._status())


def families(status: Status) -> Iterator[Metric]:
    """All metrics, in the order in which they are told."""
    yield gauge("virtflash_build_info", "Of the server; the value is 1.", [({"version": status.version}, 1)])
    yield gauge("virtflash_start_time_seconds", "When it began, Unix time.", [({}, status.started)])
    yield from volume_families(status)
    yield from flash_families(status.flashes)
    wakeups = [({"reactor": reactor.name, "io": reactor.io}, reactor.wakeups) for reactor in status.reactors]
    heard = [(each, each.value) for each in status.sensors if each.value is not None]
    sensors = [({"sensor": each.name, "unit": each.unit}, value) for each, value in heard]
    yield gauge("virtflash_sensor_reading", "What each sensor that a rule is about said last, in its unit.", sensors)
    yield counter("virtflash_reactor_wakeups", "Times that the thread slept and was woken.", wakeups)


def volume_families(status: Status) -> Iterator[Metric]:
    volumes = status.volumes
    owners = [(volume_labels(volume), volume) for volume in volumes]
    yield from simple("virtflash_volume_", counter, VOLUME_COUNTERS, owners)
    yield from simple("virtflash_volume_", gauge, VOLUME_GAUGES, owners)
    budgets = [(labels, volume.budget) for labels, volume in owners if volume.budget is not None]
    yield from simple("virtflash_volume_wear_budget_", counter, BUDGET_COUNTERS, budgets)
    yield from simple("virtflash_volume_wear_budget_", gauge, BUDGET_GAUGES, budgets)
    yield gauge(
        "virtflash_volume_state",
        "Whether it is in that state; failed: a write or a sync was lost, every flush fails.",
        [(volume_labels(v) | {"state": state}, v.state == state) for v in volumes for state in STATES],
    )
    yield counter(
        "virtflash_volume_requests",
        "Requests completed.",
        [(volume_labels(v) | {"operation": kind}, n) for v in volumes for kind, n in v.requests.items()],
    )
    yield counter(
        "virtflash_volume_request_errors",
        "Requests answered with an error, some of them refused by the state of the platform, or as unsupported, and"
        " chains in which there was none.",
        [(volume_labels(v) | {"reason": reason}, n) for v in volumes for reason, n in errors(v).items()],
    )
    yield durations(status)


def flash_families(flashes: Sequence[FlashStatus]) -> Iterator[Metric]:
    yield gauge(
        "virtflash_flash_info",
        "What it is; the value is 1.",
        [({"flash": flash.name, "kind": flash.kind, "profile": flash.profile}, 1) for flash in flashes],
    )
    owners = [({"flash": flash.name}, flash) for flash in flashes]
    yield from simple("virtflash_flash_", counter, FLASH_COUNTERS, owners)
    yield from simple("virtflash_flash_", gauge, FLASH_GAUGES, owners)
    yield gauge(
        "virtflash_flash_lifetime_used_ratio",
        "At most so much of the lifetime is used, in tenths; 1.1: exceeded. Memory a is SLC, b the main area.",
        [
            ({"flash": flash.name, "memory": memory}, estimate / LIFETIME_STEPS)
            for flash in flashes
            for memory, estimate in (("a", flash.lifetime_a), ("b", flash.lifetime_b))
            if estimate
        ],
    )


def simple(
    prefix: str,
    make: Callable[[str, str, Values], Metric],
    described: Sequence[Described[Owner]],
    owners: Sequence[tuple[Labels, Owner]],
) -> Iterator[Metric]:
    """One family for each line of a table; those who have no value are left out of it."""
    for name, text, value in described:
        found = ((labels, value(owner)) for labels, owner in owners)
        yield make(prefix + name, text, [(labels, number) for labels, number in found if number is not None])


def volume_labels(volume: VolumeStatus) -> Labels:
    return {"volume": volume.name, "flash": volume.flash or ""}


def errors(volume: VolumeStatus) -> dict[str, int]:
    return {
        "error": volume.errors - volume.refused,
        "refused": volume.refused,
        "unsupported": volume.unsupported,
        "malformed": volume.malformed,
    }


def counter(name: str, text: str, values: Values) -> Metric:
    """`name` without _total."""
    family = CounterMetricFamily(name, text)
    for labels, value in values:
        family.samples.append(Sample(f"{name}_total", labels, float(value)))
    return family


def gauge(name: str, text: str, values: Values) -> Metric:
    family = GaugeMetricFamily(name, text)
    for labels, value in values:
        family.samples.append(Sample(name, labels, float(value)))
    return family


def durations(status: Status) -> Metric:
    """A histogram without _sum: the server counts requests by bucket, and what they took together is not known."""
    name = "virtflash_volume_request_duration_seconds"
    family = HistogramMetricFamily(name, "From when a request was taken from its ring until it was given back.")
    chosen = doublings(status.latency_bounds_ns)
    for volume in status.volumes:
        for operation, counts in volume.latency.items():
            labels = volume_labels(volume) | {"operation": operation}
            for bound, count in cumulative(status.latency_bounds_ns, counts, chosen):
                family.samples.append(Sample(f"{name}_bucket", labels | {"le": bound}, float(count)))
            family.samples.append(Sample(f"{name}_count", labels, float(sum(counts))))
    return family


def doublings(bounds_ns: Sequence[int]) -> list[int]:
    """Positions of bounds that are at least twice the one before, from 1 us to 20 s: a quarter of the series, no error.

    The last bound is none: its bucket counts what is above it, too.
    """
    chosen: list[int] = []
    for position, bound in enumerate(bounds_ns[:-1]):
        if 1_000 <= bound <= 20_000_000_000 and (not chosen or bound >= 2 * bounds_ns[chosen[-1]]):
            chosen.append(position)
    return chosen


def cumulative(bounds_ns: Sequence[int], counts: Sequence[int], chosen: Iterable[int]) -> Iterator[tuple[str, int]]:
    """Of each bound: how many requests were faster."""
    for position in chosen:
        yield repr(bounds_ns[position] / 1e9), sum(counts[: position + 1])
    yield "+Inf", sum(counts)
