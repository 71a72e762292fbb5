"""What an emulated part tells of itself, and what it tells when it is made to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st
from small_part import RESERVE_BLOCKS, small_part

from virtflash.backing.emulated_flash import EmulatedStorage, create_flash, open_storage
from virtflash.config.measured import MEASURES
from virtflash.health.sensors.emulated import EmulatedSensor, Highest, emulated_sensors
from virtflash.health.sensors.sensor import SensorError

MIB = 1 << 20


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[EmulatedStorage]:
    path = tmp_path / "flash.vflash"
    create_flash(path, "automotive-tlc-emmc", capacity_bytes=64 * MIB, seed=3)
    storage = open_storage(path, host_sync=False)
    yield storage
    storage.close()


def sensor(storage: EmulatedStorage, quantity: str, clock: HandClock | None = None) -> EmulatedSensor:
    return EmulatedSensor("emmc0", quantity, storage, clock=(clock or HandClock()).now)


def test_all_that_can_be_measured_is(storage: EmulatedStorage) -> None:
    readings = {each.name: each.read() for each in emulated_sensors("emmc0", storage)}
    assert readings == {
        "emmc0.temperature": 55.0,  # the profile's
        "emmc0.voltage": 3.3,
        "emmc0.spare": 100.0,
        "emmc0.life_time_a": pytest.approx(0, abs=0.1),
        "emmc0.life_time_b": pytest.approx(0, abs=0.1),
        "emmc0.life_time_a_code": 1.0,
        "emmc0.life_time_b_code": 1.0,
        "emmc0.pre_eol": 1.0,
        "emmc0.corrected_bits": readings["emmc0.corrected_bits"],  # by chance
    }


@pytest.mark.parametrize("quantity", MEASURES)
def test_each_can_be_set_and_released(quantity: str, storage: EmulatedStorage) -> None:
    told: list[str] = []
    asked = sensor(storage, quantity)
    before = asked.read()
    asked.on_change = told.append
    asked.set(2.5)
    assert asked.read() == asked.read() == 2.5
    asked.release()
    if quantity in ("temperature", "voltage"):
        assert asked.read() == 2.5, "that is what the part has now"
    else:
        assert asked.read() == pytest.approx(before, abs=0.1)
    assert told == [f"emmc0.{quantity}"] * 2
    assert asked.unit == MEASURES[quantity].unit


def test_heat_that_is_set_ages_the_part(storage: EmulatedStorage) -> None:
    def hours() -> float:
        before = storage.chip.counters()["effective_hours"]
        storage.target.age(3600)
        return storage.chip.counters()["effective_hours"] - before

    sensor(storage, "temperature").set(55.0)
    cool = hours()
    sensor(storage, "temperature").set(85.0)
    assert storage.chip.counters()["celsius"] == 85.0
    assert hours() > 15 * cool


def test_percent_and_code_of_a_life_agree_to_its_end() -> None:
    storage = small_part(endurance=30, slc_endurance=60)
    seen: set[int] = set()
    for number in range(30000):
        storage.target.write(number * 7 % 1000 * 8, b"a" * 4096 * 5)
        storage.target.flush()  # a frame, and one unit more, which goes to SLC pages
        for kind in "ab":
            percent = sensor(storage, f"life_time_{kind}").read()
            code = sensor(storage, f"life_time_{kind}_code").read()
            assert code == min(1 + percent // 10, 11), percent
            seen.add(int(code))
        if sensor(storage, "life_time_b").read() > 105:
            break
    assert seen >= set(range(1, 12))


def test_life_follows_what_the_cells_went_through() -> None:
    storage = small_part(endurance=400, slc_endurance=1600)
    for number in range(3000):
        storage.target.write(number * 11 % 1000 * 8, b"a" * 4096 * 5)
        storage.target.flush()
    table = storage.chip.block_table()
    normal, slc = int(table["cycles"].sum()), int(table["slc_cycles"].sum())
    assert min(normal, slc) > 50
    assert sensor(storage, "life_time_b").read() == pytest.approx(100 * (normal / 400 + slc / 1600) / 64)
    assert storage.profile.emmc is not None
    share = storage.profile.emmc.slc_share
    assert sensor(storage, "life_time_a").read() == pytest.approx(100 * slc / (share * 64 * 1600))


def test_spare_blocks_go_down_to_none_and_pre_eol_says_so() -> None:
    storage = small_part()
    seen = {}
    while not storage.target.condition()["read_only"]:
        storage.chip.fail_next("program")
        storage.target.write(80, b"w" * 4096 * 100)
        storage.target.flush()
        seen[sensor(storage, "spare").read()] = sensor(storage, "pre_eol").read()
    step = 100 / RESERVE_BLOCKS
    assert set(seen) <= {step * left for left in range(RESERVE_BLOCKS)}
    assert min(seen) == 0
    assert all(code == (1 if left > 20 else 2 if left > 10 else 3) for left, code in seen.items())


@pytest.mark.parametrize("quantity", ["life_time_a", "life_time_b", "life_time_a_code", "life_time_b_code"])
def test_of_a_part_without_a_rating_no_life_is_told(quantity: str) -> None:
    storage = small_part(endurance=0, slc_endurance=0)
    with pytest.raises(SensorError, match=r"rated|does not tell"):
        sensor(storage, quantity).read()


def test_the_most_that_a_read_needed_is_told_for_an_hour(storage: EmulatedStorage) -> None:
    clock = HandClock()
    asked = sensor(storage, "corrected_bits", clock)
    storage.target.write(0, bytes(range(256)) * 16 * 1024)
    storage.target.flush()
    asked.read()
    clock.turn(4000)
    assert asked.read() == 0.0, "nobody has read since"
    storage.target.age(200 * 86400, 85.0)
    storage.target.read(0, 8192)
    aged = asked.read()
    assert 20 < aged <= 100
    clock.turn(3599)
    assert asked.read() == aged
    clock.turn(2)
    assert asked.read() == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_highest_of_a_while(steps: list[tuple[float, int]]) -> None:
    clock = HandClock(0.0)
    highest = Highest(clock.now, 50.0)
    values: list[tuple[float, int]] = []
    for seconds, value in steps:
        clock.turn(seconds)
        values.append((clock.now(), value))
        assert highest.take(value) == max(each for at, each in values if at > clock.now() - 50.0)
