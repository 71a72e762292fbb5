"""Extents: runs of granules, and which free ones a volume gets.

A granule is what a flash is carved into, an erase group; granules are numbered from 0. A volume's sectors lie in its
extents in their order. Everything here is a pure function of its arguments.

Where one run is enough the first that fits is taken, so that volumes lie at the front and what is free stays together
behind them. Where none is, the longest ones are, which are the fewest: 64 extents are all that a volume may have, so
that the table has an end, and looking a sector up too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from virtflash.volumes.errors import VolumeError

EXTENTS_MOST = 64  # of a volume


@dataclass(frozen=True, order=True)
class Extent:
    """Granules `first` to `first + count`."""

    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count


Extents = tuple[Extent, ...]


def granules_in(extents: Iterable[Extent]) -> int:
    return sum(extent.count for extent in extents)


def misplaced(extents: Iterable[Extent], granules: int) -> str:
    """What is wrong with extents that should lie side by side in so many granules; empty: nothing."""
    end = 0
    for extent in sorted(extents):
        if extent.count <= 0:
            return f"an extent of {extent.count} granules at {extent.first}"
        if extent.first < end:
            return f"granule {extent.first} is taken twice"
        end = extent.end
        if end > granules:
            return f"granules {extent.first} to {end} of {granules}"
    return ""


def free_extents(taken: Iterable[Extent], granules: int) -> Extents:
    """What lies between those that are taken, ascending; they are not misplaced."""
    free, end = [], 0
    for extent in sorted(taken):
        if extent.first > end:
            free.append(Extent(end, extent.first - end))
        end = extent.end
    if end < granules:
        free.append(Extent(end, granules - end))
    return tuple(free)


def joined(extents: Iterable[Extent]) -> Extents:
    """The same granules in the same order, in as few extents as they are."""
    result: list[Extent] = []
    for extent in extents:
        if result and result[-1].end == extent.first:
            result[-1] = Extent(result[-1].first, result[-1].count + extent.count)
        else:
            result.append(extent)
    return tuple(result)


def refuse_shortage(free: Iterable[Extent], count: int) -> None:
    if (there := granules_in(free)) < count:
        raise VolumeError(f"{count} granules: {there} are free; delete a volume, or ask for less")


def allocated(free: Sequence[Extent], count: int, most: int = EXTENTS_MOST) -> Extents:
    """So many granules of those that are free, in at most `most` extents, ascending. VolumeError: there are not."""
    refuse_shortage(free, count)
    for extent in sorted(free):
        if count and extent.count >= count:
            return (Extent(extent.first, count),)
    chosen, missing = [], count
    for extent in sorted(free, key=lambda extent: (-extent.count, extent.first)):
        taken = min(extent.count, missing)
        if taken:
            chosen.append(Extent(extent.first, taken))
            missing -= taken
    if len(chosen) > most:
        raise VolumeError(
            f"{count} granules: they are free, but in {len(chosen)} pieces, and a volume takes {most} more; ask for"
            " less, or delete a volume between them"
        )
    return tuple(sorted(chosen))


def extended(extents: Extents, free: Sequence[Extent], count: int, most: int = EXTENTS_MOST) -> Extents:
    """`extents` and behind them `count` more granules: those that follow the last one, as far as they are free, then as
    `allocated`. VolumeError."""
    refuse_shortage(free, count)
    end = extents[-1].end
    behind = next((min(extent.count, count) for extent in free if extent.first == end), 0)
    if behind:
        extents = (*extents[:-1], Extent(extents[-1].first, extents[-1].count + behind))
    if behind == count:
        return extents
    others = [extent for extent in free if extent.first != end]  # of which a part was left, that is all that is needed
    return joined((*extents, *allocated(others, count - behind, most - len(extents))))


def pieces(extents: Extents, granule_sectors: int, sector: int, sectors: int) -> Iterator[tuple[int, int]]:
    """Where a range of a volume's sectors lies on the flash: its first sector there and their number, in order.

    ValueError: it is not within the extents.
    """
    if min(sector, sectors) < 0 or sector + sectors > granules_in(extents) * granule_sectors:
        raise ValueError(f"{sectors} sectors at {sector}: the extents have {granules_in(extents) * granule_sectors}")
    for extent in extents:
        size = extent.count * granule_sectors
        here = min(size - sector, sectors)
        if here > 0:
            yield extent.first * granule_sectors + sector, here
            sectors -= here
        sector = max(sector - size, 0)
