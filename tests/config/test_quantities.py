"""Quantities with their units."""

import pytest

from virtflash.config.quantities import ByteRate, Duration, Quantity, RequestRate, Size


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (Size, "8 GiB", 8 << 30),
        (Size, "8GiB", 8 << 30),
        (Size, "512 MB", 512_000_000),
        (Size, "1.5 KiB", 1536),
        (Size, "4096", 4096),
        (Size, 4096, 4096),
        (Size, 0, 0),
        (ByteRate, "20 GB/day", 20 * 10**9),
        (ByteRate, "1 MB/s", 86400 * 10**6),
        (ByteRate, "1 MiB / min", 1440 << 20),
        (RequestRate, "1000 /s", 1000),
        (RequestRate, "1000/s", 1000),
        (Duration, "5 s", 5000),
        (Duration, "0.5 s", 500),
        (Duration, "10 min", 600_000),
        (Duration, "2 h", 7_200_000),
        (Duration, "30 days", 30 * 86_400_000),
    ],
)
def test_what_is_meant(kind: type[Quantity], written: object, value: int) -> None:
    assert kind.read(written) == value


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Size, "8 Gib"),
        (Size, "8 GiB/s"),
        (Size, "-1"),
        (Size, -1),
        (Size, 1.5),
        (Size, True),
        (Size, "1.5"),
        (Size, ""),
        (Size, "GiB"),
        (Size, "1e3"),
        (Size, "8 GiB GiB"),
        (Size, "9999999999 TiB"),
        (Size, "٣"),
        (ByteRate, "20 GB"),
        (ByteRate, 20),
        (ByteRate, "20 /day"),
        (ByteRate, "20 GB/year"),
        (RequestRate, "1000"),
        (RequestRate, "1000 /day"),
        (RequestRate, "1 GB/s"),
        (Duration, 5),
        (Duration, "5"),
        (Duration, "5 parsecs"),
        (Duration, "5 s/s"),
        (Duration, "0.0001 s"),
    ],
)
def test_what_is_refused_and_what_is_expected_instead(kind: type[Quantity], written: object) -> None:
    with pytest.raises(ValueError, match="written like"):
        kind.read(written)
