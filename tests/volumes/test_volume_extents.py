"""Which granules a volume gets: never another's, never beyond the flash, and no others than it is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtflash.volumes.errors import VolumeError
from virtflash.volumes.extents import (
    EXTENTS_MOST,
    Extent,
    Extents,
    allocated,
    extended,
    free_extents,
    granules_in,
    joined,
    misplaced,
    pieces,
)

GRANULES = 200


def listed(extents: Extents | list[Extent]) -> list[int]:
    return [granule for extent in extents for granule in range(extent.first, extent.end)]


def runs(granules: list[int]) -> Extents:
    return joined(Extent(granule, 1) for granule in granules)


taken_sets = st.sets(st.integers(0, GRANULES - 1)).map(lambda taken: runs(sorted(taken)))


@given(taken=taken_sets)
def test_what_is_free_is_what_is_not_taken(taken: Extents) -> None:
    free = free_extents(taken, GRANULES)
    assert sorted(listed(free) + listed(taken)) == list(range(GRANULES))
    assert free == joined(free) == tuple(sorted(free))


@given(taken=taken_sets, count=st.integers(1, GRANULES + 10))
def test_an_allocation_is_free_whole_and_in_as_few_extents_as_can_be(taken: Extents, count: int) -> None:
    free = free_extents(taken, GRANULES)
    sizes = sorted((extent.count for extent in free), reverse=True)
    fewest = next((number for number in range(len(sizes) + 1) if sum(sizes[:number]) >= count), None)
    if fewest is None or fewest > EXTENTS_MOST:
        with pytest.raises(VolumeError, match="granules: "):
            allocated(free, count)
        return
    got = allocated(free, count)
    assert granules_in(got) == count
    assert not misplaced((*got, *taken), GRANULES)
    assert len(got) == fewest
    if fewest == 1:
        assert got[0].first == min(extent.first for extent in free if extent.count >= count)


@given(taken=taken_sets, own=st.data(), count=st.integers(1, GRANULES))
def test_a_growth_keeps_what_was_there_and_its_order(taken: Extents, own: st.DataObject, count: int) -> None:
    free = free_extents(taken, GRANULES)
    if not free:
        return
    order = own.draw(st.lists(st.sampled_from(listed(free)), min_size=1, max_size=30, unique=True))
    volume = runs(order)
    left = free_extents((*taken, *volume), GRANULES)
    try:
        grown = extended(volume, left, count)
    except VolumeError:
        longest = sorted((extent.count for extent in left), reverse=True)[: EXTENTS_MOST - len(volume)]
        assert sum(longest) < count
        return
    assert listed(grown)[: len(order)] == order
    assert granules_in(grown) == len(order) + count
    assert not misplaced((*grown, *taken), GRANULES)
    assert len(grown) <= EXTENTS_MOST


@given(taken=taken_sets, counts=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_freeing_returns_exactly_what_was_given(taken: Extents, counts: list[int]) -> None:
    before, given_out = free_extents(taken, GRANULES), list[Extents]()
    for count in counts:
        try:
            given_out.append(allocated(free_extents((*taken, *(e for got in given_out for e in got)), GRANULES), count))
        except VolumeError:
            break
    for number in range(len(given_out)):
        kept = [extent for got in given_out[number + 1 :] for extent in got]
        free = set(listed(free_extents((*taken, *kept), GRANULES)))
        assert free >= set(listed(given_out[number]))
    assert free_extents(taken, GRANULES) == before


def test_a_volume_grows_in_place_where_it_can() -> None:
    assert extended((Extent(4, 2),), (Extent(0, 4), Extent(6, 10)), 3) == (Extent(4, 5),)
    assert extended((Extent(4, 2),), (Extent(0, 4), Extent(6, 1)), 3) == (Extent(4, 3), Extent(0, 2))


def test_free_space_in_too_many_pieces_is_refused_in_one_line() -> None:
    free = [Extent(2 * number, 1) for number in range(EXTENTS_MOST + 1)]
    assert len(allocated(free, EXTENTS_MOST)) == EXTENTS_MOST
    with pytest.raises(VolumeError, match="in 65 pieces, and a volume takes 64 more"):
        allocated(free, EXTENTS_MOST + 1)
    with pytest.raises(VolumeError, match="65 are free"):
        allocated(free, EXTENTS_MOST + 2)


MISPLACED = {
    "one granule of two": ([Extent(0, 4), Extent(3, 1)], "granule 3 is taken twice"),
    "one in another": ([Extent(5, 5), Extent(6, 1)], "granule 6 is taken twice"),
    "the same twice": ([Extent(5, 5), Extent(5, 5)], "granule 5 is taken twice"),
    "nothing": ([Extent(5, 0)], "an extent of 0 granules"),
    "beyond the end": ([Extent(8, 3)], "granules 8 to 11 of 10"),
    "all of it beyond": ([Extent(0, 1), Extent(4_000_000_000, 1)], "granules 4000000000 to 4000000001 of 10"),
    "side by side": ([Extent(5, 5), Extent(0, 5)], ""),
    "none": ([], ""),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_extents_that_overlap_or_leave_the_flash_are_seen(case: str) -> None:
    extents, problem = MISPLACED[case]
    assert misplaced(extents, 10).startswith(problem)
    assert bool(misplaced(extents, 10)) == bool(problem)


@given(order=st.permutations(range(12)).flatmap(lambda all_: st.integers(1, 12).map(lambda n: all_[:n])), at=st.data())
def test_each_sector_lies_where_its_granule_does(order: list[int], at: st.DataObject) -> None:
    extents, size = runs(order), 8
    first = at.draw(st.integers(0, len(order) * size))
    count = at.draw(st.integers(0, len(order) * size - first))
    expected = [order[sector // size] * size + sector % size for sector in range(first, first + count)]
    found = [start + i for start, here in pieces(extents, size, first, count) for i in range(here)]
    assert found == expected
    with pytest.raises(ValueError, match="the extents have"):
        list(pieces(extents, size, first, len(order) * size - first + 1))
