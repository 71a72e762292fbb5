"""Metrics as Prometheus reads them: names that follow its conventions, values that are the status's."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from made_status import cockpit, histogram, status, volume
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from virtflash.observation.exposition import registry_of
from virtflash.status import Status

BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_celsius", "_bytes_per_second", "_requests_per_second")
OTHER_UNITS = ("millisecond", "_ms", "_us", "_ns", "kilobyte", "megabyte", "percent", "kelvin", "_day", "_tenths")
UNITLESS = {
    "sensor_reading",  # counts, switches and codes: nothing to convert
    "blocks", "free_blocks", "bad_blocks", "spare_blocks", "pre_eol_info", "read_only", "connected", "critical",
    "write_through", "queues", "state", "requests_in_flight", "info", "wear_budget_exhausted", "build_info",
}  # fmt: skip
COUNTED = {
    "requests", "request_errors", "requests_delayed", "wear_budget_exhaustions", "erases", "lost_units",
    "corrected_bits", "wakeups",
}  # fmt: skip
Key = tuple[str, frozenset[tuple[str, str]]]


def exposed(made: Status) -> list[Metric]:
    return list(text_string_to_metric_families(generate_latest(registry_of(lambda: made)).decode()))


def values(made: Status) -> dict[Key, float]:
    return {(s.name, frozenset(s.labels.items())): s.value for metric in exposed(made) for s in metric.samples}


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


def bare(name: str) -> str:
    return re.sub("^virtflash_(volume_|flash_|reactor_)?", "", name)


@pytest.mark.parametrize("metric", exposed(cockpit()), ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch("virtflash(_[a-z0-9]+)+", metric.name)
    assert metric.documentation[0] == metric.documentation[0].upper()
    assert metric.documentation.endswith(".")
    assert not any(f"{unit}_" in f"{metric.name}_" for unit in OTHER_UNITS)
    assert metric.samples, "a status with everything in it fills every family"
    name = bare(metric.name)
    if metric.type == "counter":
        assert all(sample.name == f"{metric.name}_total" for sample in metric.samples)
        assert name.endswith("_bytes") or name in COUNTED
    else:
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert name.endswith(BASE_UNITS) or name in UNITLESS
    for sample in metric.samples:
        assert set(sample.labels) <= {
            "volume", "flash", "operation", "le", "state", "reason", "memory", "reactor", "io", "version", "kind",
            "sensor", "unit",
            "profile",
        }  # fmt: skip
        assert ("volume" in sample.labels) == metric.name.startswith("virtflash_volume_")


def test_no_series_comes_twice() -> None:
    series = Counter((s.name, frozenset(s.labels.items())) for metric in exposed(cockpit()) for s in metric.samples)
    assert {key: count for key, count in series.items() if count > 1} == {}


VOLUME_FIELDS: dict[str, Callable[[Status], dict[str, float | None]]] = {
    "size_bytes": lambda s: {v.name: v.size for v in s.volumes},
    "read_bytes_total": lambda s: {v.name: v.bytes_read for v in s.volumes},
    "written_bytes_total": lambda s: {v.name: v.bytes_written for v in s.volumes},
    "discarded_bytes_total": lambda s: {v.name: v.bytes_discarded for v in s.volumes},
    "requests_in_flight": lambda s: {v.name: v.in_flight for v in s.volumes},
    "requests_delayed_total": lambda s: {v.name: v.delayed for v in s.volumes},
    "connected": lambda s: {v.name: v.front_end is not None for v in s.volumes},
    "critical": lambda s: {v.name: v.critical for v in s.volumes},
    "read_only": lambda s: {v.name: v.read_only for v in s.volumes},
    "write_through": lambda s: {v.name: v.write_through for v in s.volumes},
    "queues": lambda s: {v.name: v.queues for v in s.volumes},
    "programmed_bytes_total": lambda s: {v.name: v.programmed for v in s.volumes},
    "limit_requests_per_second": lambda s: {v.name: v.limits.iops for v in s.volumes},
    "limit_bytes_per_second": lambda s: {v.name: v.limits.bandwidth for v in s.volumes},
    "wear_budget_bytes_per_second": lambda s: {v.name: v.budget and v.budget.per_day / 86400 for v in s.volumes},
    "wear_budget_burst_bytes": lambda s: {v.name: v.budget and v.budget.burst for v in s.volumes},
    "wear_budget_left_bytes": lambda s: {v.name: v.budget and v.budget.left for v in s.volumes},
    "wear_budget_exhausted": lambda s: {v.name: v.budget and v.budget.spent for v in s.volumes},
    "wear_budget_exhaustions_total": lambda s: {v.name: v.budget and v.budget.times_spent for v in s.volumes},
}
FLASH_FIELDS: dict[str, Callable[[Status], dict[str, float | None]]] = {
    "size_bytes": lambda s: {f.name: f.size for f in s.flashes},
    "unallocated_bytes": lambda s: {f.name: f.free for f in s.flashes},
    "read_only": lambda s: {f.name: f.read_only for f in s.flashes},
    "temperature_celsius": lambda s: {f.name: f.celsius for f in s.flashes},
    "pre_eol_info": lambda s: {f.name: f.pre_eol_info for f in s.flashes},
    "host_written_bytes_total": lambda s: {f.name: f.host_bytes for f in s.flashes},
    "programmed_bytes_total": lambda s: {f.name: f.programmed_bytes for f in s.flashes},
    "erases_total": lambda s: {f.name: f.erases for f in s.flashes},
    "blocks": lambda s: {f.name: f.blocks for f in s.flashes},
    "free_blocks": lambda s: {f.name: f.free_blocks for f in s.flashes},
    "bad_blocks": lambda s: {f.name: f.bad_blocks for f in s.flashes},
    "spare_blocks": lambda s: {f.name: f.spare_blocks for f in s.flashes},
    "lost_units_total": lambda s: {f.name: f.lost_units for f in s.flashes},
    "corrected_bits_total": lambda s: {f.name: f.corrected_bits for f in s.flashes},
}


@pytest.mark.parametrize("name", VOLUME_FIELDS)
def test_a_volumes_values_are_the_statuses(name: str) -> None:
    found = {
        dict(labels)["volume"]: value
        for (metric, labels), value in values(cockpit()).items()
        if metric == f"virtflash_volume_{name}"
    }
    assert found == {owner: value for owner, value in VOLUME_FIELDS[name](cockpit()).items() if value is not None}


@pytest.mark.parametrize("name", FLASH_FIELDS)
def test_a_flashes_values_are_the_statuses(name: str) -> None:
    found = {
        dict(labels)["flash"]: value
        for (metric, labels), value in values(cockpit()).items()
        if metric == f"virtflash_flash_{name}"
    }
    assert found == FLASH_FIELDS[name](cockpit())


def test_every_field_of_the_status_is_a_metric_or_left_out_on_purpose() -> None:
    """A field that somebody adds to the status is not forgotten here."""
    left_out = {"name", "socket", "path", "write_amplification", "front_end", "profile", "kind"}
    looks = {"requests", "errors", "unsupported", "malformed", "latency", "state", "lifetime_a", "lifetime_b", "flash"}
    looks |= {"refused", "health"}
    made = values(cockpit())
    for owner in (cockpit().volumes[0], cockpit().flashes[0]):
        for field in msgspec.structs.fields(owner):
            words = {"bytes_read": "read_bytes", "bytes_written": "written_bytes", "bytes_discarded": "discarded_bytes"}
            words |= {"celsius": "temperature_celsius", "host_bytes": "host_written_bytes", "size": "size_bytes"}
            words |= {"free": "unallocated_bytes", "programmed": "programmed_bytes", "limits": "limit_bytes_per_second"}
            words |= {
                "budget": "wear_budget_left_bytes",
                "delayed": "requests_delayed",
                "in_flight": "requests_in_flight",
            }
            name = words.get(field.name, field.name)
            known = any(bare(metric).removesuffix("_total") == name for metric, _ in made)
            assert known or field.name in left_out | looks, field.name


def test_what_comes_by_kind() -> None:
    made, owner = values(cockpit()), {"volume": "cluster", "flash": "emmc0"}
    requests = cockpit().volumes[0].requests
    assert requests
    for kind, count in requests.items():
        assert made[key("virtflash_volume_requests_total", operation=kind, **owner)] == count
    for reason, count in (("error", 3), ("unsupported", 4), ("malformed", 5)):
        assert made[key("virtflash_volume_request_errors_total", reason=reason, **owner)] == count


def test_states_are_one_of_three() -> None:
    made = values(cockpit())
    for name, flash, state in (("infotainment", "emmc0", "read-only"), ("boot", "", "serving")):
        told = {
            word: made[key("virtflash_volume_state", volume=name, flash=flash, state=word)]
            for word in ("serving", "read-only", "failed")
        }
        assert told == {word: float(word == state) for word in told}


def test_lifetimes_are_ratios_and_unknown_ones_are_not_told() -> None:
    made = values(cockpit())
    assert made[key("virtflash_flash_lifetime_used_ratio", flash="emmc0", memory="b")] == 0.2
    assert key("virtflash_flash_lifetime_used_ratio", flash="nor0", memory="a") not in made


def test_the_server_itself() -> None:
    made = values(cockpit())
    assert made[key("virtflash_build_info", version="0.1.0")] == 1
    assert made[key("virtflash_start_time_seconds")] == cockpit().started
    assert made[key("virtflash_reactor_wakeups_total", reactor="reactor-0", io="io_uring")] == 17
    assert made[key("virtflash_flash_info", flash="emmc0", kind="emmc", profile="MLC eMMC")] == 1


def test_durations_are_a_cumulative_histogram_without_a_sum() -> None:
    made = status([volume("v", latency={"read": histogram(us0=1, us100=990, us5000=10, us2_000_000_000=2)})])
    prefix = "virtflash_volume_request_duration_seconds"
    buckets = {
        float(dict(labels)["le"]): value for (name, labels), value in values(made).items() if name == f"{prefix}_bucket"
    }
    bounds = sorted(buckets)
    assert [buckets[bound] for bound in bounds] == sorted(buckets.values())
    assert all(high >= 2 * low for low, high in pairwise(bounds))
    assert len(bounds) < 30
    assert buckets[bounds[0]] == 1
    assert buckets[max(bound for bound in bounds if bound <= 100e-6)] == 1
    assert buckets[min(bound for bound in bounds if bound >= 128e-6)] == 991
    assert buckets[min(bound for bound in bounds if bound >= 10e-3)] == 1001
    assert buckets[bounds[-2]] == 1001, "half an hour is above every finite bound"
    assert buckets[float("inf")] == 1003
    assert values(made)[key(f"{prefix}_count", volume="v", flash="", operation="read")] == 1003
    assert not any(name == f"{prefix}_sum" for name, _ in values(made))


def test_a_server_without_volumes_has_metrics() -> None:
    assert key("virtflash_build_info", version="0.1.0") in values(status())
