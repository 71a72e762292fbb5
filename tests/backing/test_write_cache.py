"""The volatile write cache against a dictionary that remembers its order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtflash.backing.cached_units import CachedUnits

UNIT = 512
PLACES = 12
UNITS = st.integers(0, 40)
BUCKETS_BITS = 6  # of a cache with so many places
# Units whose search begins in the last buckets: they collide, and go on at the first one.
COLLIDING = st.sampled_from(
    [unit for unit in range(100, 800) if (unit * 0x9E3779B1 & 0xFFFFFFFF) >> 32 - BUCKETS_BITS >= 62][:12]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), UNITS | COLLIDING, st.integers(0, 255)),
        st.tuples(st.just("drop"), UNITS | COLLIDING, st.just(0)),
        st.tuples(st.just("drop_range"), UNITS, st.integers(0, 30)),
        st.tuples(st.just("take_oldest"), st.integers(1, PLACES), st.just(0)),
    ),
    max_size=120,
)


class Model:
    """What a cache of so many places holds, oldest first."""

    def __init__(self) -> None:
        self.units: dict[int, bytes] = {}

    def step(self, cache: CachedUnits, what: str, unit: int, number: int) -> None:
        if what == "put" and (unit in self.units or not cache.full):
            cache.put(unit, bytes([number]) * UNIT)
            self.units[unit] = bytes([number]) * UNIT
        elif what == "drop":
            assert cache.drop(unit) == (self.units.pop(unit, None) is not None)
        elif what == "drop_range":
            cache.drop_range(unit, number)
            self.units = {at: data for at, data in self.units.items() if not unit <= at < unit + number}
        elif what == "take_oldest":
            for at, data in cache.oldest(unit):
                assert at == next(iter(self.units))
                assert data == self.units.pop(at)
                assert cache.drop(at)


@given(STEPS)
def test_it_is_a_dictionary_in_the_order_of_first_writes(steps: list[tuple[str, int, int]]) -> None:
    cache, model = CachedUnits(UNIT, PLACES), Model()
    for what, unit, number in steps:
        model.step(cache, what, unit, number)
        assert len(cache) == len(model.units)
        assert cache.full == (len(model.units) == PLACES)
        assert cache.oldest(PLACES) == list(model.units.items())
        for other in {unit, *model.units}:
            assert cache.find(other) == model.units.get(other)


def test_a_full_cache_takes_nothing_new_and_still_takes_what_it_has() -> None:
    cache = CachedUnits(UNIT, 2)
    cache.put(1, b"a" * UNIT)
    cache.put(2, b"b" * UNIT)
    with pytest.raises(ValueError, match="no room"):
        cache.put(3, b"c" * UNIT)
    cache.put(1, b"d" * UNIT)
    assert cache.oldest(2) == [(1, b"d" * UNIT), (2, b"b" * UNIT)]


def test_what_was_dropped_stays_in_memory_until_it_is_wiped() -> None:
    cache = CachedUnits(UNIT, 4)
    cache.put(1, b"secret.." * (UNIT // 8))
    cache.put(2, b"wanted.." * (UNIT // 8))
    cache.drop(1)
    assert b"secret" in cache.memory()
    cache.wipe_vacant()
    assert b"secret" not in cache.memory()
    assert cache.find(2) == b"wanted.." * (UNIT // 8)


def test_emptied_it_is_as_new() -> None:
    cache = CachedUnits(UNIT, 4)
    for unit in range(4):
        cache.put(unit, bytes(UNIT))
    cache.empty()
    assert len(cache) == 0
    assert [cache.find(unit) for unit in range(4)] == [None] * 4
    for unit in range(10, 14):
        cache.put(unit, bytes(UNIT))
    assert cache.full
