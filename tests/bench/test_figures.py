"""The tables of `virtflash bench`."""

from itertools import product

import pytest

from virtflash.bench.comparison import Result
from virtflash.bench.figures import compared, measured, microseconds, short
from virtflash.bench.load import bucket_bounds
from virtflash.bench.measurement import Measurement
from virtflash.bench.workload import STANDARD, Workload

BUCKETS = len(bucket_bounds())
LONG_NAME = "/run/vehicle/virtual-machines/instrument-cluster/volume-0.sock"
LOADS = [*STANDARD, Workload("mixed", 1023 << 10, 1024, 64), Workload("write", 1024512, 512, 16)]


def one(workload: Workload, bucket: int, requests: int, failed: int = 0) -> Measurement:
    """All requests of a second took as long as this bucket says."""
    counts = tuple(requests if i == bucket else 0 for i in range(BUCKETS))
    return Measurement(workload, 1.0, requests, requests, failed, 0, 0, 0, counts, cpu_seconds=requests * 99e-6)


def result(workload: Workload, bucket: int, requests: int, failed: int = 0, servers: int = 1) -> Result:
    return Result(workload, [[one(workload, bucket, requests, failed)] for _ in range(servers)])


@pytest.mark.parametrize("workload", LOADS, ids=str)
@pytest.mark.parametrize(("requests", "failed"), [(99_999, 0), (9_999_999, 9_999_999), (1, 0), (0, 5)])
def test_every_table_fits_a_terminal(workload: Workload, requests: int, failed: int) -> None:
    # More than memory moves is in no table.
    requests = min(requests, 99_000_000_000 // workload.block_bytes)
    for bucket, name in product((0, 400, BUCKETS - 1), ("virtflash", LONG_NAME)):
        tables = (
            measured([result(workload, bucket, requests, failed)]),
            compared([result(workload, bucket, requests, failed, servers=2)], [name, "qemu-storage-daemon"]),
        )
        for line in (line for table in tables for line in table):
            assert len(line) <= 80
            assert line == line.rstrip()


def test_what_failed_stands_below_the_figures() -> None:
    *_, figures, below = measured([result(Workload(), 100, 1000, failed=2000)])
    assert figures.split()[:5] == ["read", "4", "KiB", "32", "1,000"]
    assert below.strip() == "not counted above: 2,000 requests that failed or gave the wrong data"


def test_where_nothing_succeeded_nothing_is_known() -> None:
    *_, figures, _ = measured([result(Workload(), 100, 0, failed=7)])
    assert figures.split()[3:] == ["32", "0", "0", "-", "-", "-", "-"]
    nothing = compared([result(Workload(), 100, 0, failed=7, servers=2)], ["a", "b"])
    assert nothing[3].split() == ["a", "0", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.2"), (26.94, "26.9"), (1234.5, "1234"), (99_999, "99999"), (117_441, "117 ms"), (12_000_000, "12.0 s")],
)
def test_times_are_short(value: float, text: str) -> None:
    assert microseconds(value) == text


def test_of_a_long_name_the_end_is_kept() -> None:
    assert short("virtflash") == "virtflash"
    assert short(LONG_NAME) == "...cluster/volume-0.sock"
