"""Thresholds, by what their sensor measures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtflash.config.measured import (
    MEASURES,
    NUMBER,
    PERCENT,
    TEMPERATURE,
    VOLTAGE,
    Measure,
    measure_of,
    of_sensor,
)


@pytest.mark.parametrize(
    ("quantity", "written", "value", "shown"),
    [
        ("temperature", "85 degC", 85.0, "85 degC"),
        ("temperature", "86.5degC", 86.5, "86.5 degC"),
        ("temperature", " -40 degC ", -40.0, "-40 degC"),
        ("temperature", "358.15 K", 85.0, "85 degC"),
        ("temperature", "0 K", -273.15, "-273.15 degC"),
        ("voltage", "3.1 V", 3.1, "3.1 V"),
        ("voltage", "3100 mV", 3.1, "3.1 V"),
        ("voltage", "0 V", 0.0, "0 V"),
        ("life_time_b", "80 %", 80.0, "80 %"),
        ("life_time_b", "80%", 80.0, "80 %"),
        ("life_time_b", 80, 80.0, "80 %"),
        ("life_time_b", 99.5, 99.5, "99.5 %"),
        ("life_time_b", "120 %", 120.0, "120 %"),
        ("spare", "10", 10.0, "10 %"),
        ("pre_eol", 2, 2.0, "2"),
        ("pre_eol", "2", 2.0, "2"),
        ("life_time_b_code", 11, 11.0, "11"),
        ("corrected_bits", 40, 40.0, "40 %"),
        ("load", -0.25, -0.25, "-0.25"),
        ("load", "1234567", 1234567.0, "1234567"),
    ],
)
def test_what_is_meant(quantity: str, written: str | float, value: float, shown: str) -> None:
    measure = measure_of(f"emmc0.{quantity}")
    assert measure.read(written) == value
    assert measure.show(value) == shown


@pytest.mark.parametrize(
    ("quantity", "written"),
    [
        ("temperature", "85"),
        ("temperature", 85),
        ("temperature", "85 C"),
        ("temperature", "85 degF"),
        ("temperature", "85 degC/s"),
        ("temperature", "hot"),
        ("temperature", ""),
        ("temperature", "-1 K"),
        ("temperature", "2000 degC"),
        ("temperature", "1e2 degC"),
        ("temperature", "٨ degC"),
        ("voltage", "3.1"),
        ("voltage", "3.1 v"),
        ("voltage", "3.1 A"),
        ("voltage", "-1 V"),
        ("voltage", "5 kV"),
        ("life_time_b", "-1 %"),
        ("life_time_b", "80 percent"),
        ("life_time_b", "1001 %"),
        ("spare", "10 blocks"),
        ("pre_eol", "2 %"),
        ("pre_eol", 256),
        ("life_time_b_code", "90 %"),
        ("life_time_b_code", -1),
        ("corrected_bits", -1),
        ("corrected_bits", "4 bits"),
        ("load", "1 V"),
        ("load", math.nan),
        ("load", math.inf),
        ("load", 10**400),
        ("load", "9" * 5000),
    ],
)
def test_what_is_refused_and_what_is_expected_instead(quantity: str, written: str | float) -> None:
    measure = measure_of(f"emmc0.{quantity}")
    with pytest.raises(ValueError, match=r"written like|number") as told:
        measure.read(written)
    assert str(told.value) == measure.expected


@pytest.mark.parametrize(
    ("sensor", "owner", "quantity"),
    [
        ("emmc0.temperature", "emmc0", "temperature"),
        ("emmc.0.life_time_b", "emmc.0", "life_time_b"),
        ("platform.load", "platform", "load"),
        ("temperature", "", "temperature"),
        ("emmc0.", "emmc0", ""),
    ],
)
def test_a_sensor_is_named_by_owner_and_quantity(sensor: str, owner: str, quantity: str) -> None:
    assert of_sensor(sensor) == (owner, quantity)


def test_a_pushed_value_is_measured_by_its_name() -> None:
    assert measure_of("platform.voltage") is VOLTAGE
    assert measure_of("platform.temperature") is TEMPERATURE
    assert measure_of("platform.ignition") is NUMBER
    assert (MEASURES["life_time_b"], MEASURES["corrected_bits"]) == (PERCENT, PERCENT)


@given(st.sampled_from([TEMPERATURE, VOLTAGE, PERCENT, NUMBER]), st.integers(0, 900_000))
def test_what_is_shown_reads_as_the_same(measure: Measure, thousandths: int) -> None:
    value = thousandths / 1000
    assert measure.read(measure.show(value)) == value
